"""What a chapter's cells call beside the mathematics: the first cell, predictions, exercises, recorded runs."""

import os
import platform
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from . import figures
from .checks import check_choice
from .data import CIFAR10_ARCHIVE, data_folder
from .runs.provenance import package_version
from .runs.records import Store, find_store, result_folders
from .training import pick_device

if TYPE_CHECKING:
    from .predict import predict

__all__ = ["check", "data_state", "predict", "results", "scale", "setup"]


def __getattr__(name: str) -> Any:
    if name != "predict":  # loaded when it is used, so that a chapter without a lock does not depend on it
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .predict import predict

    globals()[name] = predict
    return predict


def setup(seed: int = 0, *, minutes: float | None = None) -> torch.device:
    """Seed torch, set the figure style, print versions, device, data and, if given, the chapter's running time in
    ``minutes`` on two CPU cores; return the device."""
    torch.manual_seed(seed)
    # torch 2.14 warns of its own use of torch.jit in forward-mode differentiation
    warnings.filterwarnings("ignore", r".*torch\.jit\.script.*deprecated", FutureWarning)
    figures.use_style()
    device = pick_device()
    versions = [f"Python {platform.python_version()}", f"bridgeout_lite {package_version()}"]
    for name in ("torch", "torchvision", "numpy", "matplotlib"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} missing")
    print(", ".join(versions))
    print(f"device: {device}, {torch.get_num_threads()} CPU threads, seed {seed}")
    print(f"data: {data_state()}")
    if minutes is not None:
        print(f"this chapter takes about {minutes:g} min on two CPU cores")
    return device


def data_state() -> str:
    """One line on the image data that ``load_images("auto")`` will use."""
    folder = data_folder()
    if (folder / "cifar-10-batches-py").is_dir() or (folder / CIFAR10_ARCHIVE).exists():
        return "CIFAR-10 is here"
    if os.environ.get("BRIDGEOUT_OFFLINE"):
        return "no CIFAR-10 here and downloads are off: scikit-learn's handwritten digits stand in"
    return "no CIFAR-10 here yet: it is fetched when first needed (170 MB), else handwritten digits stand in"


def scale() -> str:
    """The size at which live cells train: "gpu", as large as the recorded runs, where torch has a CUDA device; else
    "cpu", about a minute on two cores. The environment variable BRIDGEOUT_SCALE chooses one of the two.

    Raises:
        ValueError: BRIDGEOUT_SCALE is something else.
    """
    chosen = os.environ.get("BRIDGEOUT_SCALE") or ("gpu" if torch.cuda.is_available() else "cpu")
    check_choice(chosen, ("cpu", "gpu"), "BRIDGEOUT_SCALE")
    return chosen


def results(name: str) -> Store:
    """The recorded runs ``results/NAME.jsonl`` of the book; FileNotFoundError lists the places looked in."""
    path = find_store(name)
    if path is None:
        places = ", ".join(map(str, result_folders()))
        raise FileNotFoundError(f"no {name}.jsonl in {places}: clone the whole book, or run the sweep")
    return Store(path)


def check(name: str, answer: Any) -> None:
    """Print whether ``answer`` solves the exercise ``name``, such as "ex-02-c", and if not, how far off it is.

    Raises:
        ValueError: no such exercise takes an answer, or it takes another kind of answer.
    """
    from .exercises import verdict

    print(f"{name}: {verdict(name, answer)}")
