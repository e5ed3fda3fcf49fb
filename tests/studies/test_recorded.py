"""Every recorded run is found again: its spec is one that its sweep asks for today."""

from pathlib import Path

import pytest

from bridgeout_lite import Store
from bridgeout_lite.runs.records import fingerprint
from bridgeout_lite.studies import STUDIES, sweeps
from bridgeout_lite.studies.adaptive import Adaptive

STORES = sorted((Path(__file__).parents[2] / "results").glob("*.jsonl"))


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
def test_recorded_specs_are_those_of_the_sweep(path):
    make = sweeps()[path.stem]
    runs = make(Store(path)) if isinstance(make, Adaptive) else make()
    wanted = {fingerprint(experiment.spec) for experiment in runs}
    recorded = Store(path).keys()
    assert recorded and recorded <= wanted


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_called_the_same_everywhere(name):
    study = STUDIES[name]
    assert study.name == name
    assert not study.sweeps or study.table is not None
    assert len({claim.slug for claim in study.claims}) == len(study.claims), "each claim has an anchor of its own"
