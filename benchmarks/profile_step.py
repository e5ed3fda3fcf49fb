"""Where the time of a training step goes, against the least it could take.

    python benchmarks/profile_step.py [--model smallcnn:1 vgg11:0.25] [--precision bfloat16] [--tried]

One CPU thread and processor time, so other programs on the machine disturb little. The floor is what the multiply-adds
alone would take at the best rate that a large matrix product or convolution reaches here: forward once, backward twice
(gradients of the weights and of the inputs). Steps are those of fit(), 128 images; the parts of forward and backward
pass are torch.profiler's shares. Evaluation is the share that 5,000 validation images add to an epoch of 45,000.

With ``--tried``, instead: the step in other ways, as ratios to the way it is.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import bridgeout_lite as bl
from bridgeout_lite.training import _learn, augment, evaluate

BATCH, TRAIN, VALID = 128, 45_000, 5_000

KINDS = {
    "convolution": ("convolution",),
    "BatchNorm": ("batch_norm",),
    "ReLU": ("clamp_min", "threshold_backward"),
    "pooling": ("max_pool2d",),
}
"""The operations of a kind, by parts of their names; the rest is copies, casts, dense layers, loss and Python."""


def seconds(work: Callable[[], object], least: int = 3, budget: float = 1.5) -> float:
    """The median processor time of a call, over at least so many calls and so many seconds."""
    work()
    times: list[float] = []
    while len(times) < least or (sum(times) < budget and len(times) < 50):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def rates(dtype: torch.dtype) -> dict[str, float]:
    """Multiply-adds a second of a matrix product and of a 3x3 convolution, both large."""
    a = torch.randn(2048, 2048).to(dtype)
    x = torch.randn(64, 256, 16, 16).to(dtype, memory_format=torch.channels_last)
    w = torch.randn(256, 256, 3, 3).to(dtype, memory_format=torch.channels_last)
    return {
        "matrix product": 2048**3 / seconds(lambda: a @ a),
        "convolution": 64 * 16**2 * 256 * 256 * 9 / seconds(lambda: torch.conv2d(x, w, padding=1)),
    }


def parts(work: Callable[[], object], calls: int) -> dict[str, float]:
    """The share of each kind of operation in the time of ``work``."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(calls):
            work()
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    return {
        kind: sum(e.self_cpu_time_total for e in events if any(name in e.key for name in names)) / total
        for kind, names in KINDS.items()
    }


def profile(name: str, width: float, precision: str, rate: float, images: bl.data.Images) -> None:
    torch.manual_seed(0)
    model = bl.build_model(name, width=width)
    _, macs = bl.cost.count(model, torch.zeros(1, 3, 32, 32))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = bl.Recipe(precision=precision)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    draws, normalize = torch.Generator().manual_seed(0), images.normalizer("cpu")
    index = torch.randperm(len(images.train), generator=draws)[:BATCH]

    def data() -> torch.Tensor:
        return normalize(augment(images.train.x[index], recipe.flip, recipe.crop, draws))

    x, y = data(), images.train.y[index]

    def learn() -> torch.Tensor:
        return _learn(model, recipe, precision, None, x, y)

    times = {"data": seconds(data), "learn": seconds(learn), "optimizer": seconds(optimizer.step)}
    step = sum(times.values())
    shares = parts(learn, max(2, int(1 / times["learn"])))
    shares = {kind: share * times["learn"] / step for kind, share in shares.items()}
    rest = times["learn"] / step - sum(shares.values())
    tested = seconds(lambda: evaluate(model, images, "valid", precision=precision), least=2) / len(images.valid)
    floor = 3 * macs * BATCH / rate
    cells = [times["data"] / step, *shares.values(), rest, times["optimizer"] / step]
    cells.append(tested * VALID / (step / BATCH * TRAIN))
    row = [
        f"{name}, width {width:g}",
        precision,
        f"{1e3 * step:.1f} ms",
        f"{1e3 * floor:.1f} ms",
        f"{step / floor:.2f}",
    ]
    print(f"| {' | '.join(row + [f'{100 * share:.1f} %' for share in cells])} |", flush=True)


def tried(name: str, width: float, precision: str, images: bl.data.Images) -> None:
    normalize, recipe = images.normalizer("cpu"), bl.Recipe(precision=precision)
    x, y = normalize(images.train.x[:BATCH]), images.train.y[:BATCH]

    def learns(layout: torch.memory_format, change: Callable[[torch.nn.Module], torch.nn.Module]) -> float:
        model = change(bl.build_model(name, width=width).to(memory_format=layout))  # type: ignore[call-overload]
        batch = x.contiguous(memory_format=layout)
        return seconds(lambda: _learn(model, recipe, precision, None, batch, y))

    def optimizes(fused: bool | None) -> float:
        model = bl.build_model(name, width=width)
        _learn(model, recipe, precision, None, x, y)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=fused
        )
        return seconds(optimizer.step)

    def same(model: torch.nn.Module) -> torch.nn.Module:
        return model

    learn, optimize = learns(torch.channels_last, same), optimizes(None)
    others = {
        "channels first": learns(torch.contiguous_format, same) + optimize,
        "torch.compile": learns(torch.channels_last, torch.compile) + optimize,
        "fused SGD": learn + optimizes(True),
    }
    for way, step in others.items():
        print(f"| {name}, width {width:g} | {precision} | {way} | {step / (learn + optimize):.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["smallcnn:1", "vgg11:0.25", "vgg16:1"], help="NAME:WIDTH ...")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--tried", action="store_true")
    arguments = parser.parse_args()
    networks = [(name, float(width or 1)) for name, _, width in (chosen.partition(":") for chosen in arguments.model)]
    torch.set_num_threads(1)
    images = bl.load_images("auto", train=1000, valid=500, test=10)
    if arguments.tried:
        print("| network | precision | another way | times the step as it is |\n|---|---|---|---|")
        for name, width in networks:
            for precision in arguments.precision:
                tried(name, width, precision, images)
        return
    best = {}
    print("| multiply-adds a second | matrix product | convolution |\n|---|---|---|")
    for precision in arguments.precision:
        measured = rates(getattr(torch, precision))
        best[precision] = max(measured.values())
        print(f"| {precision} | {' | '.join(f'{rate / 1e9:.0f} G' for rate in measured.values())} |", flush=True)
    head = ["network", "precision", "step", "floor", "step / floor", "data", *KINDS, "rest", "optimizer", "evaluation"]
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, width in networks:
        for precision in arguments.precision:
            profile(name, width, precision, best[precision], images)


if __name__ == "__main__":
    main()
