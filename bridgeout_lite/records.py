"""What a run is, and the append-only store that keeps runs: one JSON line each.

A spec already recorded is recognised by its :func:`fingerprint`. Appending takes a lock and writes one line in one
call, so several processes may share a store. Records are written by the package and read by figures, never edited.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import platform
import subprocess
import warnings
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        spec: every knob that the result depends on, JSON values only.
        metrics: what was measured: accuracies in %, losses in nats, per-layer sparsity, curves.
        provenance: versions, device, threads, data checksum, start (UTC) and duration in seconds.
    """

    spec: dict[str, Any]
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def key(self) -> str:
        """The fingerprint of the spec."""
        return fingerprint(self.spec)


def fingerprint(spec: dict[str, Any]) -> str:
    """16 hex digits that name a spec, whatever the order of its keys."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rounded(value: Any, digits: int = 6) -> Any:
    """``value`` with every float in it cut to so many significant digits: records stay small and readable."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    return value


class Store:
    """An append-only file of records.

    Args:
        path: the ``.jsonl`` file; it and its folder are created on the first append.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, record: Record) -> None:
        """Add one record, durably, in one write under a lock that other processes respect."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(dataclasses.asdict(record), sort_keys=True, allow_nan=False) + "\n"
        with FileLock(f"{self.path}.lock"), open(self.path, "ab+") as file:
            if file.tell() and not _ends_with_newline(file):
                line = "\n" + line  # a writer died inside its line: leave its stump to itself
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def __iter__(self) -> Iterator[Record]:
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield Record(**json.loads(line))
                except (json.JSONDecodeError, TypeError):
                    warnings.warn(f"{self.path}, line {number}: not a whole record, set aside", stacklevel=2)

    def keys(self) -> set[str]:
        """Fingerprints of all recorded specs."""
        return {record.key for record in self}

    def find(self, spec: dict[str, Any]) -> Record | None:
        """The first record of this spec, or None."""
        key = fingerprint(spec)
        return next((record for record in self if record.key == key), None)

    def select(self, **spec: Any) -> list[Record]:
        """All records whose spec has these values; a collection of values matches any of them."""
        return [record for record in self if all(_matches(record.spec.get(k), v) for k, v in spec.items())]


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _matches(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list | tuple | set) else value == wanted


def provenance(device: str | torch.device, data: str, data_checksum: str) -> dict[str, Any]:
    """Where and with what a run is made; ``started`` is now, in UTC."""
    device = torch.device(device)
    return {
        "package": package_version(),
        **_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "data": data,
        "data_checksum": data_checksum,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def package_version() -> str:
    """Version of the installed package, or "uninstalled"."""
    try:
        return version("bridgeout_lite")
    except PackageNotFoundError:
        return "uninstalled"


@functools.cache
def _commit() -> dict[str, Any]:
    """Commit of the checkout that the package runs from, and whether its code was changed since; None if unknown."""

    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # else the commit would be that of a project around us
        return {
            "commit": git("rev-parse", "HEAD").strip(),
            "dirty": bool(git("status", "--porcelain", "--", ".").strip()),
        }
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def summarise(rows: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean and 95 % Student-t interval of ``value`` in each group: columns ``by``, mean, low, high, n.

    A group of one has no interval: low and high are nan.
    """
    groups = rows.groupby(by, sort=True, dropna=False)[value]
    table = groups.agg(["mean", "sem", "count"]).rename(columns={"count": "n"}).reset_index()
    half = stats.t.ppf(0.975, (table["n"] - 1).clip(lower=1)) * table["sem"]
    table["low"], table["high"] = table["mean"] - half, table["mean"] + half
    return table.drop(columns="sem")
