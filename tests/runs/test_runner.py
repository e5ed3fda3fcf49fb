"""The runner: recorded runs are skipped, killed ones go on, none is done twice, a diverged one is a result."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import types

import pytest
import torch
from filelock import FileLock

import bridgeout_lite as bl
from bridgeout_lite import Experiment, Recipe, Store, data, training
from bridgeout_lite import studies as sweeps
from bridgeout_lite.runs import runner
from bridgeout_lite.runs.records import fingerprint
from bridgeout_lite.runs.runner import parse_budget, sweep, with_seeds
from bridgeout_lite.studies import images as experiments
from bridgeout_lite.studies.activations.study import activation_grid
from bridgeout_lite.studies.adaptive import Adaptive
from bridgeout_lite.studies.images import run

RECIPE = Recipe(epochs=2, batch_size=64, lr=0.05, precision="float32")
QUICK = Experiment("digits", width=0.25, p=0.2, q=1.5, train=256, valid=64, recipe=RECIPE)
DEVICE = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def record():
    return run(QUICK, bl.load_images("digits", train=256, valid=64), **DEVICE)


def untimed(record):
    """What two runs of the same experiment must share."""
    return record.spec, record.metrics, {k: v for k, v in record.provenance.items() if k not in ("started", "seconds")}


def results(records):
    """The part of records that must not depend on how often a sweep was killed, nor on who ran it."""
    return sorted(json.dumps([r.spec, r.metrics], sort_keys=True) for r in records)


# --- sweeps -----------------------------------------------------------------------------------------------------------

GRID = [dataclasses.replace(QUICK, q=q) for q in (1.0, 1.5, 2.0)]


@pytest.fixture
def counted(monkeypatch):
    """The epochs that are really trained, counted."""
    epochs, real = [], training._epoch
    monkeypatch.setattr(training, "_epoch", lambda *a, **k: epochs.append(1) or real(*a, **k))
    return epochs


def test_a_sweep_runs_what_is_missing(tmp_path, counted, record):
    path = tmp_path / "results" / "grid.jsonl"
    Store(path).append(record)  # q=1.5 is there already
    records = sweep(GRID, path, **DEVICE)
    assert [r.spec["q"] for r in records] == [1.0, 1.5, 2.0] and records[1] == record
    assert len(counted) == 2 * RECIPE.epochs
    before = path.read_bytes()
    assert sweep(GRID, str(path), **DEVICE) == records and sweep(GRID[2:], Store(path), **DEVICE) == records[2:]
    assert len(counted) == 2 * RECIPE.epochs and path.read_bytes() == before
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("*.partial"))


def test_an_interrupted_sweep_goes_on_inside_the_run(tmp_path, monkeypatch, record, capsys):
    store, real = Store(tmp_path / "grid.jsonl"), training._epoch
    done = []

    def epoch(*arguments, **options):
        if len(done) == 3:  # the second run, its second epoch
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(training, "_epoch", epoch)
    with pytest.raises(KeyboardInterrupt):
        sweep(GRID, store, **DEVICE)
    assert "go on from epoch 2" in capsys.readouterr().err
    assert len(list(store)) == 1
    (checkpoint,) = tmp_path.rglob("*.pt")
    assert len(torch.load(checkpoint, weights_only=True)["rows"]) == 1
    done.clear()
    done.extend([1] * 4)  # never again
    records = sweep(GRID, store, **DEVICE)
    assert len(done) == 4 + 1 + 2  # the rest of the second run, the third run
    assert untimed(records[1]) == untimed(record)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_store_that_cannot_be_written_keeps_the_checkpoint(tmp_path, monkeypatch, counted, record):
    store = Store(tmp_path / "grid.jsonl")

    def full(self, record):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", full)
        with pytest.raises(OSError, match="No space left"):
            sweep([QUICK], store, **DEVICE)
    assert len(counted) == 2
    assert untimed(sweep([QUICK], store, **DEVICE)[0]) == untimed(record)
    assert len(counted) == 2  # nothing was trained again


def test_data_are_loaded_once_for_runs_that_share_them(tmp_path, monkeypatch):
    loads, real = [], data.load_images
    monkeypatch.setattr(data, "load_images", lambda *a, **k: loads.append((a, k)) or real(*a, **k))
    data._kept_images.cache_clear()
    sweep(GRID, tmp_path / "grid.jsonl", **DEVICE)
    assert [options for _, options in loads] == [{"train": 256, "valid": 64, "test": None}]


def test_unknown_backend(tmp_path):
    with pytest.raises(ValueError, match=r"backend.*'local'.*got 'moon'|backend.*'moon'.*'local'"):
        sweep(GRID, tmp_path / "grid.jsonl", backend="moon")
    assert os.listdir(tmp_path) == []


def test_named_sweeps():
    lists = {name: make for name, make in sweeps.sweeps().items() if not isinstance(make, Adaptive)}
    for name, make in lists.items():
        grid = make()
        assert len({fingerprint(e.spec) for e in grid}) == len(grid) > 0, name
    grid = activation_grid()
    assert {e.seed for e in grid} == {0, 1, 2} and {e.dataset for e in grid} == {"cifar10"}
    assert {e.method for e in grid} == {"none", "sparseout"}
    assert {e.dataset for e in activation_grid("digits")} == {"digits"}
    assert {e.dataset for e in sweeps.sweeps()["smoke"]()} == {"digits"}


def test_a_sweep_names_its_data_set(tmp_path):
    with pytest.raises(ValueError, match="a sweep names its data set"):
        sweep([dataclasses.replace(QUICK, dataset="auto")], tmp_path / "runs.jsonl")
    assert not list(tmp_path.iterdir())


# --- seeds and budgets ------------------------------------------------------------------------------------------------


def test_seeds():
    grid = with_seeds([*GRID, dataclasses.replace(QUICK, seed=7)], 2)
    assert [(e.q, e.seed) for e in grid] == [(1.0, 0), (1.5, 0), (2.0, 0), (1.0, 1), (1.5, 1), (2.0, 1)]
    with pytest.raises(ValueError, match="seeds must be a whole number >= 1, got 0"):
        with_seeds(GRID, 0)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("25m", 1500), ("1h30m", 5400)])
def test_budgets_in_words(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["0m", "-5m", "25", "", "soon", "m", "nat", "1e99h", "2d"])
def test_budgets_that_are_none(text):
    with pytest.raises(ValueError, match="budget must be a time above zero such as 90s, 25m or 1h30m, got"):
        parse_budget(text)


def test_a_budget_stops_at_the_end_of_an_epoch(tmp_path, monkeypatch, record, capsys):
    clock, real = [1000.0], training._epoch

    def ten_seconds(*arguments, **options):
        clock[0] += 10
        return real(*arguments, **options)

    store = tmp_path / "grid.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", ten_seconds)
        patch.setattr(runner.time, "time", lambda: clock[0])
        patch.setattr(runner, "_alarm", lambda end: contextlib.nullcontext())
        assert sweep([QUICK, *GRID], store, budget=15.0, **DEVICE) == []  # a second epoch would end after 20
    assert "3 of 3 runs left when the time was up" in capsys.readouterr().err
    checkpoint = tmp_path / ".checkpoints" / f"{fingerprint(QUICK.spec)}.pt"
    assert len(torch.load(checkpoint, weights_only=True)["rows"]) == 1
    assert untimed(sweep([QUICK], store, budget=3600.0, **DEVICE)[0]) == untimed(record)


def test_a_budget_also_stops_what_has_no_epochs(tmp_path, monkeypatch, record):
    if not hasattr(signal, "setitimer"):
        pytest.skip("no alarm on this system")
    store = tmp_path / "grid.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "measure_activations", lambda *a: time.sleep(60))
        began = time.monotonic()
        assert sweep([QUICK], store, budget=15.0, **DEVICE) == []
        assert time.monotonic() - began < 45  # the measuring alone would take 60
    assert len(list(tmp_path.rglob("*.pt"))) == 1
    monkeypatch.setattr(training, "_epoch", None)  # nothing is trained again
    assert untimed(sweep([QUICK], store, **DEVICE)[0]) == untimed(record)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_run_that_diverges_is_a_result_and_stops_nothing(tmp_path, capsys):
    wild = dataclasses.replace(QUICK, q=1.0, recipe=dataclasses.replace(RECIPE, lr=1e25))
    store = tmp_path / "grid.jsonl"
    records = sweep([wild, QUICK], store, **DEVICE)
    assert "loss" in records[0].metrics["failed"] and "test_accuracy" in records[1].metrics
    assert "1 of 2 runs diverged and recorded as such" in capsys.readouterr().err
    assert sweep([wild], store, **DEVICE) == records[:1], "and is not tried again"
    frame = experiments.runs_frame(records)
    assert frame["test_accuracy"].isna().tolist() == [True, False]
    assert len(bl.studies.measures.layers_frame(records)) == len(bl.studies.measures.layers_frame(records[1:]))


def test_a_run_that_fails_is_told_after_the_others_are_done(tmp_path, monkeypatch):
    real = bl.Experiment.measure

    def broken(experiment, *arguments):
        if experiment.q == 1.5:
            raise RuntimeError("out of memory\nand a long story")
        return real(experiment, *arguments)

    monkeypatch.setattr(bl.Experiment, "measure", broken)
    store = Store(tmp_path / "grid.jsonl")
    with pytest.raises(RuntimeError, match=r"^1 of 3 runs failed, the first: digits .*q=1.5 seed 0: out of memory \("):
        sweep(GRID, store, **DEVICE)
    assert [r.spec["q"] for r in store] == [1.0, 2.0]


def test_missing_data_stop_a_sweep_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIDGEOUT_DATA", str(tmp_path))
    monkeypatch.setenv("BRIDGEOUT_OFFLINE", "1")
    with pytest.raises(bl.DataError, match="put cifar-10-python"):
        sweep([dataclasses.replace(QUICK, dataset="cifar10")] * 2, tmp_path / "grid.jsonl", **DEVICE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "jobs must be a whole number >= 1, got 0"),
        ({"budget": 0.0}, "budget must be a finite number > 0, got 0.0"),
        ({"device": "moon"}, "device 'moon' is not available here"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(GRID, tmp_path / "grid.jsonl", **DEVICE | options)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="/proc takes no files even from root")
def test_a_store_in_an_impossible_place_is_found_out_before_training(tmp_path, counted):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^cannot read the store .*grid.jsonl \(Not a directory\)"):
        sweep([QUICK], tmp_path / "file" / "grid.jsonl", **DEVICE)
    with pytest.raises(OSError, match=r"^the store .* cannot be written \(.*\): name a file in a folder of yours"):
        sweep([QUICK], "/proc/nobody/grid.jsonl", **DEVICE)
    assert not counted


# --- several processes ------------------------------------------------------------------------------------------------


def test_two_jobs_give_the_records_of_one(tmp_path):
    alone = sweep(GRID, tmp_path / "one.jsonl", **DEVICE)
    together = sweep(GRID, tmp_path / "two.jsonl", jobs=2, **DEVICE)
    assert [r.spec for r in together] == [r.spec for r in alone]
    assert [r.metrics.keys() for r in together] == [r.metrics.keys() for r in alone]
    lines = (tmp_path / "two.jsonl").read_text().splitlines()
    assert len(lines) == 3 and not list(tmp_path.rglob("*.pt"))


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path, capsys, counted):
    store = tmp_path / "grid.jsonl"
    folder = tmp_path / ".checkpoints"
    folder.mkdir()
    with FileLock(folder / f"{fingerprint(GRID[1].spec)}.lock"):
        records = sweep(GRID, store, **DEVICE)
    assert [r.spec["q"] for r in records] == [1.0, 2.0]
    assert "1 of 3 runs being run by another process" in capsys.readouterr().err
    assert len(sweep(GRID, store, **DEVICE)) == 3 and len(counted) == 3 * RECIPE.epochs


SCRIPT = """
import sys
from bridgeout_lite import Experiment, Recipe, sweep
recipe = Recipe(epochs=3, batch_size=64, lr=0.05, precision="float32")
same = dict(p=0.2, width=0.25, train=256, valid=64, test=64, recipe=recipe, measures=())
sweep([Experiment("digits", q=q, **same) for q in (1.0, 1.5, 2.0)], sys.argv[1], device="cpu", progress=False)
"""


# Another number of threads gives other bits, and Dask gives its workers one.
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def start(store):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(store)], stderr=subprocess.DEVNULL, env=ONE_THREAD)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = tmp_path_factory.mktemp("grid") / "grid.jsonl"
    assert start(store).wait() == 0
    return list(Store(store))


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_killed_three_times_it_ends_with_the_same_records(tmp_path, undisturbed):
    store = tmp_path / "grid.jsonl"

    def progress():  # (records, epochs of the run in progress) grows with every epoch
        return len(list(Store(store))), sum(p.stat().st_mtime_ns for p in tmp_path.rglob("*.pt"))

    for _ in range(3):
        process, before = start(store), progress()
        wait_for(lambda before=before: progress() > before, process)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was still at work"
    assert start(store).wait() == 0
    assert results(Store(store)) == results(undisturbed)
    assert len(store.read_text().splitlines()) == len(undisturbed) and not list(tmp_path.rglob("*.pt"))


def test_two_sweeps_share_a_store(tmp_path, undisturbed):
    store = tmp_path / "grid.jsonl"
    both = [start(store), start(store)]
    assert [process.wait() for process in both] == [0, 0]
    assert results(Store(store)) == results(undisturbed)
    assert len(store.read_text().splitlines()) == len(undisturbed)


# --- a cluster --------------------------------------------------------------------------------------------------------


def test_a_cluster_that_loses_a_worker_loses_nothing(tmp_path, undisturbed):
    distributed = pytest.importorskip("distributed")
    store = tmp_path / "grid.jsonl"
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        address = cluster.scheduler_address
        script = SCRIPT.replace('device="cpu"', f'device="cpu", backend="{address}"')
        process = subprocess.Popen([sys.executable, "-c", script, str(store)])
        wait_for(lambda: list(tmp_path.rglob("*.pt")), process)  # a run is in progress
        with distributed.Client(address, set_as_default=False) as client:
            busy = [worker for worker, tasks in client.processing().items() if tasks]
            pids = client.run(os.getpid)
        os.kill(pids[busy[0]], signal.SIGKILL)
        assert process.wait() == 0
    assert results(Store(store)) == results(undisturbed)
    assert len(store.read_text().splitlines()) == len(undisturbed)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://here", "tcp://"])
def test_a_scheduler_that_does_not_answer(tmp_path, monkeypatch, address):
    pytest.importorskip("distributed")
    monkeypatch.setattr("bridgeout_lite.runs.runner.PATIENCE", 1.0)
    with pytest.raises(OSError, match=f"no Dask scheduler answers at {address}: start one with `dask scheduler`"):
        sweep(GRID, tmp_path / "grid.jsonl", backend=address, progress=False)


def test_without_dask(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match="a scheduler needs Dask: pip install distributed"):
        sweep(GRID, tmp_path / "grid.jsonl", backend="tcp://127.0.0.1:8786", progress=False)


@pytest.mark.parametrize("error", [OSError(95, "Operation not supported"), NotImplementedError("no flock")])
def test_a_disk_without_locks_is_found_out_before_training(tmp_path, monkeypatch, counted, record, error):
    def acquire(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)
    where = re.escape(str(tmp_path / "grid.jsonl"))
    with pytest.raises(OSError, match=f"{where} cannot be written .* whose disk has locks"):
        sweep(GRID, tmp_path / "grid.jsonl", **DEVICE)
    with pytest.raises(OSError, match=f"cannot write the store {where}"):
        Store(tmp_path / "grid.jsonl").append(record)
    assert not counted


def test_a_cluster_whose_timeout_is_not_the_builtin_one(monkeypatch, tmp_path, capsys):
    """As on Python 3.10."""
    distributed = pytest.importorskip("distributed")
    late = type("TimeoutError", (Exception,), {})

    def as_completed(*args, **kwargs):
        raise late

    monkeypatch.setattr(distributed.client, "TimeoutError", late)
    monkeypatch.setattr(distributed, "as_completed", as_completed)
    client = types.SimpleNamespace(map=lambda *a, key: key, cancel=lambda keys: None, loop=None)
    task = runner._Task(tmp_path / "grid.jsonl", torch.device("cpu"), float("inf"), False)
    todo = {fingerprint(e.spec): e for e in GRID}
    outcomes = runner._on_cluster(client, task, todo, Store(task.path))
    assert [o.state for o in outcomes] == ["out of time"] * len(GRID)
