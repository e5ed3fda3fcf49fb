"""Records and their append-only store, whatever interrupts a writer; and the summary with its interval."""

import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import sem, t

from bridgeout_lite import Record, Store, stats
from bridgeout_lite.runs import provenance, records


def record(number: int = 0, **spec) -> Record:
    return Record({"seed": number, "q": 1.5, **spec}, {"accuracy": 60.0 + number}, {"device": "test", "seconds": 0.25})


def read(store: Store) -> list[Record]:
    """All records, with any warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(store)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results" / "runs.jsonl")


# ---- fingerprints -----------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def reordered(value):
    if isinstance(value, dict):
        return {k: reordered(v) for k, v in reversed(value.items())}
    return [reordered(v) for v in value] if isinstance(value, list) else value


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=5))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(spec):
    assert records.fingerprint(spec) == records.fingerprint(reordered(spec))
    assert records.fingerprint(json.loads(json.dumps(spec))) == records.fingerprint(spec)  # nor on being written
    assert len(records.fingerprint(spec)) == 16 and int(records.fingerprint(spec), 16) >= 0


def test_a_fingerprint_depends_on_everything_else():
    base = {"p": 0.5, "recipe": {"lr": 0.1, "milestones": [1, 2]}}
    others = [
        {"p": 0.25, "recipe": {"lr": 0.1, "milestones": [1, 2]}},
        {"p": 0.5, "recipe": {"lr": 0.2, "milestones": [1, 2]}},
        {"p": 0.5, "recipe": {"lr": 0.1, "milestones": [2, 1]}},
        {"p": 0.5, "recipe": {"lr": 0.1, "milestones": [1, 2]}, "seed": None},
        {},
    ]
    assert len({records.fingerprint(s) for s in [base, *others]}) == 6
    assert records.fingerprint({"milestones": (1, 2)}) == records.fingerprint({"milestones": [1, 2]})


def test_a_fingerprint_is_the_same_in_every_process_and_version():
    """Stored results are found by it: it must never change."""
    assert records.fingerprint({"p": 0.5, "q": 1.5, "model": "smallcnn"}) == FINGERPRINT


FINGERPRINT = "718f132325f6da3d"


def test_what_is_no_json_has_no_fingerprint():
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError):
            records.fingerprint({"p": bad})
    with pytest.raises(TypeError):
        records.fingerprint({"p": torch.tensor(0.5)})


def test_a_record_knows_its_key_and_is_frozen():
    one = record(3)
    assert one.key == records.fingerprint(one.spec)
    with pytest.raises(AttributeError):
        one.spec = {}


def test_rounded():
    assert records.rounded({"a": [1.23456789, 2], "b": (0.1, True, None, "x"), "c": {"d": 123456789.0}}) == {
        "a": [1.23457, 2],
        "b": [0.1, True, None, "x"],
        "c": {"d": 123457000.0},
    }
    assert records.rounded([math.nan, math.inf, 0.0]) == [None, None, 0.0]  # what JSON cannot hold
    assert records.rounded(1.23456789, 3) == 1.23


# ---- the store --------------------------------------------------------------------------------------------------


def test_what_is_appended_is_read_back(store):
    assert read(store) == [] and store.keys() == set() and store.find({}) is None
    written = [record(k, note='ümläut, "quotes"\nand a line break', nested={"a": [1, None, True]}) for k in range(3)]
    for one in written:
        store.append(one)
    assert read(store) == written
    assert store.keys() == {r.key for r in written}
    lines = store.path.read_text().splitlines()
    assert len(lines) == 3 and all(
        json.loads(line)["provenance"] == {"device": "test", "seconds": 0.25} for line in lines
    )
    assert read(Store(str(store.path))) == written  # a plain string will do


def test_appending_never_rewrites(store):
    store.append(record(1))
    before = store.path.read_bytes()
    store.append(record(2))
    assert store.path.read_bytes().startswith(before)


def test_a_record_that_is_no_json_leaves_the_file_untouched(store):
    store.append(record(1))
    before = store.path.read_bytes()
    for bad in (math.nan, math.inf, torch.tensor(1.0), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            store.append(Record({"seed": 2}, {"accuracy": bad}, {}))
    assert store.path.read_bytes() == before


def test_a_torn_line_is_set_aside_and_the_next_append_is_unharmed(store):
    """A writer killed after any number of bytes of its line."""
    store.append(record(1))
    first = store.path.read_bytes()
    store.append(record(2))
    whole = store.path.read_bytes()
    for length in [*range(len(first) + 1, len(whole) - 2, 7), len(whole) - 2]:
        store.path.write_bytes(whole[:length])
        with pytest.warns(UserWarning, match=r"runs\.jsonl, line 2: not a whole record"):
            assert list(store) == [record(1)]
        store.append(record(3))
        with pytest.warns(UserWarning, match="line 2") as caught:
            assert list(store) == [record(1), record(3)]
        assert len(caught) == 1
        with pytest.warns(UserWarning, match="line 2") as caught:  # once, not at every look
            assert [Store(store.path).keys(), store.keys(), store.keys()] == [{record(1).key, record(3).key}] * 3
        assert len(caught) == 2
        assert store.path.read_bytes().startswith(whole[:length])  # nothing was cut off


def test_a_line_that_lacks_only_its_newline_is_a_record(store):
    store.append(record(1))
    store.path.write_bytes(store.path.read_bytes().rstrip(b"\n"))
    assert read(store) == [record(1)]
    store.append(record(2))
    assert read(store) == [record(1), record(2)]


@pytest.mark.parametrize(
    "junk",
    [
        *("", "   ", "not json", "12", "[1, 2]", "null", '{"spec": {}}', '{"other": 1}', "\0\0\0", "\xff"),
        '{"spec": 1, "metrics": {}, "provenance": {}}',
        '{"spec": {"p": NaN}, "metrics": {}, "provenance": {}}',
        '{"spec": {}, "metrics": {}, "provenance": {}, "format": "2"}',
        '{"spec": {}, "metrics": {}, "provenance": {}, "more": {}}',
    ],
)
@pytest.mark.filterwarnings("ignore:.*set aside")
def test_other_lines_are_set_aside_too(store, junk):
    store.append(record(1))
    with open(store.path, "a", encoding="latin-1") as file:
        file.write(junk + "\n")
    store.append(record(2))
    assert store.keys() == {record(1).key, record(2).key} and store.find(record(2).spec) == record(2)
    if not junk.strip():
        assert read(store) == [record(1), record(2)]
    else:
        with pytest.warns(UserWarning, match="line 2"):
            assert list(store) == [record(1), record(2)]


def test_a_spec_is_recorded_once(store):
    assert store.append(record(1)) and store.append(record(2))
    before = store.path.read_bytes()
    again = Record(record(1).spec, {"accuracy": 0.0}, {})
    assert not store.append(again) and not Store(store.path).append(again)
    assert store.path.read_bytes() == before and store.find(again.spec) == record(1)


def test_what_others_append_is_seen(store):
    """Whatever the store has read before; also if the file has become another one meanwhile."""
    other = Store(store.path)
    for k in range(3):
        assert store.append(record(k)) and other.keys() == store.keys() == {record(j).key for j in range(k + 1)}
        assert other.find(record(k).spec) == record(k) and not other.append(record(k))
    longer = Store(store.path.with_name("longer"))
    for k in range(9, 3, -1):
        longer.append(record(k))
    os.replace(longer.path, store.path)
    assert store.keys() == {record(k).key for k in range(4, 10)} and store.find(record(4).spec) == record(4)
    store.path.write_bytes(b"")
    assert store.keys() == set() and store.find(record(4).spec) is None and store.append(record(4))
    store.path.unlink()
    assert store.keys() == set() and store.append(record(5)) and read(store) == [record(5)]


def test_a_line_that_is_being_written_is_left_alone(store):
    store.append(record(0))
    whole = store.path.read_bytes()
    store.append(record(1))
    line = store.path.read_bytes()[len(whole) :]
    watching = Store(store.path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in (0, 1, len(line) // 2, len(line) - 1, len(line)):
            store.path.write_bytes(whole + line[:length])
            assert len(watching.keys()) == 1 + (length >= len(line) - 1)
    assert watching.find(record(1).spec) == record(1)


# ---- the format -------------------------------------------------------------------------------------------------


def test_a_record_from_a_newer_package_is_refused_in_one_line(store):
    """By whatever reads or writes; what stands in the file stays there."""
    store.append(record(0))
    with open(store.path, "a") as file:
        file.write(json.dumps({"format": records.FORMAT + 1, "spec": {}, "metrics": {}, "provenance": {}}) + "\n")
    before = store.path.read_bytes()
    message = (
        rf"runs\.jsonl, line 2: a record of format {records.FORMAT + 1}, but bridgeout_lite .*: update the package$"
    )
    for use in (list, Store.keys, lambda s: s.find({}), lambda s: s.select(), lambda s: s.append(record(1))):
        for one in (store, Store(store.path)):
            with pytest.raises(records.NewerFormatError, match=message):
                use(one)
    assert store.path.read_bytes() == before


def test_records_without_a_number_are_of_the_first_format(store):
    """The committed ones: they are read, and their fingerprints stay."""
    store.append(record(1))
    line = json.loads(store.path.read_text())
    assert line.pop("format") == records.FORMAT
    store.path.write_text(json.dumps(line) + "\n")
    assert read(store) == [record(1)] and store.keys() == {record(1).key} and not store.append(record(1))


# ---- what cannot be read or written -----------------------------------------------------------------------------


def test_a_store_that_is_a_folder(tmp_path):
    for use in (list, Store.keys, lambda s: s.find({}), lambda s: s.append(record(0))):
        with pytest.raises(records.StoreError, match=r"cannot read the store .* \(Is a directory\)$"):
            use(Store(tmp_path))


def test_a_store_inside_of_a_file(tmp_path):
    (tmp_path / "file").write_text("text")
    store = Store(tmp_path / "file" / "runs.jsonl")
    with pytest.raises(records.StoreError, match=r"cannot write the store .*; nothing was added: name a file"):
        store.append(record(0))
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write everything")
def test_a_store_that_one_may_not_read_or_write(store):
    store.append(record(0))
    store.path.chmod(0o400)
    with pytest.raises(records.StoreError, match=r"cannot write the store .* \(Permission denied\); nothing was added"):
        store.append(record(1))
    store.path.chmod(0)
    with pytest.raises(records.StoreError, match=r"cannot read the store .* \(Permission denied\)$"):
        store.keys()
    store.path.chmod(0o600)
    assert read(store) == [record(0)]


def test_a_full_disk_leaves_the_file_as_it_was(store):
    """The limit on the size of a file cuts the write in the middle, as a full disk does."""
    resource = pytest.importorskip("resource")
    store.append(record(0))
    before = store.path.read_bytes()
    full = record(1, filler="x" * 10_000)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5000, unlimited[1]))
    try:
        with pytest.raises(
            records.StoreError, match=r"cannot write the store .*; nothing was added: .* disk with room$"
        ):
            store.append(full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert store.path.read_bytes() == before
    assert store.append(full) and read(store) == [record(0), full]


def test_find_gives_the_first_of_its_spec(store):
    """Also where two stores were joined by hand."""
    twice = Record({"a": 1, "b": 2}, {"accuracy": 1.0}, {}), Record({"b": 2, "a": 1}, {"accuracy": 2.0}, {})
    lines = []
    for one in (record(0), *twice):
        store.append(one)
        lines.append(store.path.read_text())
        store.path.unlink()
    store.path.write_text("".join(lines))
    assert len(read(store)) == 3 and store.find({"b": 2, "a": 1}) == twice[0]
    assert store.find({"a": 1}) is None and store.find({"a": 1, "b": 3}) is None


def test_select(store):
    for k in range(6):
        store.append(record(k, method=["none", "sparseout"][k % 2], p=k / 10))
    assert [r.spec["seed"] for r in store.select(method="none")] == [0, 2, 4]
    assert [r.spec["seed"] for r in store.select(method="sparseout", seed=[0, 1, 2, 3])] == [1, 3]
    assert [r.spec["seed"] for r in store.select(seed=(1, 5))] == [1, 5]
    assert [r.spec["seed"] for r in store.select(seed={4})] == [4]
    assert len(store.select()) == 6
    assert store.select(unknown=1) == [] and len(store.select(unknown=None)) == 6


def append_many(path: str, writer: int, barrier) -> None:
    store = Store(path)
    for k in range(100):
        if k % 10 == 0:
            barrier.wait(60)  # ten lines each, at the same time, ten times over
        store.append(record(k, writer=writer, filler="x" * (5000 * (k % 7))))


def test_two_processes_append_at_once(store):
    """Neither loses or tears a line of the other."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    barrier = context.Barrier(2)
    writers = [context.Process(target=append_many, args=(str(store.path), w, barrier)) for w in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(120)
    assert [process.exitcode for process in writers] == [0, 0]
    everything = read(store)
    assert len(everything) == len(store.keys()) == 200
    for writer in range(2):
        assert [r.spec["seed"] for r in everything if r.spec["writer"] == writer] == list(range(100))


def compete(folder: str, writer: int, barrier) -> None:
    for trial in range(100):
        store = Store(f"{folder}/{trial}.jsonl")
        barrier.wait(60)
        for k in range(2):
            store.append(record(k, filler="x" * 6000))  # both want to record these
            store.append(record(k, writer=writer))


def test_two_processes_record_the_same_in_a_hundred_trials(tmp_path):
    """Two sweeps on one store: no line is lost, torn, or there twice."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    barrier = context.Barrier(2)
    writers = [context.Process(target=compete, args=(str(tmp_path), w, barrier)) for w in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(120)
    assert [process.exitcode for process in writers] == [0, 0]
    wanted = [record(k, filler="x" * 6000) for k in range(2)]
    wanted += [record(k, writer=writer) for k in range(2) for writer in range(2)]
    for trial in range(100):
        everything = read(Store(tmp_path / f"{trial}.jsonl"))
        assert sorted(r.key for r in everything) == sorted(r.key for r in wanted)
        assert all(one in wanted for one in everything)


def test_appending_waits_for_the_lock(store):
    """What looks at the end of the file and what writes there must not be parted by another writer."""
    store.append(record(0))
    waiting = threading.Thread(target=store.append, args=(record(1),))
    with FileLock(f"{store.path}.lock"):
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive() and read(store) == [record(0)]
    waiting.join(30)
    assert read(store) == [record(0), record(1)]


# ---- provenance -------------------------------------------------------------------------------------------------


def test_provenance_is_json_and_says_where_and_with_what():
    where = provenance.provenance("cpu", "digits", "abc")
    assert json.loads(json.dumps(where, allow_nan=False)) == where
    assert where["data"] == "digits" and where["data_checksum"] == "abc" and where["torch"] == torch.__version__
    assert where["threads"] == torch.get_num_threads() and where["device"]
    assert where["commit"] is None or len(where["commit"]) == 40
    assert where["dirty"] in (True, False, None)
    assert pd.Timestamp(where["started"]).utcoffset().total_seconds() == 0
    assert provenance.package_version() == where["package"]


# ---- summaries --------------------------------------------------------------------------------------------------


def test_summarise_against_scipy():
    g = np.random.default_rng(0)
    rows = pd.DataFrame({"q": np.repeat([2.0, 1.0], [5, 3]), "p": 0.5, "accuracy": g.normal(60, 2, 8)})
    table = stats.summarise(rows, ["q", "p"], "accuracy")
    assert list(table.columns) == ["q", "p", "mean", "n", "low", "high"]
    assert table["q"].tolist() == [1.0, 2.0] and table["n"].tolist() == [3, 5]
    for row in table.itertuples():
        values = rows.loc[rows["q"] == row.q, "accuracy"]
        low, high = t.interval(0.95, len(values) - 1, values.mean(), sem(values))
        assert (row.mean, row.low, row.high) == pytest.approx((values.mean(), low, high), rel=1e-12)


def test_a_group_of_one_has_no_interval():
    table = stats.summarise(pd.DataFrame({"q": [1.0, 2.0, 2.0], "v": [3.0, 4.0, 4.0]}), ["q"], "v")
    assert table["mean"].tolist() == [3.0, 4.0] and table["n"].tolist() == [1, 2]
    assert math.isnan(table["low"][0]) and math.isnan(table["high"][0])
    assert table["low"][1] == table["high"][1] == 4.0


def test_summarise_leaves_out_missing_values():
    table = stats.summarise(pd.DataFrame({"q": [1.0] * 3, "v": [3.0, math.nan, 5.0]}), ["q"], "v")
    assert table["n"].tolist() == [2] and table["mean"].tolist() == [4.0]


def test_summarise_keeps_groups_without_a_value():
    """Plain training has no q: its rows must not vanish from the table."""
    rows = pd.DataFrame({"method": ["none"] * 2 + ["sparseout"] * 2, "q": [None, None, 1.0, 1.0], "v": [1.0, 2, 3, 4]})
    table = stats.summarise(rows, ["method", "q"], "v")
    assert table["method"].tolist() == ["none", "sparseout"] and table["mean"].tolist() == [1.5, 3.5]


def test_the_commit_is_ours_or_unknown(tmp_path):
    """A copy inside somebody else's repository must not report that repository's commit."""
    package = Path(records.__file__).parents[1]
    shutil.copytree(package, tmp_path / "site" / "bridgeout_lite", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    code = "import bridgeout_lite.runs.provenance as r; print(r.__file__, r._commit())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert str(tmp_path) in shown and "{'commit': None, 'dirty': None}" in shown
