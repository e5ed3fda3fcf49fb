"""The command line: every command, and one line for every failure."""

import io
import os
import signal
import subprocess
import sys
import textwrap
from email.message import Message
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bridgeout_lite as bl
from bridgeout_lite import cli
from bridgeout_lite.cli import main
from bridgeout_lite.studies import images as experiments

TRAIN = ["train", "--dataset", "digits", "--train", "128", "--width", "0.25", "--epochs", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch, offline):
    monkeypatch.setenv("TQDM_DISABLE", "1")


def failed(capsys, code, status=1):
    """The single line of an expected failure, without its beginning."""
    assert code == status
    error = capsys.readouterr().err
    assert error.startswith("bridgeout: error: ") and error.count("\n") == 1 and "Traceback" not in error
    return error.removeprefix("bridgeout: error: ").rstrip("\n")


# --- doctor, data -----------------------------------------------------------------------------------------------------


@pytest.fixture
def asks(monkeypatch):
    """``asks(*lines)``: the installed package's metadata ask for these; "; extra == ..." as pip writes it."""

    def ask(*lines):
        about = Message()
        for extra in ("book", "cluster"):
            about["Provides-Extra"] = extra
        for line in lines:
            about["Requires-Dist"] = line
        monkeypatch.setattr(cli, "metadata", lambda name: about)

    return ask


def test_doctor(capsys, offline, asks):
    asks("torch>=2.4", 'pandas>=2; extra == "book"', 'no-such-package; extra == "cluster"')
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("all is well\n") and f"    torch {version('torch')}\n" in out and "Python 3." in out
    assert f"  [book]\n    pandas {pd.__version__}\n  [cluster]\n    no-such-package missing" in out
    assert "device: " in out and "downloads are off" in out and str(offline) in out


def test_doctor_reads_the_metadata_of_the_package(monkeypatch):
    try:
        groups = cli._requirements()
    except RuntimeError:
        pytest.skip("the package is not installed here")
    assert {"torch", "numpy"} <= {requirement.name for requirement in groups[""]}


def test_doctor_names_each_problem_and_its_cure(capsys, monkeypatch, asks):
    from bridgeout_lite import tv_compat

    def broken():
        raise ImportError("no such library")

    monkeypatch.setattr(tv_compat, "import_torchvision", broken)
    asks(
        "torch>=2.4",
        "numpy>=99",
        'pandas>=2; extra == "book"',
        'no-such-package; extra == "book"',
        'windows-only>=3; sys_platform == "no such system" and extra == "book"',
    )
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"    numpy {np.__version__}, wanted numpy>=99\n" in out and "windows-only" not in out
    assert 'problem: the layers need numpy>=99: pip install "numpy>=99"\n' in out
    assert 'problem: the chapters need no-such-package: pip install "no-such-package"\n' in out
    assert "problem: torchvision does not import (no such library): install the pair of requirements.txt\n" in out
    assert out.endswith("3 problem(s)\n")


def test_doctor_where_the_package_is_not_installed(capsys, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cli, "metadata", missing)
    assert "bridgeout_lite is not installed: pip install --no-deps -e ." in failed(capsys, main(["doctor"]))


@pytest.mark.parametrize("name", ["digits", "python-manual", "auto"])
def test_data(capsys, name):
    assert main(["data", name]) == 0
    out = capsys.readouterr().out
    loaded = (bl.load_text if name == "python-manual" else bl.load_images)(name)
    assert out == f"{loaded!r} (checksum {loaded.checksum})\n"


def test_data_that_is_not_there(capsys, offline, tmp_path, monkeypatch):
    message = failed(capsys, main(["data", "cifar10"]))
    assert message == f"not whole in {offline}, and downloads are off: put cifar-10-python.tar.gz there or " + (
        "allow the download"
    )
    monkeypatch.delenv("BRIDGEOUT_OFFLINE")
    assert str(tmp_path / "x") in failed(capsys, main(["data", "cifar100", "--no-download", "--root", f"{tmp_path}/x"]))
    assert "ptb.train.txt is missing: put it there" in failed(capsys, main(["data", "ptb"]))


def test_damaged_archive(capsys, offline):
    offline.mkdir()
    (offline / "cifar-10-python.tar.gz").write_bytes(b"half")
    message = failed(capsys, main(["data", "cifar10"]))
    assert "is damaged (4 of 170,498,071 bytes, wrong md5): delete it and put a whole copy there" in message


def test_real_data(capsys, real_data):
    assert main(["data", "cifar10", "--root", str(real_data), "--no-download"]) == 0
    assert "cifar10: 45000 training, 5000 validation, 10000 test images" in capsys.readouterr().out


# --- train ------------------------------------------------------------------------------------------------------------


def test_train_prints_and_records(capsys, tmp_path):
    store, checkpoint = tmp_path / "runs.jsonl", tmp_path / "run.pt"
    options = ["-p", "0.2", "-q", "1.5", "--lr", "0.05", "--seed", "4", "--method", "bridgeout"]
    assert main([*TRAIN, *options, "--store", str(store), "--checkpoint", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    (record,) = bl.Store(store)
    expected = {"dataset": "digits", "method": "bridgeout", "p": 0.2, "q": 1.5, "train": 128, "width": 0.25, "seed": 4}
    assert {k: record.spec[k] for k in expected} == expected
    assert (record.spec["recipe"]["epochs"], record.spec["recipe"]["lr"]) == (1, 0.05)
    assert "digits: 128 training" in out and "relu1: hoyer" in out and checkpoint.exists()
    metrics = record.metrics
    assert (
        f"validation accuracy {metrics['valid_accuracy']:.2f} %, test accuracy {metrics['test_accuracy']:.2f} %" in out
    )


def test_train_on_auto_names_what_it_used(capsys, tmp_path):
    store = tmp_path / "runs.jsonl"
    assert main([*TRAIN, "--dataset", "auto", "--store", str(store)]) == 0
    printed = capsys.readouterr()
    assert "digits instead" in printed.err and "digits: 128 training" in printed.out
    assert next(iter(bl.Store(store))).spec["dataset"] == "digits"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-p", "1"], ("p", "1.0", "0 <= p < 1")),
        (["-p", "nan"], ("p", "nan", "0 <= p < 1")),
        (["-q", "-1"], ("q", "-1.0")),
        (["--epochs", "0"], ("epochs must be a whole number >= 1, got 0",)),
        (["--lr", "0"], ("lr must be a finite number > 0, got 0",)),
        (["--width", "0"], ("width must be", "> 0", "0.0")),
        (["--train", "0"], ("train must be a whole number from 1 to 1151, got 0",)),
        (["--train", "9999"], ("train must be a whole number from 1 to 1151, got 9999",)),
        (["--train", "20"], ("20 training images are fewer than one batch of 128", "lower batch_size")),
        (["--device", "banana"], ("device 'banana' is not available here", "'auto', 'cpu', 'cuda' or 'mps'")),
        (["--dataset", "cifar10"], ("not whole in", "put cifar-10-python.tar.gz there")),
        (["--lr", "1e30"], ("the training loss is", "lower lr")),
    ],
)
def test_train_with_bad_input(capsys, options, words):
    message = failed(capsys, main([*TRAIN, *options]))
    assert all(word in message for word in words)


@pytest.mark.parametrize("options", [["-p", "2"], ["--epochs", "0"], ["--device", "banana"]])
def test_bad_input_is_found_out_before_data_are_loaded(capsys, monkeypatch, options):
    monkeypatch.setattr(cli, "load_images", lambda *a, **k: pytest.fail("loading started"))
    failed(capsys, main([*TRAIN, *options]))


def test_train_with_a_bad_checkpoint(capsys, tmp_path):
    file = tmp_path / "run.pt"
    file.write_text("not a checkpoint")
    assert f"{file} is not a readable checkpoint" in failed(capsys, main([*TRAIN, "--checkpoint", str(file)]))
    assert file.read_text() == "not a checkpoint"
    file.unlink()
    assert main([*TRAIN, "--checkpoint", str(file)]) == 0
    capsys.readouterr()
    message = failed(capsys, main([*TRAIN, "--checkpoint", str(file), "--seed", "1"]))
    assert f"{file} belongs to another run (another seed): name another file or delete it" in message


def test_results_are_printed_even_if_the_store_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("precious")
    assert main([*TRAIN, "--store", str(tmp_path / "file" / "runs.jsonl")]) == 1
    printed = capsys.readouterr()
    assert "test accuracy" in printed.out and printed.err.startswith("bridgeout: error: ")
    assert printed.err.count("\n") == 1


def test_many_lines_become_one(capsys, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("CUDA out of memory.\nTried a lot.\n")

    monkeypatch.setattr("bridgeout_lite.Experiment.measure", fail)
    assert failed(capsys, main(TRAIN)) == "CUDA out of memory. Tried a lot."


def test_a_torchvision_that_cannot_be_imported(capsys, monkeypatch):
    from bridgeout_lite import tv_compat

    def broken():
        raise ImportError("torchvision does not import beside this torch: install a matching pair")

    monkeypatch.setattr(tv_compat, "import_torchvision", broken)
    assert "install a matching pair" in failed(capsys, main(["data", "cifar10"]))


def test_ctrl_c_gives_130(capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_images", interrupted)
    assert main(["data", "digits"]) == 130
    assert capsys.readouterr() == ("", "")


# --- sweep ------------------------------------------------------------------------------------------------------------


def test_smoke_sweep(capsys, tmp_path):
    store = tmp_path / "results" / "smoke.jsonl"
    command = ["sweep", "smoke", "--store", str(store), "--device", "cpu"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said == f"4 of 4 runs of smoke are recorded in {store}\n"
    records = list(bl.Store(store))
    assert [r.spec["q"] for r in records] == [1.0, 2.0, 3.0, 1.5]
    assert all(r.metrics["test_accuracy"] > 20 for r in records[:3])  # 10 % is chance; the fourth is for its pruning
    assert set(records[3].metrics["pruning"]) >= {"curves", "costs"}
    before = store.read_bytes()
    assert main(command) == 0 and capsys.readouterr().out == said and store.read_bytes() == before


def test_sweep_into_the_folder_results(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = experiments.Experiment("digits", train=128, width=0.25, recipe=bl.Recipe(epochs=1, batch_size=64))
    monkeypatch.setattr("bridgeout_lite.cli.sweeps", lambda: {"smoke": lambda: [one]})
    assert main(["sweep", "smoke", "--device", "cpu"]) == 0
    assert "1 of 1 runs" in capsys.readouterr().out and Path("results/smoke.jsonl").is_file()


def test_sweep_on_an_unknown_device(capsys, tmp_path):
    assert "not available" in failed(
        capsys, main(["sweep", "smoke", "--store", str(tmp_path / "x.jsonl"), "--device", "moon"])
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "0m"], "budget must be a time above zero such as 90s, 25m or 1h30m, got '0m'"),
        (["--budget", "25"], "budget must be a time above zero"),
        (["--jobs", "0"], "jobs must be a whole number >= 1, got 0"),
        (["--seeds", "0"], "seeds must be a whole number >= 1, got 0"),
        (["--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler answers at tcp://127.0.0.1:1"),
        (["--scheduler", "here"], "backend must be 'local' or a scheduler's address"),
    ],
)
def test_sweep_options_that_cannot_be(capsys, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("bridgeout_lite.runs.runner.PATIENCE", 1.0)
    assert message in failed(capsys, main(["sweep", "smoke", "--store", str(tmp_path / "x.jsonl"), *options]))


def test_sweep_with_seeds_and_a_budget(capsys, tmp_path, monkeypatch):
    one = experiments.Experiment("digits", train=128, width=0.25, recipe=bl.Recipe(epochs=1, batch_size=64), seed=5)
    monkeypatch.setattr("bridgeout_lite.cli.sweeps", lambda: {"smoke": lambda: [one]})
    store = tmp_path / "x.jsonl"
    words = ["sweep", "smoke", "--store", str(store), "--seeds", "2", "--budget", "1h", "--device", "cpu"]
    assert main(words) == 0 and "2 of 2 runs" in capsys.readouterr().out
    assert [r.spec["seed"] for r in bl.Store(store)] == [0, 1]


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["data", "imagenet"], ["cifar10", "digits", "ptb"]),
        (["train", "--dataset", "imagenet"], ["cifar10", "digits"]),
        (["train", "--model", "alexnet"], ["smallcnn"]),
        (["train", "--method", "dropin"], ["none", "sparseout", "bridgeout", "dropout"]),
        (["train", "--epochs", "many"], ["invalid int value"]),
        (["sweep", "everything"], ["smoke", "activations", "pruning-cifar10"]),
        ([], ["required: COMMAND"]),
        (["dance"], ["doctor", "data", "train", "sweep"]),
    ],
)
def test_unknown_words_are_usage_errors(capsys, words, allowed):
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last and all(word in last for word in allowed)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["data", "--help"], ["sweep", "--help"]])
def test_help(capsys, words):
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == 0 and "usage: bridgeout" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0 and capsys.readouterr().out == f"bridgeout_lite {bl.__version__}\n"


# --- as a process -----------------------------------------------------------------------------------------------------


def test_the_installed_command_fails_in_one_line(offline):
    command = Path(sys.executable).with_name("bridgeout")
    if not command.exists():
        pytest.skip("the package is not installed as a command here")
    done = subprocess.run([command, "data", "cifar10"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"bridgeout: error: not whole in {offline}") and done.stderr.count("\n") == 1


CHILD = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
    import sys, time
    from bridgeout_lite import cli, training

    real = training._epoch

    def epoch(*arguments, **options):
        row = real(*arguments, **options)
        if arguments[5] == 1:  # the epochs before this one
            print("in epoch 2", flush=True)
            time.sleep(600)
        return row

    training._epoch = epoch
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child")
def test_a_real_ctrl_c(tmp_path, capsys):
    file = tmp_path / "run.pt"
    command = [*TRAIN, "--epochs", "3", "--checkpoint", str(file)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), *command], env=environment, **pipes) as child:
        assert child.stdout.readline().startswith("digits: 128 training")
        assert child.stdout.readline() == "in epoch 2\n"
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=60)
    assert child.returncode == 130
    assert error == "interrupted in epoch 2 of 3: run the same call again to go on from epoch 2\n"
    assert main(command) == 0
    assert "test accuracy" in capsys.readouterr().out


def test_where_only_the_layers_can_be_used_one_line_says_what_is_missing():
    code = "import sys; sys.modules['pandas'] = None; from bridgeout_lite.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "needs pandas" in done.stderr and "bridgeout_lite[book]" in done.stderr


def test_a_code_page_that_lacks_a_letter_of_the_folder(tmp_path, monkeypatch):
    home = tmp_path / "Łódź"
    home.mkdir()
    monkeypatch.setenv("BRIDGEOUT_DATA", str(home))
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="cp1252", errors="strict"))
    assert main(["doctor"]) in (0, 1)
    sys.stdout.flush()
    assert b"\\u0141" in shown.getvalue()
