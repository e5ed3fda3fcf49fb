"""Constants that recorded results depend on, and that no spec spells out: each change of one needs a new PROTOCOL."""

import hashlib
import json

import pytest

from bridgeout_lite import training
from bridgeout_lite.studies import curves, images, measures, mechanisms, mechanisms_weights
from bridgeout_lite.studies.arena import study as arena
from bridgeout_lite.studies.evolution import study as evolution
from bridgeout_lite.studies.evolution import synthesis, teacher
from bridgeout_lite.studies.explanations import faithfulness, flowers, pictures
from bridgeout_lite.studies.explanations import study as explanations
from bridgeout_lite.studies.feature_flow import study as flow
from bridgeout_lite.studies.language import fit
from bridgeout_lite.studies.language import study as language
from bridgeout_lite.studies.structured_output import faces, model
from bridgeout_lite.studies.structured_output import study as structured

PRUNING = "AMOUNTS SOME BATCHES FINE_TUNING CURVES CHOSEN_BY RELEASED RELEASED_AMOUNTS"

# By experiment its PROTOCOL, the digest of its constants at that number, and by module their names.
CONSTANTS = {
    images.Experiment: (
        1,
        "800a08d4c486",
        {measures: "HISTOGRAM_EDGES MEASURED_IMAGES MAPPED_IMAGES", curves: PRUNING, training: "VIEWS"},
    ),
    arena.ArenaExperiment: (
        1,
        "44e739ee6b25",
        {arena: "AMOUNTS RANKINGS CONTROLS BATCHES FINE_TUNING TREATMENTS CAP SPLITTING"},
    ),
    flow.FlowExperiment: (
        1,
        "cfb4bf0492d6",
        {flow: "MEASURED_IMAGES BATCHES FILTERS FILTER_AMOUNTS WEIGHT_AMOUNTS BLOCK_COUNTS"},
    ),
    evolution.EvolutionExperiment: (1, "06a6535c3ff5", {synthesis: "TRUNCATION"}),
    teacher.TeacherExperiment: (1, "1eb0042fba6c", {synthesis: "TRUNCATION", teacher: "ALIKE"}),
    explanations.ExplanationExperiment: (
        1,
        "c0d4fbd37124",
        {
            explanations: "DESCRIBED_IMAGES EXPLAINED_IMAGES MUS SHARES",
            faithfulness: "DRAWS DELETED",
            pictures: "KEEP",
            flowers: "PARTS COLOURS JITTER GRAIN VARIANTS SIDE",
        },
    ),
    language.LanguageExperiment: (1, "adf513b2ac78", {language: "MEASURED_TOKENS", fit: "EVALUATED_STREAMS SAMPLED"}),
    structured.StructuredExperiment: (
        1,
        "a52d194ef461",
        {faces: "INNER POOL POOL_SIZE", model: "FALLS_FROM INPUT_ENDS OUTPUT_ENDS"},
    ),
    mechanisms.MechanismExperiment: (1, "0d3e53f9d5e3", {mechanisms: "WATCHED PROBED PROBE_DRAWS PROBES MEASURED"}),
    mechanisms_weights.WeightMechanism: (
        1,
        "7f357a3549bb",
        {mechanisms_weights: "NEWS FLOOR", mechanisms: "WATCHED", curves: PRUNING},
    ),
}


def digest(names):
    """Of the values of these constants; a recipe counts with what its spec tells."""
    values = [getattr(module, name) for module in names for name in names[module].split()]
    text = json.dumps(values, sort_keys=True, default=lambda value: value.spec)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@pytest.mark.parametrize("experiment", CONSTANTS, ids=lambda experiment: experiment.__name__)
def test_a_constant_changes_with_its_protocol(experiment):
    protocol, known, names = CONSTANTS[experiment]
    where = f"{experiment.__module__}.{experiment.__name__}"
    assert (experiment.PROTOCOL, digest(names)) == (protocol, known), (
        f"a constant that recorded results depend on has changed: raise PROTOCOL in {where} and write the new digest "
        f"{digest(names)} beside it here, or take the change back"
    )


@pytest.mark.parametrize("experiment", CONSTANTS, ids=lambda experiment: experiment.__name__)
def test_a_new_protocol_is_a_new_spec(experiment, monkeypatch):
    before = experiment().spec
    assert before.get("protocol", 1) == 1
    monkeypatch.setattr(experiment, "PROTOCOL", 2)
    assert experiment().spec == before | {"protocol": 2}
