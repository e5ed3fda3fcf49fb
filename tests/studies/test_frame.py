"""What holds of every study's experiments and sweeps, said once."""

import dataclasses
from types import SimpleNamespace

import pytest

from bridgeout_lite.runs.records import fingerprint
from bridgeout_lite.studies import (
    arena,
    evolution,
    explanations,
    feature_flow,
    images,
    language,
    mechanisms,
    mechanisms_weights,
    structured_output,
    sweeps,
)
from bridgeout_lite.studies.adaptive import Adaptive

EXPERIMENTS = [
    images.Experiment,
    arena.ArenaExperiment,
    evolution.EvolutionExperiment,
    explanations.ExplanationExperiment,
    feature_flow.FlowExperiment,
    language.LanguageExperiment,
    mechanisms.MechanismExperiment,
    mechanisms_weights.WeightMechanism,
    structured_output.StructuredExperiment,
]
of_each = pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.__name__)


@of_each
def test_data_of_another_name_are_refused(experiment):
    wanted = experiment().dataset
    with pytest.raises(ValueError, match=f"asks for '{wanted}' but the data given is 'others'"):
        experiment().run(SimpleNamespace(name="others"), device="cpu")


@of_each
def test_2_and_2_point_0_are_one_experiment(experiment):
    usual = experiment()
    values = {f.name: getattr(usual, f.name) for f in dataclasses.fields(usual)}
    whole = {name: int(v) for name, v in values.items() if isinstance(v, float) and v == int(v)}
    assert whole
    assert fingerprint(experiment(**whole).spec) == fingerprint(usual.spec)


@of_each
def test_a_knob_that_is_turned_is_another_experiment(experiment):
    specs = [experiment().spec, experiment(seed=1).spec, dataclasses.replace(experiment(), seed=2).spec]
    assert len({fingerprint(spec) for spec in specs}) == 3


@pytest.mark.parametrize("name", sorted(name for name, make in sweeps().items() if not isinstance(make, Adaptive)))
def test_a_sweep_names_every_run_once(name):
    runs = sweeps()[name]()
    assert len({fingerprint(run.spec) for run in runs}) == len(runs)
