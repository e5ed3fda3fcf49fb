"""What a run is, and the append-only store that keeps runs: one JSON line each.

A spec already recorded is recognised by its :func:`fingerprint`. Appending takes a lock and writes one line in one
call, so several processes may share a store. Records are written by the package and read by figures, never edited.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from .provenance import package_version

# What a spec leaves out at these values: records made before there was such a choice keep their fingerprints.
OMITTED_DEFAULTS: dict[str, Any] = {
    "target_fraction": 1.0,
    "target": "kernels",
    "cut": 0.0,
    "measures": ["activations"],
    "test": None,
    "strength": 0.0,
    "place": "all",
    "matched": False,
}


FORMAT = 1
"""The number of the format in which records are written. Whoever changes what a field of a record means adds one, so
that older packages refuse the new records and do not misread them. Lines without a number are of format 1."""


class NewerFormatError(ValueError):
    """A store holds a record of a format that this package does not know yet."""


class StoreError(OSError):
    """A store cannot be read or written."""


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


def result_folders() -> list[Path]:
    """Where recorded runs are looked for: $BRIDGEOUT_RESULTS, the checkout of the package, the working directory."""
    places = [Path(__file__).parents[2] / "results", Path.cwd() / "results", Path.cwd().parent / "results"]
    if override := os.environ.get("BRIDGEOUT_RESULTS"):
        places.insert(0, Path(override))
    return places


def find_store(name: str) -> Path | None:
    """The file ``NAME.jsonl`` in the first of :func:`result_folders` that has it, or None."""
    return next((path for place in result_folders() if (path := place / f"{name}.jsonl").is_file()), None)


class Store:
    """An append-only file of records.

    What was read is remembered: :meth:`keys`, :meth:`find` and :meth:`append` read and parse only what was added since.
    A line that is not a whole record, such as one whose writer was killed, is reported with its number and set aside.

    Args:
        path: the ``.jsonl`` file; it and its folder are created on the first append.

    Raises:
        NewerFormatError: by whatever reads or writes: a line is a record of a newer format than ``FORMAT``.
        StoreError: the file cannot be read, or not be written. It is as it was before, with both.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._forget()

    def _forget(self) -> None:
        self._places: dict[str, int] = {}  # where the line of the first record of a fingerprint begins
        self._known = (0, 0)  # so many bytes and lines of the file are in _places
        self._file: tuple[int, int] | None = None

    def append(self, record: Record) -> bool:
        """Add one record, durably, in one write under a lock that other processes respect.

        Returns:
            True; False, and nothing is written, if the store has a record of this spec already.

        Raises:
            ValueError, TypeError: the record is not JSON (nan is not).
        """
        line = json.dumps({"format": FORMAT} | dataclasses.asdict(record), sort_keys=True, allow_nan=False) + "\n"
        with self._explained("write", "; nothing was added: name a file that you may write to, on a disk with room"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):
                self._refresh()
                if record.key in self._places:
                    return False
                with open(self.path, "ab+", buffering=0) as file:
                    _append(file, line.encode())
        return True

    def __iter__(self) -> Iterator[Record]:
        for _, _, number, record in self._lines(0, 0):
            if record is not None:
                yield record
            else:
                self._set_aside(number)

    def keys(self) -> set[str]:
        """Fingerprints of all recorded specs."""
        self._refresh()
        return set(self._places)

    def find(self, spec: dict[str, Any]) -> Record | None:
        """The first record of this spec, or None."""
        self._refresh()
        place = self._places.get(fingerprint(spec))
        return None if place is None else next(self._lines(place, 0))[3]

    def select(self, **spec: Any) -> list[Record]:
        """All records whose spec has these values; a collection of values matches any of them."""
        return [record for record in self if all(_matches(record.spec.get(k), v) for k, v in spec.items())]

    def _refresh(self) -> None:
        """Bring ``_places`` up to date."""
        with self._explained("read"):
            status = self.path.stat() if self.path.exists() else None
        if status is None or (status.st_dev, status.st_ino) != self._file or status.st_size < self._known[0]:
            self._forget()  # it is not the file that we know
        if status is not None:
            self._file = status.st_dev, status.st_ino
        for begin, end, number, record in self._lines(*self._known):
            if record is not None:
                self._places.setdefault(record.key, begin)
            elif end is not None:  # else another process may be writing it just now
                self._set_aside(number)
            if end is not None:
                self._known = end, number

    def _set_aside(self, number: int) -> None:
        warnings.warn(f"{self.path}, line {number}: not a whole record, set aside", stacklevel=3)

    def _lines(self, start: int, number: int) -> Iterator[tuple[int, int | None, int, Record | None]]:
        """From byte ``start`` on, each line that is not blank: where it begins; where it ends, None if the newline is
        missing and more may come; its number, if ``number`` is that of the line before; its record, None if it is none.
        """
        with self._explained("read"):
            try:
                file = open(self.path, "rb")  # noqa: SIM115
            except FileNotFoundError:
                return
        with file:
            file.seek(start)
            for line in file:
                number, begin, start = number + 1, start, start + len(line)
                if not line.strip():
                    continue
                try:
                    record = _parse(line)
                except NewerFormatError as error:
                    raise NewerFormatError(f"{self.path}, line {number}: {error}") from None
                except (ValueError, TypeError):
                    record = None
                yield begin, start if line.endswith(b"\n") else None, number, record

    @contextlib.contextmanager
    def _explained(self, verb: str, advice: str = "") -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"cannot {verb} the store {self.path} ({error.strerror or error}){advice}") from error


def _append(file: BinaryIO, line: bytes) -> None:
    """Write a line at the end and wait until it is on the disk; if that fails, take back what was written."""
    size = file.seek(0, os.SEEK_END)
    if size and not _ends_with_newline(file):
        line = b"\n" + line  # a writer died inside its line: leave its stump to itself
    try:
        while line:  # once, unless the disk is full: then the next attempt says so
            line = line[file.write(line) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        raise


def _parse(line: bytes) -> Record:
    """The record of a line; ValueError or TypeError if it is none."""
    fields = _JSON.decode(line.decode())
    if not isinstance(fields, dict):
        raise TypeError("not an object")
    number = fields.pop("format", 1)
    if type(number) is not int or not all(isinstance(value, dict) for value in fields.values()):
        raise TypeError("not the fields of a record")
    if number > FORMAT:
        known = f"bridgeout_lite {package_version()} knows formats up to {FORMAT}"
        raise NewerFormatError(f"a record of format {number}, but {known}: update the package")
    return Record(**fields)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _matches(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list | tuple | set) else value == wanted
