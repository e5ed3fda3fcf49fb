"""The recorded grids over p, q and seed as tables: one row per run and layer."""

import base64
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ...runs.records import Record
from ..measures import SPARSITY

MODEL = "smallcnn"
"""The network of the grid."""


def one_grid(records: Iterable[Record], model: str) -> list[Record]:
    """The runs of a network without noise and with Sparseout, in the order of p, q and seed. Runs that diverged are
    left out, and of two equal ones the second.

    Raises:
        ValueError: the runs differ in more than method, p, q and seed.
    """
    runs: dict[tuple[float, float, int], Record] = {}
    common: dict[str, Any] = {}
    for record in records:
        spec = record.spec
        if spec.get("model") != model or spec.get("method") not in ("none", "sparseout") or "failed" in record.metrics:
            continue
        own = {k: v for k, v in spec.items() if k not in ("method", "p", "q", "seed")}
        common = common or own
        differ = [k for k in own if own[k] != common.get(k)]
        if differ:
            raise ValueError(f"the records are of several experiments ({', '.join(differ)} differ): give those of one")
        runs.setdefault((spec["p"], spec["q"] if spec["p"] else 0.0, spec["seed"]), record)
    return [runs[key] for key in sorted(runs)]


def layer_rows(record: Record, score: str) -> list[dict[str, Any]]:
    """One row per layer: model, dataset, p, q (0 without noise), seed, valid and test (the ``score``), layer, hoyer,
    gini, zero_fraction and rms."""
    spec, metrics = record.spec, record.metrics
    row = {k: spec[k] for k in ("model", "dataset", "p", "q", "seed")} | ({} if spec["p"] else {"q": 0.0})
    row |= {split: metrics[f"{split}_{score}"] for split in ("valid", "test")}
    return [row | {"layer": name} | {k: layer[k] for k in SPARSITY} for name, layer in metrics["layers"].items()]


def grid(records: Iterable[Record]) -> pd.DataFrame:
    """The runs of the grid's network: one row per run and layer, by p, q and seed.

    Columns: those of :func:`layer_rows`, with accuracies in %; histogram (share of the activations in each bin of
    ``HISTOGRAM_EDGES``); maps, levels 0 to 15 of the feature maps of a few images, and top, the value of level 15 (None
    and 0 where no maps were recorded); seconds of the run, and the checksum of its data.

    Raises:
        ValueError: as :func:`one_grid`.
    """
    return run_rows(one_grid(records, MODEL))


def run_rows(records: Iterable[Record]) -> pd.DataFrame:
    """The rows of these runs, as :func:`grid` has them."""
    rows = []
    for record in records:
        maps = (record.metrics.get("maps") or {"layers": {}})["layers"]
        origin = {"seconds": record.provenance["seconds"], "checksum": record.provenance["data_checksum"]}
        for row in layer_rows(record, "accuracy"):
            name = row["layer"]
            more = {"histogram": record.metrics["layers"][name]["histogram"], "maps": None, "top": 0.0}
            if name in maps:
                levels = np.frombuffer(zlib.decompress(base64.b64decode(maps[name]["levels"])), np.uint8)
                more |= {"maps": levels.reshape(maps[name]["shape"]), "top": maps[name]["top"]}
            rows.append(row | more | origin)
    return pd.DataFrame(rows)
