"""The command ``bridgeout``: check the machine, get the data, train, run sweeps, look at what is recorded."""

import argparse
import functools
import importlib
import io
import itertools
import os
import platform
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from .data import IMAGE_SETS, data_folder, load_images
from .ledger import check_claim, ledger_page, ledger_table, state
from .models import MODELS
from .notebook import data_state, results
from .runs import tables
from .runs.provenance import installed, package_version
from .runs.records import Store, rounded
from .runs.runner import parse_budget, with_seeds
from .runs.runner import sweep as run_sweep
from .studies import images as experiments
from .studies import recorded, sweeps
from .studies.adaptive import Adaptive, run_rounds
from .studies.measures import SPARSITY
from .text import TEXT_SETS, load_text
from .training import Recipe, pick_device, pick_precision
from .widgets.overview import overview

# What each group of the package's requirements is for; without the groups named here something does not run.
_WANTED = {"": "the layers need", "book": "the chapters need"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Expected failures print one line and give 1."""
    for stream in (sys.stdout, sys.stderr):  # a code page of Windows may lack a letter of a folder's name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        return 130
    except (ValueError, RuntimeError, OSError, FloatingPointError, ImportError) as error:
        print("bridgeout: error:", *str(error).splitlines(), file=sys.stderr)  # some messages of torch have many lines
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bridgeout", description=__doc__)
    parser.add_argument("--version", action="version", version=f"bridgeout_lite {package_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="say what works on this machine and what to change")
    doctor.set_defaults(run=_doctor)

    data = commands.add_parser("data", help="find, fetch and verify a data set")
    data.add_argument("name", nargs="?", default="auto", choices=sorted({*IMAGE_SETS, *TEXT_SETS}))
    data.add_argument("--root", type=Path, help="folder that holds or receives the data (default: $BRIDGEOUT_DATA)")
    data.add_argument("--no-download", action="store_true", help="only look")
    data.set_defaults(run=_data)

    train = commands.add_parser("train", help="train one network and print what came of it")
    train.add_argument("--dataset", default="auto", choices=IMAGE_SETS)
    train.add_argument("--model", default="smallcnn", choices=sorted(MODELS))
    train.add_argument("--method", default="sparseout", choices=experiments.METHODS)
    train.add_argument("-p", type=float, default=0.1, help="drop probability, 0 <= p < 1")
    train.add_argument("-q", type=float, default=2.0, help="exponent of the penalty, q >= 0")
    train.add_argument("--width", type=float, default=1.0)
    train.add_argument("--train", type=int, help="use at most this many training images")
    train.add_argument("--epochs", type=int, default=Recipe.epochs)
    train.add_argument("--lr", type=float, default=Recipe.lr)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="auto")
    train.add_argument("--checkpoint", type=Path, help="file to keep, and to go on from if it exists")
    train.add_argument("--store", type=Path, help="append the record to this .jsonl file")
    train.set_defaults(run=_train)

    sweep = commands.add_parser("sweep", help="run what a recorded sweep still lacks")
    sweep.add_argument("name", choices=sorted(sweeps()))
    sweep.add_argument("--store", type=Path, help="default: results/NAME.jsonl")
    sweep.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    sweep.add_argument("--jobs", type=int, default=1, help="runs at once on this machine, or on one GPU (default: 1)")
    sweep.add_argument("--seeds", type=int, metavar="N", help="every setting with seeds 0 to N-1, not those it names")
    sweep.add_argument(
        "--budget", metavar="TIME", help="stop in time, such as 90s, 25m or 1h30m; a second call goes on"
    )
    sweep.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler whose workers do the runs: tcp://...")
    sweep.set_defaults(run=_sweep)

    results = commands.add_parser("results", help="list, filter or compare recorded runs")
    results.add_argument("stores", nargs="*", type=Path, metavar="STORE", help="default: results/*.jsonl")
    results.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="such as method=none,dropout"
    )
    results.add_argument("--columns", metavar="FIELD,...", help="such as key,recipe.lr,test_loss")
    results.add_argument("--sort", metavar="FIELD")
    results.add_argument("--csv", action="store_true", help="print comma-separated values")
    results.add_argument("--diff", action="store_true", help="compare two stores; the status is 1 if they differ")
    results.set_defaults(run=_results)

    check = commands.add_parser("check", help="compute one row of the ledger again from the records")
    check.add_argument("claim", metavar="NAME", help="the end of the row's permanent link")
    check.add_argument("--rerun", action="store_true", help="repeat the cheapest run behind it, in a scratch store")
    check.set_defaults(run=_check)

    report = commands.add_parser("report", help="write the ledger and the overview figure from results/")
    report.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    report.set_defaults(run=_report)
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    problems = []
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    for extra, requirements in _requirements().items():
        print(f"  [{extra}]" if extra else f"  bridgeout_lite {package_version()}")
        lacking = []
        for requirement in requirements:
            found = installed(requirement.name)
            fits = found is not None and requirement.specifier.contains(found, prereleases=True)
            print(f"    {requirement.name} {found or 'missing'}" + ("" if fits else f", wanted {requirement}"))
            if not fits:
                lacking.append(str(requirement))
        if lacking and extra in _WANTED:
            cure = " ".join(f'"{name}"' for name in lacking)
            problems.append(f"{_WANTED[extra]} {', '.join(lacking)}: pip install {cure}")
    try:
        from .tv_compat import import_torchvision

        import_torchvision()
        importlib.import_module("torchvision.datasets")
    except (ImportError, RuntimeError) as error:
        problems.append(f"torchvision does not import ({error}): install the pair of requirements.txt")
    device = pick_device()
    print(f"device: {device}, precision {pick_precision('auto', device)}, {torch.get_num_threads()} CPU threads")
    print(f"data: {data_state()} ({data_folder()})")
    for problem in problems:
        print(f"problem: {problem}")
    print("all is well" if not problems else f"{len(problems)} problem(s)")
    return 1 if problems else 0


def _requirements() -> dict[str, list[Requirement]]:
    """What the metadata of the installed package ask for: "" is always needed, each other key is an extra."""
    try:
        about = metadata("bridgeout_lite")
    except PackageNotFoundError:
        raise RuntimeError("bridgeout_lite is not installed: pip install --no-deps -e . in its folder") from None
    asked = [Requirement(line) for line in about.get_all("Requires-Dist") or []]
    groups: dict[str, list[Requirement]] = {extra: [] for extra in ("", *(about.get_all("Provides-Extra") or []))}
    for requirement in asked:
        marker = requirement.marker
        extra = next((e for e in groups if marker is None or marker.evaluate({"extra": e})), None)
        if extra is not None:  # else it is for another system or Python
            groups[extra].append(Requirement(str(requirement).partition(";")[0]))
    return groups


def _data(arguments: argparse.Namespace) -> int:
    load = load_text if arguments.name in TEXT_SETS and arguments.name not in IMAGE_SETS else load_images
    loaded = load(arguments.name, arguments.root, download=not arguments.no_download)
    print(f"{loaded!r} (checksum {loaded.checksum})")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    device, recipe = pick_device(arguments.device), Recipe(epochs=arguments.epochs, lr=arguments.lr)
    names = ("dataset", "model", "method", "p", "q", "width", "train", "seed")
    # says what is wrong with p, q, ... before any data is fetched
    experiment = experiments.Experiment(**{name: getattr(arguments, name) for name in names}, recipe=recipe)
    images = load_images(arguments.dataset, train=arguments.train)
    print(images)
    record = experiments.run(experiment, images, device=device, checkpoint=arguments.checkpoint)
    metrics = record.metrics
    for name, layer in metrics["layers"].items():
        measured = [f"{k} {rounded(layer[k], 3)}" for k in SPARSITY]
        print(f"  {name}: {', '.join(measured)}")
    print(f"validation accuracy {metrics['valid_accuracy']:.2f} %, test accuracy {metrics['test_accuracy']:.2f} %")
    print(f"{record.provenance['seconds']:.0f} s on {record.provenance['device']}")
    # last: if it cannot be written, the results are on the screen at least
    if arguments.store and not Store(arguments.store).append(record):
        print(f"{arguments.store} has a record of this experiment already: nothing was added")
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    store = Store(arguments.store or Path("results") / f"{arguments.name}.jsonl")
    make = sweeps()[arguments.name]
    if arguments.seeds is not None:
        if isinstance(make, Adaptive):
            raise ValueError(f"--seeds goes with sweeps that are plain lists; {arguments.name} goes on by its results")
        make = functools.partial(with_seeds, make(), arguments.seeds)
    options = {"backend": arguments.scheduler or "local", "device": arguments.device, "jobs": arguments.jobs}
    budget = None if arguments.budget is None else parse_budget(arguments.budget)
    records, todo = run_rounds(make, store, functools.partial(run_sweep, **options), budget)
    print(f"{len(records)} of {len(todo)} runs of {arguments.name} are recorded in {store.path}")
    return 0


def _results(arguments: argparse.Namespace) -> int:
    stores = [Store(path) for path in arguments.stores or sorted(Path("results").glob("*.jsonl"))]
    if not stores:
        raise FileNotFoundError("no results/*.jsonl here: name a store, or make one with bridgeout sweep NAME")
    for store in stores:
        if not store.path.exists():
            raise FileNotFoundError(f"no store {store.path}: bridgeout results STORE reads a .jsonl file of a sweep")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return (_compare if arguments.diff else _list)(arguments, stores)
        finally:
            for text in dict.fromkeys(str(warning.message) for warning in caught):
                print(f"bridgeout: warning: {text}", file=sys.stderr)


def _list(arguments: argparse.Namespace, stores: list[Store]) -> int:
    records = itertools.chain.from_iterable(stores)
    columns = arguments.columns.split(",") if arguments.columns else tables.COLUMNS
    table = tables.runs_table(records, tables.conditions(arguments.where), columns, arguments.sort)
    if arguments.csv:
        print(table.to_csv(index=False), end="")
    else:
        if "commit" in table:
            table["commit"] = [commit[:7] if isinstance(commit, str) else commit for commit in table["commit"]]
        print(tables.as_text(table) if len(table) else "no runs")
    return 0


def _compare(arguments: argparse.Namespace, stores: list[Store]) -> int:
    if len(stores) != 2 or arguments.where or arguments.columns or arguments.sort or arguments.csv:
        raise ValueError("--diff compares two whole stores: bridgeout results --diff A.jsonl B.jsonl")
    only_a, only_b, metrics = tables.differences(*stores)
    for store, records in zip(stores, (only_a, only_b), strict=True):
        print(f"only in {store.path}: {len(records)} specs")
        if records:
            print(tables.as_text(tables.runs_table(records, columns=tables.COLUMNS[:8])))
    print(f"in both: {len(stores[0].keys()) - len(only_a)} specs, {len(metrics)} metrics differ")
    if len(metrics):
        print(tables.as_text(metrics.rename(columns={"largest": "largest relative difference"})))
    return int(bool(only_a or only_b or len(metrics)))


def _check(arguments: argparse.Namespace) -> int:
    for line in check_claim(arguments.claim, rerun=arguments.rerun, run=run_sweep):
        print(line, flush=True)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    records = recorded()
    page, text = Path("book") / "ledger.md", ledger_page(records)
    if arguments.check:
        fresh = page.is_file() and page.read_text(encoding="utf-8") == text
        print(f"{page} is {'up to date' if fresh else 'out of date: run bridgeout report'}")
        return 0 if fresh else 1
    page.write_text(text, encoding="utf-8")
    readme = Path("README.md")
    marked = re.compile(r"(<!-- ledger -->).*?(<!-- /ledger -->)", re.DOTALL)
    sentence = state(ledger_table(records))
    readme.write_text(marked.sub(rf"\1 {sentence} \2", readme.read_text(encoding="utf-8")), encoding="utf-8")
    picture = Path("book") / "static" / "overview.png"
    overview(results("activations")).savefig(picture, dpi=130)
    print(f"wrote {page}, {picture} and the ledger's state in {readme}")
    return 0


if __name__ == "__main__":  # python -m bridgeout_lite.cli, where the command is not on the path
    sys.exit(main())
