"""The networks and the images of the figure of live surgery: how they are made, and what the page is compared with.

    python book/surgery_networks.py [FOLDER]

trains each network of ``EXPERIMENTS`` on CIFAR-10 (three minutes each on one core), stores its weights in 8 bits,
prunes it in every way that the figure has, and writes a file per network, one of images, one of answers, and
``index.json`` with specs, provenance, indices and checksums; by default where the package keeps them.
"""

import copy
import functools
import hashlib
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bridgeout_lite.cost import count
from bridgeout_lite.data import Images, Split
from bridgeout_lite.layers import detach_bridgeout, detach_sparseout
from bridgeout_lite.models import build_model
from bridgeout_lite.modules import evaluating
from bridgeout_lite.pruning import prune, recalibrate_batchnorm, remove_filters
from bridgeout_lite.runs.provenance import provenance
from bridgeout_lite.sparsity import filter_norms
from bridgeout_lite.studies.images import Experiment
from bridgeout_lite.training import Recipe, augment, evaluate, fit
from bridgeout_lite.widgets.surgery import AMOUNTS, COLUMNS, HOME, NETWORKS, STORED, TEST, stored_index

MODEL = "smallcnn"
BATCHES, BATCH = 4, 32
"""Batches of training images for recalibration, and how many each has."""


def _experiment(method: str, p: float, q: float, target_fraction: float) -> Experiment:
    strength: dict[str, Any] = {"method": method, "p": p, "q": q, "target_fraction": target_fraction}
    return Experiment(model=MODEL, recipe=Recipe(epochs=10), measures=(), **strength)


STRENGTHS = (("none", 0.0, 2.0, 1.0), ("dropout", 0.05, 2.0, 1.0), ("bridgeout", 0.3, 1.5, 0.75))
EXPERIMENTS = {name: _experiment(*strength) for name, strength in zip(NETWORKS, STRENGTHS, strict=True)}
"""The recipe of the recorded pruning comparison, and each method's strength that it chose for zeroed filters."""


# --- weights in 8 bits ------------------------------------------------------------------------------------------------


def pack(state: Mapping[str, Tensor]) -> tuple[bytes, list[list[Any]]]:
    """Weights in 8 bits: for each output channel a scale, and integers from -127 to 127. The scales and all that is no
    matrix come first, as float32; then the integers. With it a name and a shape per tensor, in their order."""
    floats, integers, layout = [], [], []
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        layout.append([name, [*value.shape]])
        if value.dim() > 1:
            scale = value.abs().flatten(1).amax(1).clamp_min(1e-30) / 127
            integers.append((value / scale.view(-1, *[1] * (value.dim() - 1))).round().to(torch.int8).numpy().tobytes())
            value = scale
        floats.append(value.contiguous().numpy().astype("<f4").tobytes())
    return b"".join(floats + integers), layout


def unpack(stored: bytes, layout: list[list[Any]]) -> dict[str, Tensor]:
    """The state that :func:`pack` stored, up to the rounding to 8 bits."""
    sizes = [shape[0] for _, shape in layout]
    floats = torch.from_numpy(np.frombuffer(stored, "<f4", sum(sizes)).astype(np.float32)).split(sizes)
    at, state = 4 * sum(sizes), {}
    for (name, shape), value in zip(layout, floats, strict=True):
        if len(shape) > 1:
            integers = np.frombuffer(stored, np.int8, int(np.prod(shape)), at).reshape(shape)
            at += integers.size
            value = torch.from_numpy(integers.astype(np.float32)) * value.view(-1, *[1] * (len(shape) - 1))
        state[name] = value
    return state


# --- what is stored ---------------------------------------------------------------------------------------------------


def network(name: str) -> nn.Module:
    """A stored network, in evaluation mode."""
    model = build_model(MODEL)
    stored = (HOME / stored_index()["networks"][name]["file"]).read_bytes()
    model.load_state_dict(unpack(stored, stored_index()["layout"]), strict=False)
    return model.eval()


@functools.cache
def images() -> Images:
    """The page's images. Recalibration with ``BATCHES`` batches of ``BATCH``, without augmentation (they are augmented
    already), takes the training images in the order in which they are stored, as the page does."""
    from PIL import Image

    about = stored_index()["images"]
    pixels = np.asarray(Image.open(HOME / about["file"]).convert("RGB")).reshape(-1, 32, COLUMNS, 32, 3)
    x = torch.from_numpy(pixels.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32).copy())
    again = torch.empty_like(x[TEST:])
    again[torch.randperm(len(again), generator=torch.Generator().manual_seed(0))] = x[TEST:]
    test = Split(x[:TEST], torch.tensor([*map(int, about["labels"])]))
    train = Split(again, torch.zeros(len(again), dtype=torch.long))
    mean, std = tuple(about["mean"]), tuple(about["std"])
    classes = tuple(about["classes"])
    return Images(about["data"], train, Split(x[:0], test.y[:0]), test, classes, mean, std, about["sha256"][:16], False)


def operate(model: nn.Module, treatment: str, amount: float, shown: Images, **recalibration: Any) -> nn.Module:
    """A copy of a network, pruned as the figure does it; ``recalibration`` says how its images are augmented."""
    example = shown.normalize(shown.test.x[:2])
    if treatment.startswith("removed"):
        pruned = remove_filters(model, amount, example)
    else:
        pruned = prune(copy.deepcopy(model), amount, silence=treatment == "silenced", example_input=example)
    if treatment.endswith("recalibrated"):
        recalibrate_batchnorm(pruned, shown, BATCHES, batch_size=BATCH, **recalibration)
    return pruned


@torch.no_grad()
def answers(model: nn.Module, shown: Images) -> NDArray[np.uint8]:
    """The class that a network says of each of the page's test images."""
    with evaluating(model):
        return np.concatenate(
            [model(shown.normalize(x)).argmax(1).numpy().astype(np.uint8) for x in shown.test.x[:TEST].split(128)]
        )


# --- making them ------------------------------------------------------------------------------------------------------


def drawn(data: Images) -> tuple[Tensor, list[int]]:
    """The first test images, then the batches that ``recalibrate_batchnorm`` draws and augments, and the places of the
    latter in the training split."""
    draws = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.train), generator=draws)[: BATCHES * BATCH]
    parts = [augment(data.train.x[part], True, Recipe.crop, draws) for part in order.split(BATCH)]
    return torch.cat([data.test.x[:TEST], *parts]), order.tolist()


def picture(x: Tensor) -> bytes:
    """Images side by side in one lossless WebP."""
    from PIL import Image

    rows, buffer = x.view(-1, COLUMNS, 3, 32, 32).permute(0, 3, 1, 4, 2).reshape(-1, COLUMNS * 32, 3), io.BytesIO()
    Image.fromarray(rows.numpy()).save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return buffer.getvalue()


def train(experiment: Experiment, data: Images, checkpoint: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network, and the provenance of its run; one that was interrupted goes on from its ``checkpoint``."""
    torch.set_num_threads(1)
    origin = provenance("cpu", data.name, data.checksum)
    model = experiment.attach(experiment.build(data))
    history = fit(model, data, experiment.recipe, seed=experiment.seed, device="cpu", checkpoint=checkpoint)
    detach_bridgeout(detach_sparseout(model))
    seconds = history.frame["seconds"].sum()
    return model.eval(), origin | {"precision": history.precision, "seconds": round(float(seconds), 1)}


def make(folder: Path = HOME) -> None:
    """Write all files. Weights are trained anew unless checkpoints of these runs lie in ``folder``."""
    data = next(iter(EXPERIMENTS.values())).load()
    folder.mkdir(exist_ok=True)
    files: dict[str, bytes] = {}
    x, places = drawn(data)
    files["images.webp"] = picture(x)
    networks: dict[str, dict[str, Any]] = {}
    said = []
    example = data.normalize(data.test.x[:2])
    for name, experiment in EXPERIMENTS.items():
        file = f"{experiment.method}.bin"
        model, origin = train(experiment, data, folder / f"{experiment.method}.pt")
        trained = evaluate(model, data)[1]
        files[file], layout = pack(model.state_dict())
        model.load_state_dict(unpack(files[file], layout), strict=False)
        for treatment in STORED:
            for amount in AMOUNTS:
                said.append(answers(operate(model, treatment, amount, data), data))
        norms = [filter_norms(m.weight.detach().double()) for m in model.modules() if isinstance(m, nn.Conv2d)]
        networks[name] = {
            "file": file,
            "accuracy": {"trained": trained, "in 8 bits": evaluate(model, data)[1]},
            "norms": [[float(f"{v:.3g}") for v in layer] for layer in norms],
            "order": [layer.argsort(stable=True).tolist() for layer in norms],
            "spec": experiment.spec,
            "provenance": origin,
        }
        costs = [count(remove_filters(model, amount, example), example[:1]) for amount in AMOUNTS]
    codes = np.stack(said)
    files["answers.bin"] = (codes[:, ::2] << 4 | codes[:, 1::2]).tobytes()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    about = {
        "images": {
            "file": "images.webp",
            "sha256": sums["images.webp"],
            "data": data.name,
            "data_checksum": data.checksum,
            "test": f"the first {TEST} of the test set",
            "train": places,
            "labels": "".join(map(str, data.test.y[:TEST].tolist())),
            **{name: [*getattr(data, name)] for name in ("classes", "mean", "std")},
        },
        "answers": {"file": "answers.bin", "sha256": sums["answers.bin"]},
        "costs": [[parameters, macs] for parameters, macs in costs],
        "layout": layout,
        "networks": {name: {**one, "sha256": sums[one["file"]]} for name, one in networks.items()},
    }
    (folder / "index.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HOME)
