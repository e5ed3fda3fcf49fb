"""The recorded grids of the language models as one table."""

from collections.abc import Iterable

import pandas as pd

from ...runs.records import Record
from ..activations.tables import layer_rows, one_grid
from .claims import small_language_runs


def grid(records: Iterable[Record]) -> pd.DataFrame:
    """The language models that read a part of the training text, without noise and with Sparseout: one row per run and
    layer, with the columns of :func:`bridgeout_lite.studies.activations.tables.layer_rows` and perplexities as scores.

    Raises:
        ValueError: as :func:`bridgeout_lite.studies.activations.tables.one_grid`.
    """
    records = [*records]
    runs = [run for model in ("lstm", "transformer") for run in one_grid(small_language_runs(records, model), model)]
    return pd.DataFrame(row for run in runs for row in layer_rows(run, "perplexity"))
