"""Recorded runs as tables, and the command that lists, filters and compares them."""

import dataclasses
import io
import json

import pandas as pd
import pytest

from bridgeout_lite import Experiment, Recipe, Record, Store
from bridgeout_lite.cli import main
from bridgeout_lite.runs import tables
from bridgeout_lite.runs.records import FORMAT


def run(seed=0, accuracy=60.0, *, commit="0123456789abcdef", **spec):
    recipe = Recipe(epochs=spec.pop("epochs", 5))
    experiment = Experiment("digits", seed=seed, recipe=recipe, **spec)
    metrics = {
        "valid_accuracy": accuracy - 1,
        "test_accuracy": accuracy,
        "history": {"train_loss": [2.0, accuracy]},
        "layers": {"relu1": {"hoyer": 0.5}},
        "maps": "abc",
    }
    return Record(experiment.spec, metrics, {"seconds": 1.5, "commit": commit})


@pytest.fixture
def runs():
    return [
        run(0, 60.0, method="none", p=0.0),
        run(1, 61.0, method="sparseout", q=1.0, epochs=10),
        run(2, 59.0, method="bridgeout", q=1.0, target_fraction=0.75),
    ]


@pytest.fixture
def store(tmp_path, runs):
    store = Store(tmp_path / "results" / "some.jsonl")
    for one in runs:
        store.append(one)
    return store


@pytest.fixture(autouse=True)
def there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


# ---- tables -----------------------------------------------------------------------------------------------------


def test_one_row_a_run(runs):
    table = tables.runs_table(runs)
    assert tuple(table.columns) == tables.COLUMNS and table["key"].tolist() == [r.key for r in runs]
    assert table["epochs"].tolist() == [5, 10, 5] and table["test_accuracy"].tolist() == [60.0, 61.0, 59.0]
    assert len(tables.runs_table([])) == 0 and len(tables.runs_table([], {"modle": [1]})) == 0


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        ([], [0, 1, 2]),
        (["recipe.epochs=10"], [1]),
        (["epochs=5", "method=none,bridgeout"], [0, 2]),
        (["q=1"], [1, 2]),
        (["q=1.0", "method=none"], []),
        (["target_fraction=0.75"], [2]),
        (["target_fraction=1"], [0, 1]),  # left out of the spec at its first value
        (["cut=0.0", "seed=1,2"], [1, 2]),
        (["train=null", "seed=0"], [0]),
        (["recipe.milestones=[]"], [0, 1, 2]),
        (["layers.relu1.hoyer=0.5", "seed=0"], [0]),
        (["commit=0123456789abcdef"], [0, 1, 2]),
        (["gradient=exact,constant"], [0, 1, 2]),
        (["gradient=constant"], []),
    ],
)
def test_conditions(runs, words, seeds):
    assert tables.runs_table(runs, tables.conditions(words), ["seed"])["seed"].tolist() == seeds


def test_columns_and_order(runs):
    table = tables.runs_table(runs, columns=["recipe.lr", "layers.relu1.hoyer"], sort="test_accuracy")
    assert list(table.columns) == ["recipe.lr", "layers.relu1.hoyer"]
    assert tables.runs_table(runs, columns=["seed"], sort="test_accuracy")["seed"].tolist() == [2, 0, 1]
    shown = tables.as_text(tables.runs_table(runs, columns=["seed", "train"]))
    assert " ".join(shown.split()) == "seed train 0 - 1 - 2 -"
    with pytest.raises(ValueError, match="the values of 'measures' have no order"):
        tables.runs_table([*runs, Record(runs[0].spec | {"measures": 1}, {}, {})], sort="measures")


@pytest.mark.parametrize("use", [{"where": {"modle": [1]}}, {"columns": ["modle"]}, {"sort": "modle"}])
def test_an_unknown_field_is_named_with_the_nearest(runs, use):
    with pytest.raises(ValueError, match=r"^unknown field 'modle'; did you mean 'model'\? Fields: .*recipe.lr") as told:
        tables.runs_table(runs, **use)
    assert "hoyer" not in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("word", ["seed", "=1", ""])
def test_what_is_no_condition(word):
    with pytest.raises(ValueError, match=r"a condition is FIELD=VALUE.*got '"):
        tables.conditions([word])


def test_differences(tmp_path, runs):
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    for one in (runs[0], runs[1]):
        a.append(one)
    changed = json.loads(json.dumps(runs[1].metrics))
    changed["history"]["train_loss"][1] = 61.0 * 1.25
    changed["valid_accuracy"] = None
    changed["maps"] = "other"
    changed["new"] = [1, 2]
    for one in (runs[2], Record(runs[1].spec, changed, {"seconds": 99.0})):
        b.append(one)
    only_a, only_b, metrics = tables.differences(a, b)
    assert only_a == [runs[0]] and only_b == [runs[2]]
    found = metrics.set_index("metric")["largest"].to_dict()
    infinite = float("inf")
    assert found == {"history.train_loss": pytest.approx(0.2), "valid_accuracy": infinite, "maps": infinite} | {
        "new": infinite
    }
    assert (metrics["runs"] == 1).all() and metrics["largest"].is_monotonic_decreasing
    only_a, only_b, metrics = tables.differences(a, a)
    assert not only_a and not only_b and not len(metrics)


def test_the_order_and_the_provenance_make_no_difference(tmp_path, runs):
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    for one, other in zip(runs, reversed(runs), strict=True):
        a.append(one)
        b.append(dataclasses.replace(other, provenance={}))
    only_a, only_b, metrics = tables.differences(a, b)
    assert not only_a and not only_b and not len(metrics)


# ---- the command ------------------------------------------------------------------------------------------------


def failed(capsys, code):
    assert code == 1
    error = capsys.readouterr().err
    assert error.startswith("bridgeout: error: ") and error.count("\n") == 1
    return error.removeprefix("bridgeout: error: ").rstrip("\n")


def test_the_command_lists_all_stores_under_results(capsys, store, runs):
    Store(store.path.with_name("other.jsonl")).append(run(7))
    assert main(["results"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == list(tables.COLUMNS) and [line.split()[6] for line in lines[1:]] == ["7", "0", "1", "2"]
    assert lines[1].endswith(" 0123456")
    assert (
        main(["results", str(store.path), "--where", "method=none,sparseout", "--where", "p=0", "--columns", "seed"])
        == 0
    )
    assert capsys.readouterr().out.split() == ["seed", "0"]
    assert main(["results", str(store.path), "--where", "seed=9"]) == 0
    assert capsys.readouterr().out == "no runs\n"


def test_the_command_gives_csv(capsys, store, runs):
    assert main(["results", "--csv", "--sort", "test_accuracy"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["seed"].tolist() == [2, 0, 1] and (table["commit"] == "0123456789abcdef").all()


def test_the_command_compares(capsys, tmp_path, store, runs):
    assert main(["results", "--diff", str(store.path), str(store.path)]) == 0
    assert "in both: 3 specs, 0 metrics differ" in capsys.readouterr().out
    other = Store(tmp_path / "other.jsonl")
    other.append(Record(runs[0].spec, runs[0].metrics | {"test_accuracy": 48.0}, {}))
    other.append(run(9))
    assert main(["results", "--diff", str(store.path), str(other.path)]) == 1
    out = capsys.readouterr().out
    assert f"only in {store.path}: 2 specs\n" in out and f"only in {other.path}: 1 specs\n" in out
    assert "in both: 1 specs, 1 metrics differ\n" in out and out.split()[-3:] == ["test_accuracy", "1", "0.2"]


def test_a_damaged_line_is_told_in_one_line_and_the_rest_is_read(capsys, store):
    with open(store.path, "a") as file:
        file.write('{"spec": {"see')
    assert main(["results", "--columns", "seed"]) == 0
    out, error = capsys.readouterr()
    assert out.split() == ["seed", "0", "1", "2"]
    assert error == "bridgeout: warning: results/some.jsonl, line 4: not a whole record, set aside\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--where", "modle=1"], "unknown field 'modle'; did you mean 'model'? Fields: "),
        (["--columns", "key,lr"], "unknown field 'lr'"),
        (["--where", "seed"], "a condition is FIELD=VALUE"),
        (["nothing.jsonl"], "no store nothing.jsonl: bridgeout results STORE reads a .jsonl file"),
        (["results"], "cannot read the store results (Is a directory)"),
        (["--diff", "results/some.jsonl"], "--diff compares two whole stores"),
        (["--diff", "results/some.jsonl", "results/some.jsonl", "--csv"], "--diff compares two whole stores"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(capsys, store, words, message):
    assert failed(capsys, main(["results", *words])).startswith(message)


def test_without_any_store(capsys):
    assert failed(capsys, main(["results"])).startswith("no results/*.jsonl here: name a store")


def test_a_record_of_a_newer_package_is_one_line(capsys, store):
    line = {"format": FORMAT + 1, "spec": {}, "metrics": {}, "provenance": {}}
    with open(store.path, "a") as file:
        file.write(json.dumps(line) + "\n")
    message = failed(capsys, main(["results"]))
    assert message.startswith(f"results/some.jsonl, line 4: a record of format {FORMAT + 1}") and "update" in message
