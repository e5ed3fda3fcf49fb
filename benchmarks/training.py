"""Images a second of fit() against the usual loop: DataLoader, per-image transforms, float32. Same network, same data.

    python benchmarks/training.py [--images 10000] [--rounds 3]

Uses CIFAR-10 where it is found, else random images of its size: the speed does not depend on what they show.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

import bridgeout_lite as bl
from bridgeout_lite.data import Images, Split
from bridgeout_lite.tv_compat import import_torchvision


def random_images(count: int) -> Images:
    draws = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        x = torch.randint(0, 256, (n, 3, 32, 32), generator=draws).to(torch.uint8)
        return Split(x, torch.randint(0, 10, (n,), generator=draws))

    names = tuple(map(str, range(10)))
    return Images(
        "random", split(count), split(100), split(100), names, (127.5,) * 3, (73.9,) * 3, "0" * 16, embedded=True
    )


def usual_loop(images: Images) -> float:
    """One epoch as most tutorials write it; returns images a second."""
    import_torchvision()
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

    model = bl.build_model("smallcnn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loader = DataLoader(Pictures(), batch_size=128, shuffle=True, num_workers=2, drop_last=True)
    start = time.perf_counter()
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return len(loader) * 128 / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    try:
        images = bl.load_images("cifar10", train=arguments.images, valid=100, download=False)
    except bl.DataError:
        images = random_images(arguments.images)
    rates: dict[str, list[float]] = {"usual loop": [], "fit, float32": [], "fit, auto precision": []}
    for _ in range(arguments.rounds):
        rates["usual loop"].append(usual_loop(images))
        for name, precision in (("fit, float32", "float32"), ("fit, auto precision", "auto")):
            recipe = bl.Recipe(epochs=1, precision=precision)
            history = bl.fit(bl.build_model("smallcnn"), images, recipe, device="cpu", progress=False)
            rates[name].append(history.last_row["images_per_second"])
    base = statistics.median(rates["usual loop"])
    print(f"small CNN, {images.name}, {arguments.images} images, {torch.get_num_threads()} threads, the CPU, medians")
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"  {name:<20} {rate:8.0f} images/s   ratio to the usual loop {rate / base:5.2f}")


if __name__ == "__main__":
    main()
