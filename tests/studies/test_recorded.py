"""Every recorded run is found again: its spec is one that its sweep asks for today."""

import pkgutil
from importlib import import_module
from pathlib import Path

import pytest

from bridgeout_lite import Store, studies
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


@pytest.mark.parametrize("name", STUDIES)
def test_no_name_of_a_study_hides_one_of_its_modules(name):
    package = getattr(studies, name.replace("-", "_"))
    for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
        imported = import_module(f"{package.__name__}.{module.name}")
        assert getattr(package, module.name) is imported
