"""Every recorded run is found again: its spec is one that its sweep asks for today."""

import pytest

import bridgeout_lite as bl


@pytest.mark.parametrize("name", bl.notebook.RECORDED)
def test_recorded_specs_are_those_of_the_sweep(name):
    wanted = {bl.runs.records.fingerprint(experiment.spec) for experiment in bl.studies.SWEEPS[name]()}
    recorded = bl.notebook.results(name).keys()
    assert recorded and recorded <= wanted
