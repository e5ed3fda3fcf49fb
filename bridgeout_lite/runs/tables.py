"""Records as tables: the runs of a store, those with given settings, and the differences of two stores."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import pandas as pd

from .records import OMITTED_DEFAULTS, Record, Store

COLUMNS = (
    *("key", "dataset", "model", "method", "p", "q", "seed", "epochs"),
    *("valid_accuracy", "test_accuracy", "seconds", "commit"),
)


def runs_table(
    records: Iterable[Record],
    where: Mapping[str, Sequence[Any]] | None = None,
    columns: Sequence[str] = COLUMNS,
    sort: str | None = None,
) -> pd.DataFrame:
    """One row per run.

    Fields are those of spec, metrics and provenance, nested ones with dots ("recipe.lr", "layers.relu5.hoyer"); also
    "key" (the fingerprint) and "epochs" (recipe.epochs). A field that a run does not have is None.

    Args:
        where: allowed values by field; a run without the field is left out.
        columns: fields. sort: field to sort the rows by (default: in the order of the records).

    Raises:
        ValueError: a field that no record has (the message has the nearest), or one that cannot be sorted.
    """
    where = where or {}
    wanted = list(dict.fromkeys([*columns, *where, *([sort] if sort else [])]))
    rows, known = [], {"key", "epochs"}
    for record in records:
        row = fields(record)
        known.update(row)
        if all(row.get(name) in values for name, values in where.items()):
            rows.append({name: row.get(name) for name in wanted})
    if len(known) > 2:  # else there are no records to compare with
        short = sorted(field for field in known if field.count(".") < 2)
        for name in wanted:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"unknown field {name!r}{hint} Fields: {', '.join(short)}")
    table = pd.DataFrame(rows, columns=wanted, dtype=object)
    if sort:
        try:
            table = table.sort_values(sort, kind="stable")
        except TypeError as error:
            raise ValueError(f"the values of {sort!r} have no order: sort by another field") from error
    return table[list(columns)].reset_index(drop=True).convert_dtypes()


def as_text(table: pd.DataFrame) -> str:
    """A table for the screen: one line per row, "-" for missing values."""
    return table.astype(object).where(table.notna(), "-").to_string(index=False)


def fields(record: Record) -> dict[str, Any]:
    """A record's fields by their dotted names, with the defaults that its spec omits."""
    row = {"key": record.key, "epochs": record.spec.get("recipe", {}).get("epochs")}
    for part in (record.provenance, record.metrics, OMITTED_DEFAULTS | record.spec):
        row.update(_flat(part))
    return row


def _flat(part: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def conditions(words: Iterable[str]) -> dict[str, list[Any]]:
    """``where`` of :func:`runs_table` from words such as "recipe.epochs=10", "method=none,dropout" or
    "recipe.milestones=[60, 120]": JSON, else texts.

    Raises:
        ValueError: a word without "=".
    """
    where: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise ValueError(
                f"a condition is FIELD=VALUE, such as recipe.epochs=10 or method=none,dropout; got {word!r}"
            )
        whole = _value(text)
        where[name] = [_value(one) for one in text.split(",")] if isinstance(whole, str) else [whole]
    return where


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def differences(a: Store, b: Store) -> tuple[list[Record], list[Record], pd.DataFrame]:
    """Compare two stores, ignoring record order and provenance.

    Returns:
        The records whose specs are only in ``a``; those only in ``b``; and, for specs in both, one row per metric that
        differs: metric, runs (in how many), and largest, the largest difference relative to the larger of the two, inf
        where values are missing, of different lengths, or not numbers. The values in a list are one metric.
    """
    only_a, found = [], []
    for record in _once(a):
        other = b.find(record.spec)
        if other is None:
            only_a.append(record)
        else:
            worst: dict[str, float] = {}
            for name, gap in _gaps(record.metrics, other.metrics):
                worst[name] = max(gap, worst.get(name, 0.0))
            found += [(name, gap) for name, gap in worst.items() if gap]
    known = a.keys()
    only_b = [record for record in _once(b) if record.key not in known]
    table = pd.DataFrame(found, columns=["metric", "largest"])
    table = table.groupby("metric", sort=False)["largest"].agg(runs="count", largest="max").reset_index()
    return only_a, only_b, table.sort_values("largest", ascending=False, kind="stable", ignore_index=True)


def _once(store: Store) -> Iterator[Record]:
    seen = set()
    for record in store:
        if record.key not in seen:
            seen.add(record.key)
            yield record


def _gaps(x: Any, y: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Name and relative difference of each pair of values."""
    if isinstance(x, dict) and isinstance(y, dict):
        for key in x | y:
            yield from _gaps(x.get(key), y.get(key), f"{name}.{key}" if name else key)
    elif isinstance(x, list) and isinstance(y, list) and len(x) == len(y):
        for one, other in zip(x, y, strict=True):
            yield from _gaps(one, other, name)
    elif x == y:
        yield name, 0.0
    else:
        numbers = isinstance(x, int | float) and isinstance(y, int | float)
        yield name, abs(x - y) / max(abs(x), abs(y)) if numbers else float("inf")
