"""Tokens a second of the language models with Sparseout, against the same models with nn.Dropout in its places.

    OMP_NUM_THREADS=1 python benchmarks/language.py [--rounds 15] [--precision bfloat16]

One training step each (forward, backward, AdamW), in turn, by processor time in one thread: programs that hold the
other cores change it little. Ratios are of the fastest steps, and medians of the ratios in a round.
"""

import argparse
import statistics
import time

import torch
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite.studies.language import build_language_model, cross_entropy, is_noise_place
from bridgeout_lite.training import autocast

VOCABULARY, WIDTH, LENGTH, BATCH = 10_000, 200, 35, 20


def build(name: str, q: float | None, p: float, same_mask: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = build_language_model(name, VOCABULARY, width=WIDTH, context=LENGTH)
    if q is not None:
        return bl.attach_sparseout(model, p, q, shared=0 if same_mask else None, where=is_noise_place)
    for _, module in [(n, m) for n, m in model.named_modules() if is_noise_place(n, m)]:
        module.add_module("dropout", nn.Dropout(p))
        module.register_forward_hook(lambda module, inputs, output: module.dropout(output))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("-p", type=float, default=0.3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokens = torch.randint(VOCABULARY, (LENGTH + 1, BATCH), generator=torch.Generator().manual_seed(0))
    for name in ("lstm", "transformer"):
        models = {"nn.Dropout": build(name, None, arguments.p)}
        models |= {f"Sparseout q={q:g}": build(name, q, arguments.p) for q in (1.0, 1.5, 2.0, 2.5, 3.0)}
        models |= {"q=1.5, one mask": build(name, 1.5, arguments.p, same_mask=True)}
        steps = {label: torch.optim.AdamW(model.parameters()) for label, model in models.items()}
        times: dict[str, list[float]] = {label: [] for label in models}
        for _ in range(arguments.rounds + 2):
            for label, model in models.items():
                start = time.process_time()
                with autocast(torch.device("cpu"), arguments.precision):
                    logits, _ = model(tokens[:-1])
                cross_entropy(logits, tokens[1:]).backward()
                steps[label].step()
                steps[label].zero_grad()
                times[label].append(time.process_time() - start)
        kept = {label: values[2:] for label, values in times.items()}
        base = kept["nn.Dropout"]
        print(f"{name}, {WIDTH} wide, 2 layers, {VOCABULARY} words, {LENGTH} x {BATCH} tokens, {arguments.precision}")
        for label, values in kept.items():
            median = statistics.median(v / b for v, b in zip(values, base, strict=True))
            rate = LENGTH * BATCH / min(values)
            print(f"  {label:<16} {rate:7.0f} tokens/s   ratio of fastest {min(values) / min(base):.2f}", end="")
            print(f"   median ratio {median:.2f}")


if __name__ == "__main__":
    main()
