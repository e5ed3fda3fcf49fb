"""What the figures over recorded runs share. Such a figure takes a study's table: reading records and choosing among
them is the study's work."""

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import traitlets

from .base import Figure

Table = pd.DataFrame | Iterable[Mapping[str, Any]]
"""A data frame, or what makes one."""


class Recorded(Figure):
    """A figure over a study's table. Its controls follow from what is recorded."""

    controls = traitlets.Dict({}).tag(sync=True)


def slider(label: str, values: Iterable[Any], value: Any) -> dict[str, Any]:
    """A control with one stop per value, and where it starts."""
    return {"label": label, "values": [*values], "value": value}


def menu(label: str, options: Iterable[str], value: str) -> dict[str, Any]:
    """A control with one entry per option, and where it starts."""
    return {"label": label, "options": [*options], "value": value}


def checked_table(
    table: Table, key: Iterable[str], numbers: Iterable[str], source: str, more: Iterable[str] = ()
) -> pd.DataFrame:
    """The table as a data frame, if it can be shown.

    Args:
        key: columns that name a row together. numbers: columns of numbers. more: other columns that must be there.
        source: what makes such a table.

    Raises:
        ValueError: the table has no row, lacks a column, has a row twice or a number that is not finite.
    """
    frame = pd.DataFrame(table if isinstance(table, pd.DataFrame) else list(table))
    key, numbers = [*key], [*numbers]
    missing = [name for name in dict.fromkeys((*key, *more, *numbers)) if name not in frame.columns]
    if missing or not len(frame):
        what = f"no column {', '.join(missing)}" if missing else "no row"
        raise ValueError(f"the table has {what}: give {source}")

    def first(rows: pd.DataFrame) -> str:
        return ", ".join(str(rows.iloc[0][name]) for name in key)

    for name in numbers:
        wrong = frame[~np.isfinite(pd.to_numeric(frame[name], errors="coerce").astype(float))]
        if len(wrong):
            raise ValueError(f"{name} is not a finite number at {first(wrong)}: leave the run out, or rerun it")
    twice = frame[frame.duplicated(key)]
    if len(twice):
        raise ValueError(f"two rows are of one run ({first(twice)}): give each once")
    return frame


RUN = ("p", "q", "seed")
"""What names a run of a grid."""


def runs_by_layer(table: Table, numbers: Iterable[str], source: str) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """A grid with one row per run and layer: the rows by p, q and seed; the first row of each run; the layers.

    Raises:
        ValueError: as :func:`checked_table`; no run is with noise; a run has other layers than the rest.
    """
    rows = checked_table(table, (*RUN, "layer"), numbers, source)
    if not (rows["p"] > 0).any():
        raise ValueError(f"the table has no run with noise (p > 0): give {source}")
    rows = rows.sort_values([*RUN], kind="stable", ignore_index=True)
    layers = list(dict.fromkeys(rows["layer"]))
    for (p, q, seed), own in rows.groupby([*RUN])["layer"]:
        if list(own) != layers:
            raise ValueError(
                f"the run with p = {p:g}, q = {q:g}, seed {seed} has the layers {', '.join(own)} and not "
                f"{', '.join(layers)}: leave it out, or rerun it"
            )
    return rows, rows.iloc[:: len(layers)].reset_index(drop=True), layers


def squeezed(data: Any) -> bytes:
    """JSON values as the page unpacks them."""
    return zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)


class Setting(NamedTuple):
    """A method and its strength, as the controls of a figure have them."""

    method: str
    p: float
    q: float
    target: str


def nearest(settings: Iterable[Setting], wanted: Setting, moved: str) -> Setting:
    """The recorded setting to go to when a reader moves one control and ``wanted`` is not recorded: the method stays if
    it can, then what was ``moved``; among those the nearest in log p and q, then that of the same target."""

    def distance(there: Setting) -> tuple[bool, bool, float, bool]:
        stayed = getattr(there, moved, None) == getattr(wanted, moved, None)
        far = abs(math.log((there.p + 1e-3) / (wanted.p + 1e-3))) + abs(there.q - wanted.q)
        return there.method != wanted.method, not stayed, far, there.target != wanted.target

    return min(settings, key=distance)
