"""Sparseout forward + backward against nn.Dropout, as ratios of medians taken in turn in one process.

python benchmarks/noise.py [-p 0.1 0.3 0.5] [--beside 2] [--device cuda] [--rounds 15]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import bridgeout_lite as bl

SHAPE = (128, 64, 32, 32)


def naive(q: float, p: float) -> Callable[[Tensor], Tensor]:
    """What one would write first: torch's bernoulli and autograd."""

    def perturb(x: Tensor) -> Tensor:
        mask = torch.empty_like(x).bernoulli_(1 - p)
        return x + x.sign() * (x.abs() + 1e-6).pow(q / 2) * (mask / (1 - p) - 1)

    return perturb


def compare(p: float, rounds: int, device: torch.device) -> None:
    x = torch.randn(SHAPE, device=device).relu()
    upstream = torch.randn_like(x)
    layers: dict[str, Callable[[Tensor], Tensor]] = {"nn.Dropout": nn.Dropout(p)}
    layers |= {f"Sparseout q={q:g}": bl.Sparseout(p, q) for q in (1.0, 1.5, 2.0, 3.0)}
    layers |= {"naive q=1": naive(1.0, p)}
    times: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(rounds + 2):
        for name, layer in layers.items():
            leaf = x.clone().requires_grad_()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            layer(leaf).backward(upstream)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(time.perf_counter() - start)
    base = statistics.median(times["nn.Dropout"][2:])
    print(f"forward + backward at {'x'.join(map(str, SHAPE))} float32 on {device}, p = {p:g}", end=", ")
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, medians of {rounds} rounds")
    for name, values in times.items():
        median = statistics.median(values[2:])
        print(f"  {name:<16} {1e3 * median:8.1f} ms   ratio to nn.Dropout {median / base:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("-p", type=float, nargs="+", default=[0.5])
    parser.add_argument("--beside", type=int, default=0, help="processes that spin meanwhile")
    arguments = parser.parse_args()
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.beside)]
    try:
        for p in arguments.p:
            compare(p, arguments.rounds, bl.pick_device(arguments.device))
    finally:
        for process in spinning:
            process.kill()


if __name__ == "__main__":
    main()
