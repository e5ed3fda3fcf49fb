"""Records of runs, and the append-only store that keeps them: one JSON line per run.

A spec is recognised by its :func:`fingerprint`. Appending takes a lock and writes one line in one call, so several
processes may share a store. Records are never edited.
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

# Fields added after the first records were made. A spec omits them at these defaults, so that older fingerprints stay
# valid.
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
"""The format of the records that this package writes, to be raised when the meaning of a field changes: older packages
then refuse new records instead of misreading them. Lines without a number have format 1."""


class NewerFormatError(ValueError):
    """A store has a record of a newer format than this package knows."""


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
    """16 hex digits that identify a spec, in any order of its keys."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rounded(value: Any, digits: int = 6) -> Any:
    """``value`` with every float in it rounded to ``digits`` significant ones, to keep records small and readable."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    return value


def result_folders() -> list[Path]:
    """Where to look for recorded runs: $BRIDGEOUT_RESULTS, the checkout of the package, the working directory."""
    places = [Path(__file__).parents[2] / "results", Path.cwd() / "results", Path.cwd().parent / "results"]
    if override := os.environ.get("BRIDGEOUT_RESULTS"):
        places.insert(0, Path(override))
    return places


def find_store(name: str) -> Path | None:
    """The file ``NAME.jsonl`` in the first of :func:`result_folders` that has it, or None."""
    return next((path for place in result_folders() if (path := place / f"{name}.jsonl").is_file()), None)


class Store:
    """An append-only file of records.

    :meth:`keys`, :meth:`find` and :meth:`append` read and parse only what was added since they were last called. A line
    that is not a whole record, such as one whose writer was killed, is reported with its number and skipped. The
    ``.jsonl`` file and its folder are created on the first append.

    Raises:
        NewerFormatError: on reading or writing: a line is a record of a newer format than ``FORMAT``.
        StoreError: the file cannot be read or written. With both errors it is left as it was.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._forget()

    def _forget(self) -> None:
        self._places: dict[str, int] = {}  # where the line of the first record of a fingerprint begins
        self._known = (0, 0)  # bytes and lines of the file that _places covers
        self._file: tuple[int, int] | None = None

    def append(self, record: Record) -> bool:
        """Add one record, durably, in one write under a lock that other processes respect.

        Returns:
            True; False, without writing, if the store already has a record of this spec.

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
        wanted = {k: v if isinstance(v, list | tuple | set) else (v,) for k, v in spec.items()}
        return [record for record in self if all(record.spec.get(k) in values for k, values in wanted.items())]

    def _refresh(self) -> None:
        """Bring ``_places`` up to date."""
        with self._explained("read"):
            status = self.path.stat() if self.path.exists() else None
        if status is None or (status.st_dev, status.st_ino) != self._file or status.st_size < self._known[0]:
            self._forget()  # it is another file
        if status is not None:
            self._file = status.st_dev, status.st_ino
        for begin, end, number, record in self._lines(*self._known):
            if record is not None:
                self._places.setdefault(record.key, begin)
            elif end is not None:  # else another process may be writing it
                self._set_aside(number)
            if end is not None:
                self._known = end, number

    def _set_aside(self, number: int) -> None:
        warnings.warn(f"{self.path}, line {number}: not a whole record, set aside", stacklevel=3)

    def _lines(self, start: int, number: int) -> Iterator[tuple[int, int | None, int, Record | None]]:
        """Each line from byte ``start`` on that is not blank: where it begins; where it ends (None without a newline,
        as more may come); its number, where ``number`` is that of the line before; its record, or None."""
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
        except (OSError, NotImplementedError) as error:  # a lock that the file system lacks may be the latter
            reason = getattr(error, "strerror", None) or error
            raise StoreError(f"cannot {verb} the store {self.path} ({reason}){advice}") from error


def _append(file: BinaryIO, line: bytes) -> None:
    """Write a line at the end and wait until it is on the disk; if that fails, remove what was written."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if size and file.read(1) != b"\n":
        line = b"\n" + line  # after the rest of a line whose writer died
    try:
        while line:  # once, unless the disk is full: then the second attempt raises
            line = line[file.write(line) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        raise


def _parse(line: bytes) -> Record:
    """The record of a line; ValueError or TypeError if there is none."""
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
