"""Measures of sparsity on tensors, and on the activations of a network."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

import bridgeout_lite as bl
from bridgeout_lite import sparsity

MEASURES = [sparsity.hoyer, sparsity.gini, sparsity.zero_fraction]

magnitude = st.one_of(st.just(0.0), st.floats(1e-3, 1e3), st.floats(-1e3, -1e-3))
vectors = hnp.arrays(np.float64, st.integers(2, 40), elements=magnitude).map(torch.from_numpy)
property_test = settings(max_examples=150, deadline=None, derandomize=True)


def scalar(x: Tensor) -> float:
    assert x.dim() == 0
    return x.item()


def some(*shape: int) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=g) * (torch.rand(shape, generator=g) < 0.6)


# ---- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 10, 1000, 100_000])
def test_known_values(n):
    one_hot = torch.zeros(n, dtype=torch.float64)
    one_hot[n // 2] = -3.0
    assert scalar(sparsity.hoyer(one_hot)) == pytest.approx(1.0, abs=1e-12)
    assert scalar(sparsity.gini(one_hot)) == pytest.approx(1.0 - 1.0 / n, abs=1e-12)
    assert scalar(sparsity.zero_fraction(one_hot)) == pytest.approx(1.0 - 1.0 / n, rel=1e-6)
    constant = torch.full((n,), -0.7, dtype=torch.float64)
    assert scalar(sparsity.hoyer(constant)) == pytest.approx(0.0, abs=1e-9)
    assert scalar(sparsity.gini(constant)) == pytest.approx(0.0, abs=1e-9)
    assert scalar(sparsity.zero_fraction(constant)) == 0.0


def test_values_worked_out_by_hand():
    x = torch.tensor([3.0, 0.0, -4.0, 0.0])
    assert scalar(sparsity.hoyer(x)) == pytest.approx((2 - 7 / 5) / (2 - 1))
    # sorted 0 0 3 4: 1 - 2 (3/7 * 1.5/4 + 4/7 * 0.5/4)
    assert scalar(sparsity.gini(x)) == pytest.approx(1 - 2 * (3 * 1.5 + 4 * 0.5) / 28)
    assert scalar(sparsity.zero_fraction(x)) == 0.5
    assert scalar(sparsity.zero_fraction(x, threshold=3.0)) == 0.75
    assert scalar(sparsity.zero_fraction(x, threshold=4.0)) == 1.0


def test_half_of_a_vector_on():
    """k of n equal, the rest zero: hoyer (sqrt n - sqrt k)/(sqrt n - 1), gini 1 - k/n."""
    for n, k in [(16, 4), (100, 25), (64, 1), (9, 9)]:
        x = torch.zeros(n, dtype=torch.float64)
        x[:k] = 2.5
        assert scalar(sparsity.hoyer(x)) == pytest.approx((math.sqrt(n) - math.sqrt(k)) / (math.sqrt(n) - 1), abs=1e-9)
        assert scalar(sparsity.gini(x)) == pytest.approx(1 - k / n, abs=1e-9)


def test_gini_against_its_definition_by_pairs():
    """Mean absolute difference over all pairs, over twice the mean."""
    a = some(50).abs().double()
    pairs = (a[:, None] - a[None, :]).abs().mean() / (2 * a.mean())
    assert scalar(sparsity.gini(a)) == pytest.approx(pairs.item(), abs=1e-12)


def test_zeros_count_as_fully_sparse():
    for x in (torch.zeros(5), torch.zeros(3, 4, dtype=torch.int64), -torch.zeros(2)):
        for measure in MEASURES:
            assert scalar(measure(x)) == 1.0
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    for measure in MEASURES:
        torch.testing.assert_close(measure(rows, 1), torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)


@property_test
@given(x=vectors, scale=st.floats(1e-6, 1e6), negative=st.booleans())
def test_scale_does_not_matter(x, scale, negative):
    y = x * (-scale if negative else scale)
    for measure in MEASURES:
        assert abs(scalar(measure(y)) - scalar(measure(x))) < 1e-9


@property_test
@given(x=vectors, seed=st.integers(0, 1000))
def test_order_and_signs_do_not_matter(x, seed):
    g = torch.Generator().manual_seed(seed)
    y = x[torch.randperm(len(x), generator=g)] * (2.0 * torch.randint(0, 2, x.shape, generator=g) - 1)
    for measure in MEASURES:
        assert abs(scalar(measure(y)) - scalar(measure(x))) < 1e-9


@property_test
@given(x=vectors)
def test_values_lie_in_their_range(x):
    assert 0.0 <= scalar(sparsity.hoyer(x)) <= 1.0
    assert 0.0 <= scalar(sparsity.zero_fraction(x)) <= 1.0
    gini = scalar(sparsity.gini(x))
    assert 0.0 <= gini <= (1.0 - 1.0 / len(x) + 1e-12 if x.any() else 1.0)


@property_test
@given(x=vectors)
def test_doubling_a_vector_leaves_gini(x):
    """Gini does not depend on the size of the population (Hurley and Rickard's property P1/"cloning")."""
    assert abs(scalar(sparsity.gini(torch.cat([x, x]))) - scalar(sparsity.gini(x))) < 1e-9


@pytest.mark.parametrize("value", [1e-25, 1e25])
def test_scale_does_not_matter_at_the_ends_of_float32(value):
    assert scalar(sparsity.hoyer(torch.full((4,), value))) == pytest.approx(0.0, abs=1e-6)


# ---- dim --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES)
def test_dim_equals_a_loop(measure):
    x = some(3, 4, 5, 6)
    everything = {
        0: torch.stack([measure(v) for v in x.permute(1, 2, 3, 0).reshape(-1, 3)]).view(4, 5, 6),
        -1: torch.stack([measure(v) for v in x.reshape(-1, 6)]).view(3, 4, 5),
        (2, 3): torch.stack([measure(v) for v in x.reshape(12, 30)]).view(3, 4),
        (1, 2, 3): torch.stack([measure(v) for v in x]),
        (0, 3): torch.stack([measure(v) for v in x.permute(1, 2, 0, 3).reshape(20, 18)]).view(4, 5),
        (0, 1, 2, 3): measure(x),
    }
    for dim, want in everything.items():
        torch.testing.assert_close(measure(x, dim), want)
    torch.testing.assert_close(measure(x, (-1, 0)), everything[0, 3])  # in any order, from either end
    torch.testing.assert_close(measure(x), measure(x.flatten()))
    torch.testing.assert_close(measure(x.permute(2, 0, 3, 1)), measure(x))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_dim_out_of_range_is_an_error(measure):
    with pytest.raises(IndexError):
        measure(some(2, 3), 5)


# ---- types ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("measure", MEASURES)
def test_other_types_of_number(measure, dtype):
    x = torch.tensor([0, 3, 0, 1, 2, 100], dtype=dtype)
    got = measure(x)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(measure(x.double()).item(), abs=1e-6)


def test_float64_is_worked_on_in_float64():
    assert sparsity.hoyer(some(5).double()).dtype == torch.float64
    assert sparsity.gini(some(5).double()).dtype == torch.float64


def test_half_precision_sums_do_not_overflow():
    x = torch.full((10_000,), 100.0, dtype=torch.float16)
    for measure in MEASURES:
        assert scalar(measure(x)) == pytest.approx(0.0, abs=1e-5)


def test_the_smallest_int8():
    assert scalar(sparsity.zero_fraction(torch.tensor([-128, 1], dtype=torch.int8))) == 0.0


def test_boolean_masks():
    assert scalar(sparsity.zero_fraction(torch.tensor([True, False, False, False]))) == 0.75


def test_the_measures_are_differentiable():
    for measure in (sparsity.hoyer, sparsity.gini):
        x = torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(measure, (x,))


def test_errors():
    for measure in MEASURES:
        for bad in ([1.0, 2.0], 1.0, None, np.ones(3)):
            with pytest.raises(TypeError, match="a tensor of real numbers is needed, got"):
                measure(bad)
        with pytest.raises(ValueError, match="complex64"):
            measure(torch.ones(3, dtype=torch.complex64))
        with pytest.raises(ValueError, match="at least"):
            measure(torch.empty(0))
        with pytest.raises(ValueError, match="at least"):
            measure(torch.empty(3, 0), 1)
    for measure in MEASURES[:2]:
        with pytest.raises(ValueError, match="at least 2"):
            measure(torch.ones(1))
        with pytest.raises(ValueError, match="at least 2"):
            measure(torch.ones(5, 1), 1)
    assert scalar(sparsity.zero_fraction(torch.tensor(0.0))) == 1.0


def test_filter_norms():
    w = some(4, 3, 5, 5)
    torch.testing.assert_close(sparsity.filter_norms(w), torch.stack([f.square().sum().sqrt() for f in w]))
    torch.testing.assert_close(sparsity.filter_norms(w, 1), torch.stack([f.abs().sum() for f in w]))
    torch.testing.assert_close(sparsity.filter_norms(w[:, :, 0, 0]), w[:, :, 0, 0].norm(dim=1))
    assert not sparsity.filter_norms(nn.Parameter(w)).requires_grad
    with pytest.raises(ValueError, match=r"at least 2 dimensions .* \(3,\)"):
        sparsity.filter_norms(torch.ones(3))


# ---- activations ------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10), nn.Tanh()
        )


def images() -> Tensor:
    return torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("per_sample", [False, True])
def test_recorded_values_equal_a_direct_computation(per_sample):
    model = network().eval()
    out = model(images()).detach()
    hidden = model[:3](images()).detach()
    record = sparsity.record_activations(model, images(), per_sample=per_sample)
    assert list(record) == ["2", "5"]
    for name, values in (("2", hidden), ("5", out)):
        for measure in MEASURES:
            want = torch.stack([measure(v) for v in values]).mean() if per_sample else measure(values)
            assert record[name][measure.__name__] == pytest.approx(want.item(), abs=1e-6)
        assert record[name]["rms"] == pytest.approx(values.square().mean().sqrt().item(), rel=1e-6)
        assert all(type(v) is float for v in record[name].values())
    assert record["2"]["zero_fraction"] > 0.2


def test_per_sample_tells_silent_units_from_sparse_samples():
    batch = torch.eye(4)  # each sample turns one unit on; each unit is on for one sample
    loud = torch.tensor([[8.0, 8.0], [1.0, 1.0]])  # equal within a sample, unequal over the batch
    model = nn.Sequential(nn.ReLU())
    assert sparsity.record_activations(model, batch, per_sample=True)["0"]["hoyer"] == pytest.approx(1.0)
    assert sparsity.record_activations(model, loud, per_sample=True)["0"]["hoyer"] == pytest.approx(0.0, abs=1e-6)
    assert sparsity.record_activations(model, loud)["0"]["hoyer"] > 0.1


@pytest.mark.parametrize("training", [True, False])
def test_recording_leaves_the_model_as_it_was(training):
    model = network().train(training)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sparsity.record_activations(model, images())
    assert all(m.training is training for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # no BatchNorm update
    assert all(p.grad is None for p in model.parameters())


def test_noise_is_off_while_recording():
    model = network()
    clean = sparsity.record_activations(model, images())
    bl.attach_sparseout(model, 0.5, 1.0).train()
    assert sparsity.record_activations(model, images()) == clean
    bl.attach_bridgeout(model, 0.5, 1.0)
    assert sparsity.record_activations(model, images()) == clean


def test_which_layers_are_recorded():
    names = list(sparsity.record_activations(network(), images(), where=lambda n, m: isinstance(m, nn.Conv2d)))
    assert names == ["0"]
    linear = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5)))
    assert list(sparsity.record_activations(linear, torch.randn(2, 3))) == ["0", "1.0"]  # no nonlinearity: the leaves
    with pytest.raises(ValueError, match="picked no module"):
        sparsity.record_activations(network(), images(), where=lambda n, m: False)


def test_the_order_is_that_of_execution():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.ReLU(), nn.Tanh()

        def forward(self, x):
            return self.second(self.first(x))

    assert list(sparsity.record_activations(Backwards(), images())) == ["first", "second"]


def test_capture_gives_the_tensors_themselves():
    model = network().eval()
    outputs = bl.modules.capture_activations(model, images())
    assert torch.equal(outputs["5"], model(images()))
    assert not any(v.requires_grad for v in outputs.values())


def test_a_layer_before_an_in_place_nonlinearity():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)).eval()
    outputs = bl.modules.capture_activations(model, images(), where=lambda n, m: isinstance(m, nn.Conv2d))
    assert torch.equal(outputs["0"], model[0](images()))


def test_half_precision_activations():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).to(torch.bfloat16)
    record = sparsity.record_activations(model, torch.randn(5, 3).to(torch.bfloat16))
    assert all(math.isfinite(v) for v in record["1"].values())


class Again(nn.Module):
    """One nonlinearity, used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU()

    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x))))


def test_a_layer_that_runs_twice_has_no_single_output():
    model = Again()
    with pytest.raises(ValueError, match="'relu' runs twice in one forward pass: give each use a module of its own"):
        bl.modules.capture_activations(model, torch.randn(2, 3))
    assert model.training and not any(m._forward_hooks for m in model.modules())
    found = bl.modules.capture_activations(
        model, torch.randn(2, 3), where=lambda name, module: name in ("first", "second")
    )
    assert list(found) == ["first", "second"]


@pytest.mark.parametrize("name", bl.models.MODELS)
def test_no_network_of_ours_runs_a_layer_twice(name):
    model = bl.build_model(name, width=0.05)
    assert bl.modules.capture_activations(model, torch.randn(2, 3, 32, 32), where=lambda name, module: bool(name))


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_no_language_model_of_ours_does_either(name):
    model = bl.studies.language.build_language_model(name, 20, width=8)
    tokens = torch.randint(20, (6, 2), generator=torch.Generator().manual_seed(0))
    assert bl.modules.capture_activations(model, tokens, where=bl.studies.language.is_noise_place)
