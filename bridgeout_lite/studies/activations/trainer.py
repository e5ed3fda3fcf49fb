"""Training one more setting of the recorded grid, for a reader with a kernel."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from ...data import DataError, Images, load_images
from ...runs.records import Record
from ...training import Recipe
from ..images import Experiment, run
from .tables import MODEL, one_grid, run_rows


class Trainer:
    """Trains the experiment of a recorded grid with another p, q or seed, in this process.

    Args:
        records: as for :func:`bridgeout_lite.studies.activations.tables.grid`.
        images: the data set of the records, if it is loaded already; else it is loaded when it is needed.
    """

    def __init__(self, records: Iterable[Record], images: Images | None = None) -> None:
        record = next((r for r in one_grid(records, MODEL) if r.spec["p"]), None)
        if record is None:
            raise ValueError(f"no recorded run of {MODEL} with noise is among the records: nothing says how to train")
        self.experiment = Experiment(**record.spec | {"recipe": Recipe(**record.spec["recipe"])})
        self.checksum = record.provenance["data_checksum"]
        self.images = images if images and images.checksum == self.checksum else None

    def __call__(self, p: float, q: float, seed: int, tell: Callable[[float, str], None]) -> pd.DataFrame:
        """The rows of the new run, as :func:`bridgeout_lite.studies.activations.tables.grid` has them.
        ``tell`` is given the progress: share, words.

        Raises:
            DataError: the recorded data set is not here.
            FloatingPointError: the training diverged.
        """
        noise: dict[str, Any] = {"p": p, "q": q} if p else {"method": "none", "p": 0.0, "q": 2.0}
        experiment = dataclasses.replace(self.experiment, seed=seed, **noise)
        epochs = experiment.recipe.epochs
        tell(0.0, "loading the data")
        self.images = self.images or self._load()
        tell(0.0, f"training, epoch 1 of {epochs}; interrupting the kernel stops it")

        def on_epoch(row: dict[str, float]) -> None:
            words = f"epoch {row['epoch']} of {epochs} done, validation accuracy {row['valid_accuracy']:.1f} %"
            tell(row["epoch"] / epochs, words)

        return run_rows([run(experiment, self.images, progress=False, on_epoch=on_epoch)])

    def _load(self) -> Images:
        wanted = self.experiment
        try:
            images = load_images(wanted.dataset, train=wanted.train, valid=wanted.valid, download=False)
        except DataError as error:
            what = f"run bridgeout_lite.load_images({wanted.dataset!r}), which fetches it, and train again"
            raise DataError(f"{wanted.dataset}, the recorded data set, is not here ({error}): {what}") from error
        if images.checksum != self.checksum:
            raise DataError(f"the {wanted.dataset} found here is not that of the recorded runs: its checksum differs")
        return images
