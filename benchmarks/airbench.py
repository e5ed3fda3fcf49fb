"""Time to a test accuracy on CIFAR-10, by recipes of ours: 94 % on a GPU, beside airbench94; 90 or 92 % on a CPU.

    python benchmarks/airbench.py [--model wrn-16-4] [--epochs 20] [--lr 0.2] [--batch-size 256] [--seeds 5]
    python benchmarks/airbench.py --device cpu [--epochs 10] [--goal 90] [--width 0.5] [--usual]

As there, the recipe is fixed beforehand, the time is that of the whole training with the data already on the device,
and each network is tested once, at its end. On a GPU a first short run, which is not counted, wakes it up. Unlike
there, 500 training images are kept for validation, and a test image is shown once, without augmentation; the accuracy
by six views of it is printed beside.

On a CPU the default is the fast network by the fast recipe (`bridgeout_lite.sweeps.FAST`). ``--usual`` times one epoch
of what a tutorial would train there instead, a CIFAR ResNet in batches of 128. Nobody has published such times.

To search a recipe, several small runs can share one GPU: `bridgeout sweep --jobs`.
"""

import argparse
import dataclasses
import statistics
import time

import torch
from bridgeout_lite.sweeps import FAST

import bridgeout_lite as bl

PUBLISHED = "airbench94: 94.01 % in 3.83 s, compiled 3.09 s, on a 400 W NVIDIA A100, torch 2.4.1 (its README)"


def race(
    model: str, width: float, images: bl.Images, recipe: bl.Recipe, seed: int, graph: bool
) -> tuple[float, float, float]:
    """Seconds of one training, and the test accuracies (%) after it, by one view and by six."""
    device = images.device
    network = bl.build_model(model, width=width, num_classes=images.num_classes, seed=seed).to(device)
    start = time.perf_counter()
    # fit() ends with reading the validation accuracy: by then a GPU has done all its work
    history = bl.fit(network, images, recipe, seed=seed, device=device, progress=False, graph=graph)
    seconds = time.perf_counter() - start
    one, six = (bl.evaluate(network, images, precision=history.precision, views=v)[1] for v in ("one", "shift"))
    return seconds, one, six


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", help="default: wrn-16-4 on a GPU, airnet on a CPU")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--goal", type=float, help="accuracy (%%); default: 94 on a GPU, 90 on a CPU")
    parser.add_argument("--seeds", type=int, help="default: 5 on a GPU, 1 on a CPU")
    parser.add_argument("--usual", action="store_true", help="time an epoch of a tutorial's ResNet, too")
    parser.add_argument("--no-graph", action="store_true", help="start each kernel from Python, without a CUDA graph")
    arguments = parser.parse_args()
    gpu = arguments.device == "cuda"
    if gpu:
        print(f"published: {PUBLISHED}")
        if not torch.cuda.is_available():
            print("not run: no GPU (on a CPU: --device cpu)")
            return
    model = arguments.model or ("wrn-16-4" if gpu else "airnet")
    goal = arguments.goal or (94.0 if gpu else 90.0)
    usual = bl.Recipe(epochs=20, batch_size=256, lr=0.2)
    given = {k: v for k in ("epochs", "lr", "batch_size") if (v := getattr(arguments, k)) is not None}
    recipe = dataclasses.replace(FAST if model == "airnet" else usual, **given)
    images = bl.load_images("cifar10", valid=500, device=arguments.device)
    graph = gpu and not arguments.no_graph
    if gpu:
        race(model, arguments.width, images, dataclasses.replace(recipe, epochs=1), 0, graph)
    seeds = range(arguments.seeds or (5 if gpu else 1))
    times, ones, sixes = zip(
        *(race(model, arguments.width, images, recipe, seed, graph) for seed in seeds), strict=True
    )
    spread = f" (standard deviation {statistics.stdev(ones):.2f})" if len(ones) > 1 else ""
    mean, median = statistics.mean(ones), statistics.median(times)
    where = torch.cuda.get_device_name() if gpu else f"CPU in {torch.get_num_threads()} threads"
    print(
        f"ours: {model} at width {arguments.width:g}, {recipe.epochs} epochs: {mean:.2f} %{spread}, by six views "
        f"{statistics.mean(sixes):.2f} %, in {median:.1f} s (median), {len(ones)} seeds, on one {where}, "
        f"torch {torch.__version__}"
    )
    if mean < goal:
        print(f"the goal of {goal:g} % was missed: this is no time to {goal:g} %")
    if arguments.usual:
        once = dataclasses.replace(bl.Recipe(), epochs=1)
        seconds = race("resnet34c", 1.0, images, once, 0, graph)[0]
        print(
            f"usual: one epoch of resnet34c in batches of 128 takes {seconds:.1f} s, {seconds / median:.2f} of all that"
        )
    if gpu:
        print("The two cards differ: the ratio of the times is no ratio of the programs.")


if __name__ == "__main__":
    main()
