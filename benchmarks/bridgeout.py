"""A VGG-16 training step with Batch Bridgeout against the same step without, in turn in one process.

    python benchmarks/bridgeout.py [--device cuda] [--precision bfloat16] [--rounds 10] [--cpu-time]

On a busy machine use --cpu-time with OMP_NUM_THREADS=1: it counts the processor's time in place of the clock's.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

import bridgeout_lite as bl
from bridgeout_lite.training import PRECISIONS, autocast, pick_precision


class Step:
    """One training step as fit() makes it, on the same random batch again and again."""

    def __init__(self, noise: dict[str, float] | None, batch: int, device: torch.device, precision: str) -> None:
        torch.manual_seed(0)
        self.device, self.precision = device, precision
        self.x = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
        self.y = torch.randint(0, 10, (batch,), device=device)
        self.model = bl.build_model("vgg16").to(device, memory_format=torch.channels_last)
        if noise is not None:
            bl.attach_bridgeout(self.model, **noise)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def __call__(self) -> None:
        with autocast(self.device, self.precision):
            logits = self.model(self.x)
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), self.y).backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("-p", type=float, default=0.3)
    arguments = parser.parse_args()
    device, p, batch = bl.pick_device(arguments.device), arguments.p, arguments.batch
    precision = pick_precision(arguments.precision, device)
    now = time.process_time if arguments.cpu_time else time.perf_counter
    steps = {"no noise": Step(None, batch, device, precision)}
    steps |= {f"q={q:g}": Step({"p": p, "q": q}, batch, device, precision) for q in (1.0, 1.5, 2.0)}
    targeted = {"p": p, "q": 1.5, "target_fraction": 0.75}
    steps |= {"q=1.5 on 75 %": Step(targeted, batch, device, precision)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(arguments.rounds + 1):
        for name, step in steps.items():
            start = now()
            step()
            if round_:  # the first is for warming up
                times[name].append(now() - start)
    print(f"VGG-16 training step, batch {batch}, {precision} on {device}, p = {p:g}, {torch.get_num_threads()} threads")
    print(f"{'CPU' if arguments.cpu_time else 'wall'} time of {arguments.rounds} rounds, as ratio to no noise")
    plain = times["no noise"]
    for name, values in times.items():
        pairs = statistics.median(v / w for v, w in zip(values, plain, strict=True))
        print(f"  {name:<14} fastest {1e3 * min(values):7.1f} ms   ratio", end=" ")
        print(f"{min(values) / min(plain):.3f}   median of the ratios in a round {pairs:.3f}")


if __name__ == "__main__":
    main()
