"""Sparsity by noise: the helper package of the book. Sparseout, Bridgeout, and what it takes to test them."""

from . import (
    arena,
    cost,
    evolution,
    experiments,
    explain,
    figures,
    flowers,
    landmarks,
    language,
    ledger,
    mechanisms,
    notebook,
    protocol,
    pruning,
    published,
    records,
    sparsity,
    structured,
    structured_output,
    sweeps,
    text,
    theory,
)
from .data import Corpus, DataError, Images, load_images, load_text
from .experiments import Experiment, run
from .layers import Bridgeout, Sparseout, attach_bridgeout, attach_sparseout, detach_bridgeout, detach_sparseout
from .models import build_model
from .noise import bridgeout, sparseout
from .records import Record, Store
from .records import package_version as _package_version
from .runner import sweep
from .training import CheckpointError, History, Recipe, evaluate, fit, pick_device

__version__ = _package_version()

__all__ = [
    "Bridgeout",
    "CheckpointError",
    "Corpus",
    "DataError",
    "Experiment",
    "History",
    "Images",
    "Recipe",
    "Record",
    "Sparseout",
    "Store",
    "arena",
    "attach_bridgeout",
    "attach_sparseout",
    "bridgeout",
    "build_model",
    "cost",
    "detach_bridgeout",
    "detach_sparseout",
    "evaluate",
    "evolution",
    "experiments",
    "explain",
    "figures",
    "fit",
    "flowers",
    "landmarks",
    "language",
    "ledger",
    "load_images",
    "load_text",
    "mechanisms",
    "notebook",
    "pick_device",
    "protocol",
    "pruning",
    "published",
    "records",
    "run",
    "sparseout",
    "sparsity",
    "structured",
    "structured_output",
    "sweep",
    "sweeps",
    "text",
    "theory",
]
