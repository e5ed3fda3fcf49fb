"""Looking into a module from outside leaves it as it was, also when something goes wrong."""

import pytest
import torch
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite.modules import capture_activations, doubled, evaluating, pick, seeded
from bridgeout_lite.rivals import proximal
from bridgeout_lite.studies.explanations.features import explained_share, predict
from bridgeout_lite.theory import lq_penalty


class Breaks(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken")


def frozen(*last):
    """A network in training mode whose BatchNorm is frozen in evaluation mode."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 30 * 30, 10), *last)
    model[1].eval()
    return model


LOOKS = {
    "evaluate": lambda model, digits: bl.evaluate(model, digits, "valid"),
    "record_activations": lambda model, digits: bl.sparsity.record_activations(model, digits.train.x[:2].float()),
    "run_once": lambda model, digits: bl.modules.run_once(model, digits.train.x[:2].float()),
    "cost": lambda model, digits: bl.cost.measure(model, digits.train.x[:2].float(), repeats=1),
    "recalibrate": lambda model, digits: bl.pruning.recalibrate_batchnorm(model, digits, 1),
    "predict": lambda model, digits: predict(model, digits.train.x[:2].float()),
    "trajectories": lambda model, digits: bl.rivals.trajectories(model, digits.train.x[:2].float(), where=is_layer),
}


def is_layer(name, module):
    return name in ("0", "1")


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
@pytest.mark.parametrize("last", [nn.Identity, Breaks])
def test_modes_are_left_as_they_were(digits, look, last):
    model = frozen(last())
    before = [module.training for module in model.modules()]
    if last is Breaks:
        with pytest.raises((RuntimeError, ValueError), match="broken"):
            look(model, digits)
    else:
        look(model, digits)
    assert [module.training for module in model.modules()] == before == [True, True, False, True, True, True]
    assert not any(module._forward_hooks for module in model.modules())


def test_training_leaves_frozen_layers_frozen(digits):
    """Their statistics stay, in every epoch; a model that is in evaluation mode as a whole is trained."""
    recipe, modes = bl.Recipe(epochs=2, batch_size=64, lr=1e-3, precision="float32"), []

    def watch(model):
        modes.append([module.training for module in model.modules()])
        return {}

    model = frozen()
    bl.fit(model, digits, recipe, device="cpu", progress=False, watch=watch)
    assert (model[1].running_mean == 0).all() and model.training and not model[1].training
    assert modes == [[False] * 5] * 2
    bl.fit(model.eval(), digits, recipe, device="cpu", progress=False)
    assert (model[1].running_mean != 0).any() and model.training


def test_evaluating_nests():
    model = frozen()
    with evaluating(model):
        with evaluating(model):
            assert not any(module.training for module in model.modules())
        assert not any(module.training for module in model.modules())
    assert model.training and not model[1].training


def test_seeded_draws_leave_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with seeded(5):
        assert torch.equal(torch.rand(3), expected)
    with pytest.raises(RuntimeError), seeded(5):
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(None):
        torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), before)


def test_pick():
    model = frozen()
    assert pick(model, is_layer) == [("0", model[0]), ("1", model[1])]
    with pytest.raises(
        ValueError, match=r"picked no module .* it has BatchNorm2d, Conv2d, Flatten, Linear, Sequential"
    ):
        pick(model, lambda name, module: False)
    for act in (pick, lambda model, where: capture_activations(model, torch.ones(1), where=where)):
        with pytest.raises(ValueError, match="where must be a function of a module's name and the module, got '0'"):
            act(model, "0")


class OnApple(torch.Tensor):
    """A tensor that says it is on an Apple GPU, and refuses float64 there as such a GPU does."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == torch.Tensor.device.__get__:
            return torch.device("mps")
        out = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.cpu:
            return out.as_subclass(torch.Tensor)
        if isinstance(out, cls) and out.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return out


def test_float64_is_asked_of_a_device_that_has_it():
    here = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    there = here.as_subclass(OnApple)
    with pytest.raises(TypeError, match="no float64"):
        there.double()
    assert torch.equal(doubled(there), here.double())
    labels = torch.arange(30) % 2
    for call in (
        lambda x: lq_penalty(x, x.T, 0.5, 1.0, "softmax"),
        lambda x: proximal._transformed_l1(x, 0.1, 1.0),
        lambda x: proximal._l1_minus_l2(x, 0.1, 0.5),
        lambda x: explained_share(x, labels, x[:4, :2]),
        lambda x: bl.pruning.batchnorm_drift(nn.Sequential(nn.BatchNorm1d(4)), x).iloc[0, 1:].tolist(),
    ):
        assert torch.equal(torch.as_tensor(call(there)).as_subclass(torch.Tensor), torch.as_tensor(call(here)))
