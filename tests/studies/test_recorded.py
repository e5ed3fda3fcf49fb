"""Every recorded run is found again: its spec is one that its sweep asks for today."""

from pathlib import Path

import pytest

from bridgeout_lite import Store
from bridgeout_lite.runs.records import fingerprint
from bridgeout_lite.studies import STUDIES, sweeps

STORES = sorted((Path(__file__).parents[2] / "results").glob("*.jsonl"))


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
def test_recorded_specs_are_those_of_the_sweep(path):
    wanted = {fingerprint(experiment.spec) for experiment in sweeps()[path.stem]()}
    recorded = Store(path).keys()
    assert recorded and recorded <= wanted


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_called_the_same_everywhere(name):
    study = STUDIES[name]
    assert study.name == name
    assert len({claim.slug for claim in study.claims}) == len(study.claims), "each claim has an anchor of its own"
