"""Running many experiments: recorded ones are skipped, interrupted ones resumed, and nothing is done twice.

Three things make a sweep safe to kill and to share. A run keeps a checkpoint of its last epoch beside the store until
it is recorded. A process that works on a run holds a lock of the operating system on that run's name, which vanishes
with the process, however it dies. And the store refuses a second record of the same spec.
"""

import contextlib
import dataclasses
import functools
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import joblib
import pandas as pd
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..checks import check_positive, check_whole
from ..data import DataError
from ..training import pick_device
from .provenance import provenance
from .records import Record, Store, fingerprint

# Seconds to wait for a Dask scheduler, and for its first worker.
PATIENCE = 10.0


class Runnable(Protocol):
    """An experiment that a sweep can run, such as :class:`bridgeout_lite.Experiment`."""

    @property
    def spec(self) -> dict[str, Any]:
        """The experiment as JSON values, with at least dataset, method and seed."""
        ...

    def run(
        self,
        *,
        device: str | torch.device = "auto",
        checkpoint: str | Path | None = None,
        progress: bool = True,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> Record:
        """Train and measure; ``on_epoch`` is called after each epoch's checkpoint is written."""
        ...


class OutOfTime(Exception):
    """A sweep's budget is spent; unfinished runs have their checkpoints."""


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """The end of one experiment in one call: "recorded", "diverged", "elsewhere", "out of time" or "failed"."""

    key: str
    state: str
    message: str = ""
    record: Record | None = None  # from a cluster, to be appended by the caller


@dataclasses.dataclass(frozen=True)
class _Task:
    """How to make each run of a sweep; sent to other processes.

    Attributes:
        path: the store's file.
        end: when the budget ends, in seconds since the epoch; infinite without one.
        show: "bar", "lines" (one per epoch) or "nothing".
    """

    path: Path
    device: str | torch.device
    end: float
    show: str

    @property
    def folder(self) -> Path:
        """Where checkpoints and locks are kept."""
        return self.path.parent / ".checkpoints"

    def checkpoint(self, key: str) -> Path:
        """The checkpoint of one run."""
        return self.folder / f"{key}.pt"

    def keep(self, outcome: _Outcome, store: Store) -> _Outcome:
        """Append the record of a run; its checkpoint has done its work."""
        if outcome.record is not None:
            store.append(outcome.record)
            self.checkpoint(outcome.key).unlink(missing_ok=True)
        return dataclasses.replace(outcome, record=None)

    def attempt(self, experiment: Runnable) -> _Outcome:
        """Make one run, from its checkpoint if there is one, within the budget."""
        spec, began, longest = experiment.spec, time.time(), 0.0
        key = fingerprint(spec)

        def after_epoch(row: dict[str, float]) -> None:
            nonlocal began, longest
            now = time.time()
            longest, began = max(longest, now - began), now
            if self.show == "lines":
                watched = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k.startswith("valid"))
                print(f"{_label(spec)}: epoch {row['epoch']:g}, {watched}", file=sys.stderr, flush=True)
            if self.end - now < longest:  # another epoch would end too late
                raise OutOfTime

        try:
            with _alarm(self.end):
                record = experiment.run(
                    device=self.device,
                    checkpoint=self.checkpoint(key) if self.folder.is_dir() else None,  # a cluster may not share it
                    progress=self.show == "bar",
                    on_epoch=after_epoch,
                )
        except OutOfTime:
            return _Outcome(key, "out of time")
        except FloatingPointError as error:
            origin = provenance(pick_device(self.device), str(spec["dataset"]), "")
            return _Outcome(key, "diverged", str(error), Record(spec, {"failed": str(error)}, origin))
        except DataError:
            raise  # the others would fail too
        except (RuntimeError, ValueError, MemoryError) as error:
            return _Outcome(key, "failed", f"{_label(spec)}: {error or type(error).__name__}")
        return _Outcome(key, "recorded", record=record)


def sweep(
    experiments: Iterable[Runnable],
    store: Store | str | Path,
    *,
    backend: str = "local",
    device: str | torch.device = "auto",
    jobs: int = 1,
    budget: float | None = None,
    progress: bool = True,
) -> list[Record]:
    """Run the experiments without a record, append theirs to ``store``, and return the records of all in order.

    A killed sweep loses at most one epoch of each run in progress; the same call resumes it. Several sweeps may share
    one store, on one machine or on several with one file system: none runs what another is running. A run that diverges
    is recorded too, with the single metric ``failed``, the message.

    Args:
        experiments: see :class:`Runnable`. store: a store or its path.
        backend: "local", or the address of a Dask scheduler ("tcp://host:port") whose workers make the runs; the
            records are appended by this process. Workers that see the store's folder keep checkpoints in it.
        device: of every run, see :func:`bridgeout_lite.training.pick_device`.
        jobs: local runs at once, each in a process of its own. They share the cores, or the GPU's memory.
        budget: seconds after which to stop, at the end of an epoch where possible (default: no limit).
        progress: show a bar over the runs and, with one local job, one inside each; with more, one line per epoch.

    Raises:
        ValueError: an unknown backend or device, fewer than one job, a budget of zero, or the data set "auto".
        OSError: the store cannot be written (checked before training starts), or no scheduler answers.
        ImportError: a scheduler is named and Dask is not installed.
        DataError: a data set is missing.
        RuntimeError: a run failed other than by divergence; raised after all others are done.
    """
    if backend != "local" and "://" not in backend:
        raise ValueError(f"backend must be 'local' or a scheduler's address such as 'tcp://host:8786', got {backend!r}")
    check_whole(jobs, "jobs")
    if budget is not None:
        check_positive(budget, "budget", zero=False)
    store = store if isinstance(store, Store) else Store(store)
    wanted = {fingerprint(e.spec): e for e in experiments}
    if any(e.spec["dataset"] == "auto" for e in wanted.values()):  # its records could not be found again
        raise ValueError("a sweep names its data set: use 'cifar10', 'cifar100' or 'digits' in place of 'auto'")
    known = store.keys()
    todo = {key: e for key, e in wanted.items() if key not in known}
    if todo:
        if backend == "local":
            pick_device(device)
        hidden = not progress or bool(os.environ.get("TQDM_DISABLE"))
        show = "nothing" if hidden or backend != "local" else "bar" if jobs == 1 else "lines"
        end = float("inf") if budget is None else time.time() + budget
        task = _Task(store.path.absolute(), device, end, show)
        _prepare(task)
        with contextlib.ExitStack() as stack:
            if backend != "local":
                outcomes = _on_cluster(stack.enter_context(_client(backend)), task, todo, store)
            elif jobs == 1:
                outcomes = (_locally(task, e) for e in todo.values())
            else:
                threads = max(1, joblib.cpu_count() // jobs)
                stack.enter_context(joblib.parallel_config("loky", inner_max_num_threads=threads))
                pool = joblib.Parallel(jobs, return_as="generator_unordered", pre_dispatch=jobs, batch_size=1)
                outcomes = pool(joblib.delayed(_locally)(task, e) for e in todo.values())
            done = list(tqdm(outcomes, total=len(todo), disable=hidden, unit="run", leave=False))
        _say(done)
    found = {record.key: record for record in store}
    return [found[key] for key in wanted if key in found]


def with_seeds(experiments: Iterable[Any], count: int) -> list[Any]:
    """Every setting among ``experiments`` (dataclasses with a field ``seed``) with the seeds 0 to ``count`` - 1, seed
    by seed, so that an interrupted sweep has complete rounds."""
    check_whole(count, "seeds")
    settings = list(dict.fromkeys(dataclasses.replace(e, seed=0) for e in experiments))
    return [dataclasses.replace(e, seed=seed) for seed in range(count) for e in settings]


def parse_budget(text: str) -> float:
    """Seconds of a time such as "90s", "25m" or "1h30m".

    Raises:
        ValueError: not such a time, or not above zero.
    """
    try:  # pandas would read a bare number as nanoseconds
        seconds = pd.Timedelta(text).total_seconds() if re.search("[hms]", text) else 0.0
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"budget must be a time above zero such as 90s, 25m or 1h30m, got {text!r}")
    return seconds


def _locally(task: _Task, experiment: Runnable) -> _Outcome:
    """One run in this process, unless another process works on it or has recorded it."""
    key, store = fingerprint(experiment.spec), _store(task.path)
    if time.time() >= task.end:
        return _Outcome(key, "out of time")
    claim = FileLock(task.folder / f"{key}.lock")
    try:
        with claim.acquire(blocking=False):
            known = store.keys()
            if key in known:
                return _Outcome(key, "recorded")
            outcome = task.keep(task.attempt(experiment), store)
            if outcome.state != "out of time":  # a process that still waits for the deleted file will find the record
                Path(claim.lock_file).unlink(missing_ok=True)
            return outcome
    except Timeout:
        return _Outcome(key, "elsewhere")


@functools.cache
def _store(path: Path) -> Store:
    return Store(path)  # one per process, as it remembers what it has read


def _on_cluster(client: Any, task: _Task, todo: dict[str, Runnable], store: Store) -> Iterator[_Outcome]:
    """All runs as tasks of a Dask cluster, whose scheduler gives the task of a dead worker to another."""
    from distributed import as_completed
    from distributed.client import TimeoutError as DaskTimeout  # type: ignore[attr-defined]

    # on Python 3.10 it is not the builtin one
    names = [f"bridgeout-{key}" for key in todo]  # two clients that ask for the same run share one task
    keys = dict(zip(client.map(_remotely, [task] * len(todo), list(todo.values()), key=names), todo, strict=True))
    patience = None if task.end == float("inf") else max(task.end - time.time(), 0.1)
    waiting = set(todo)
    try:
        for future in as_completed(list(keys), loop=client.loop, timeout=patience):
            key = keys.pop(future)
            waiting.discard(key)
            if future.status == "finished":
                yield task.keep(future.result(), store)
            else:
                error = future.exception() if future.status == "error" else future.status
                yield _Outcome(key, "failed", f"{_label(todo[key].spec)}: {error}")
            future.release()
    except DaskTimeout:
        client.cancel(list(keys))
        yield from (_Outcome(key, "out of time") for key in waiting)


# Torch's seeds belong to the process: two runs at once in threads of one worker would share them.
_ONE_AT_A_TIME = threading.Lock()


def _remotely(task: _Task, experiment: Runnable) -> _Outcome:
    with _ONE_AT_A_TIME:
        return task.attempt(experiment)


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
        from distributed.client import TimeoutError as DaskTimeout  # type: ignore[attr-defined]
    except ImportError as error:
        raise ImportError("a scheduler needs Dask: pip install distributed") from error
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no Dask scheduler answers at {address}: start one with `dask scheduler`, or run without it"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except DaskTimeout as error:
            raise OSError(
                f"the scheduler at {address} has no workers: start some with `dask worker {address}`"
            ) from error
        yield client


@contextlib.contextmanager
def _alarm(end: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` at time ``end``, also in the middle of an epoch or of measuring. Only in a main thread
    and where there is such a signal (not on Windows); elsewhere the end of the epoch decides."""
    able = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if end == float("inf") or not able:
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(end - time.time(), 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _prepare(task: _Task) -> None:
    """Check before any training that the store and its checkpoints can be written."""
    try:
        task.folder.mkdir(parents=True, exist_ok=True)
        open(task.path, "ab").close()
        with FileLock(f"{task.path}.lock"):
            pass  # some file systems have no locks
    except (OSError, NotImplementedError) as error:  # filelock has raised both where there are none
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"the store {task.path} cannot be written ({reason}): name a file in a folder of yours whose disk has locks"
        ) from error


def _label(spec: dict[str, Any]) -> str:
    noise = [f"{name}={spec[name]:g}" for name in ("p", "q") if name in spec]
    return " ".join([spec["dataset"], spec["method"], *noise, f"seed {spec['seed']}"])


def _say(done: list[_Outcome]) -> None:
    """Report the runs that are not recorded, and why."""
    counts = Counter(outcome.state for outcome in done)
    for state, remark in (
        ("out of time", "left when the time was up: the same call goes on"),
        ("elsewhere", "being run by another process"),
        ("diverged", "diverged and recorded as such"),
    ):
        if counts[state]:
            print(f"{counts[state]} of {len(done)} runs {remark}", file=sys.stderr)
    failures = [outcome.message for outcome in done if outcome.state == "failed"]
    if failures:
        raise RuntimeError(
            f"{len(failures)} of {len(done)} runs failed, the first: {failures[0].partition(chr(10))[0]} "
            "(what is recorded is safe; the same call tries again)"
        )
