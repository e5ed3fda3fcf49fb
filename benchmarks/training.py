"""fit() against the usual loop: DataLoader with two workers, torchvision transforms, float32. Same network, same data.

    python benchmarks/training.py [--model smallcnn] [--clock cpu] [--device cuda] [--rounds 3]

Times an epoch each, in turn in one process: for fit() the whole call. ``--clock cpu`` adds up processor time over all
threads and over the loader's worker processes, which other programs on the machine disturb little; ``--clock wall`` is
the clock's time and needs an idle machine. Processor time says nothing about a GPU.

Uses CIFAR-10 where it is found, else random images of its size: the speed does not depend on what they show.
"""

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

import bridgeout_lite as bl
from bridgeout_lite.data import Images, Split
from bridgeout_lite.training import pick_precision
from bridgeout_lite.tv_compat import import_torchvision

BATCH, WORKERS = 128, 2
STEPS = {"smallcnn": 78, "vgg16": 4}
"""Steps of an epoch on a CPU; on a GPU 300."""


def random_images(count: int) -> Images:
    draws = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        x = torch.randint(0, 256, (n, 3, 32, 32), generator=draws).to(torch.uint8)
        return Split(x, torch.randint(0, 10, (n,), generator=draws))

    names = tuple(map(str, range(10)))
    return Images(
        "random", split(count), split(10), split(10), names, (127.5,) * 3, (73.9,) * 3, "0" * 16, embedded=True
    )


def usual_loop(images: Images, name: str, device: torch.device) -> None:
    """One epoch as most tutorials write it."""
    from PIL import Image
    from torchvision import transforms

    class Pictures(Dataset):
        change = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([m / 255 for m in images.mean], [s / 255 for s in images.std]),
            ]
        )
        pixels = images.train.x.permute(0, 2, 3, 1).numpy()

        def __len__(self) -> int:
            return len(images.train)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.change(Image.fromarray(self.pixels[index])), int(images.train.y[index])

    model = bl.build_model(name).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loader = DataLoader(Pictures(), batch_size=BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def used() -> float:
    """Processor seconds of this process and of those of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def first(images: Images, count: int) -> Images:
    return dataclasses.replace(images, train=Split(images.train.x[:count], images.train.y[:count]))


def compare(name: str, images: Images, device: torch.device, clock: Callable[[], float], rounds: int) -> None:
    def ours(images: Images, precision: str, graph: bool = False) -> None:
        recipe = bl.Recipe(epochs=1, batch_size=BATCH, precision=precision)
        bl.fit(bl.build_model(name), images, recipe, device=device, progress=False, graph=graph)

    fast = pick_precision("auto", device)
    kinds: dict[str, Callable[[Images], None]] = {
        "usual loop, float32": partial(usual_loop, name=name, device=device),
        "fit, float32": partial(ours, precision="float32"),
    }
    if fast != "float32":
        kinds[f"fit, {fast}"] = partial(ours, precision=fast)
    if device.type == "cuda":
        kinds[f"fit, {fast}, CUDA graph"] = partial(ours, precision=fast, graph=True)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for work in kinds.values():  # to warm up
        work(first(images, BATCH))
    for _ in range(rounds):
        for kind, work in kinds.items():
            start = clock()
            work(images)
            times[kind].append(clock() - start)
    for kind, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["usual loop, float32"], values, strict=True))
        rate = len(images.train) // BATCH * BATCH / statistics.median(values)
        print(f"| {name} | {kind} | {rate:.0f} | {ratio:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["smallcnn", "vgg16"], choices=["smallcnn", "vgg16"])
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = bl.pick_device(arguments.device)
    import_torchvision()
    most = BATCH * (300 if device.type == "cuda" else max(STEPS.values()))
    try:
        images = bl.load_images("cifar10", train=most, valid=10, test=10, download=False)
    except bl.DataError:
        images = random_images(most)
    clock, unit = {"wall": (time.perf_counter, "second"), "cpu": (used, "processor second")}[arguments.clock]
    print(f"{images.name}, device {device}, {torch.get_num_threads()} threads, medians of {arguments.rounds} rounds\n")
    print(f"| network | loop | images a {unit} | times as fast as the usual loop |")
    print("|---|---|---|---|")
    for name in arguments.model:
        count = most if device.type == "cuda" else STEPS[name] * BATCH
        compare(name, first(images, count), device, clock, arguments.rounds)


if __name__ == "__main__":
    main()
