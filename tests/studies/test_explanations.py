"""Explanations: features, the lasso against its conditions and another solver, back-projection, and the measures."""

import dataclasses
import sys
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite.data import Split
from bridgeout_lite.studies import explanations as explain
from bridgeout_lite.studies.explanations.flowers import flowers

pytest.importorskip("captum")


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(seed=0, **kwargs):
    torch.manual_seed(seed)
    return bl.build_model("smallcnn", width=0.25, **kwargs).eval()


def colours(gain=1.0):
    """A network that can be read: channel k is colour k where it is positive, and class k has the most of it."""
    conv = nn.Conv2d(3, 3, 1, bias=False)
    conv.weight.data = gain * torch.eye(3)[:, :, None, None]
    classifier = nn.Linear(3, 3, bias=False)
    classifier.weight.data = torch.eye(3)
    parts = {"conv": conv, "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict(parts | {"classifier": classifier}))


def patches(n=30, seed=0):
    """Images that are dark but for a patch of one colour, the colours, and where the patches are."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    corner = torch.randint(0, 6, (n, 2), generator=draws)
    x, mask = torch.zeros(n, 3, 8, 8), torch.zeros(n, 8, 8, dtype=torch.bool)
    for i in range(n):
        a, b = corner[i].tolist()
        mask[i, a : a + 3, b : b + 3] = True
        x[i, y[i]] = mask[i] * (1 + torch.rand(8, 8, generator=draws))
        x[i] += 0.05 * torch.rand(3, 8, 8, generator=draws)
    return x, y, mask


# --- features ---------------------------------------------------------------------------------------------------------


def test_features_are_normalised_by_layer_and_as_a_whole():
    model, x = network(), draw(7, 3, 32, 32)
    features = explain.channel_features(model, x)
    assert features.values.shape == (7, len(features.places)) == (7, 4 + 8 + 8 + 16 + 32)
    assert torch.allclose(features.values.norm(dim=1), torch.ones(7), atol=1e-6) and (features.values >= 0).all()
    layers = [name for name, _ in features.places]
    sums = torch.stack([features.values[:, [n == name for n in layers]].sum(1) for name in dict.fromkeys(layers)])
    assert torch.allclose(sums, sums[0].expand_as(sums), rtol=1e-5), "every layer has the same share"
    out = bl.modules.capture_activations(model, x)["relu3"]
    own = features.values[:, [n == "relu3" for n in layers]]
    power = out.square().sum((2, 3))
    assert torch.allclose(own / own.sum(1, keepdim=True), power / power.sum(1, keepdim=True), atol=1e-6)


def test_features_of_some_layers_in_the_order_asked_for_and_in_parts(monkeypatch):
    model, x = network(), draw(9, 3, 32, 32)
    whole = explain.channel_features(model, x, ["relu5", "relu1"])
    assert whole.places[0] == ("relu5", 0) and whole.places[-1] == ("relu1", 3)
    monkeypatch.setattr(explain.features, "PART", 4)
    assert torch.allclose(explain.channel_features(model, x, ["relu5", "relu1"]).values, whole.values, atol=1e-6)


def test_a_silent_layer_gives_zeros_and_no_nan():
    model = colours()
    assert torch.equal(explain.channel_features(model, -torch.ones(2, 3, 4, 4)).values, torch.zeros(2, 3))


def test_layers_that_do_not_exist():
    model = network()
    with pytest.raises(ValueError, match=r"no layer 'relu6'; did you mean 'relu"):
        explain.channel_features(model, draw(1, 3, 32, 32), ["relu6"])
    with pytest.raises(ValueError, match="no layer 'xyz'; known: conv1"):
        explain.receptive_field(model, "xyz")
    with (
        pytest.raises(ValueError, match="no layer 'rellu4'; did you mean 'relu4'"),
        explain.silenced(model, [("rellu4", 0)]),
    ):
        pass
    with pytest.raises(ValueError, match="did you mean 'relu4'"):
        explain.back_projection(model, draw(1, 3, 32, 32), [("relu44", 0)])
    with pytest.raises(ValueError, match="at least one module"):
        explain.channel_features(model, draw(1, 3, 32, 32), [])
    with pytest.raises(ValueError, match="empty batch"):
        explain.channel_features(model, torch.zeros(0, 3, 32, 32))


# --- the lasso --------------------------------------------------------------------------------------------------------


def project(w, mu):
    """The nearest point of the L1 ball, by sorting."""
    if w.abs().sum() <= mu:
        return w
    size = w.abs().sort(descending=True).values
    excess = (size.cumsum(0) - mu) / torch.arange(1, len(w) + 1, dtype=w.dtype)
    threshold = excess[(size > excess).nonzero()[-1, 0]]
    return w.sign() * (w.abs() - threshold).clamp_min(0)


@pytest.fixture(scope="module")
def problem():
    features = F.normalize(draw(120, 25).abs(), dim=1)
    return features, torch.arange(120) % 4


@pytest.mark.parametrize("mu", [0.3, 2.0, 5.0])
def test_the_lasso_meets_its_conditions(problem, mu):
    features, labels = problem
    weights = explain.mu_lasso(features, labels, mu, 4)
    x = features.double()
    for c in range(4):
        w, target = weights[:, c], (labels == c).double()
        pull = x.T @ (target - x @ w)
        level = pull.abs().max()
        assert abs(w.abs().sum() - mu) < 1e-9, "the constraint is active here"
        assert torch.allclose(pull[w != 0], level * w[w != 0].sign(), atol=1e-8), "where a weight is, the pull is full"
        assert (pull.abs() <= level + 1e-9).all()


def test_the_lasso_agrees_with_projected_gradients(problem):
    features, labels = problem
    x, target = features.double(), (labels == 2).double()
    step = 1 / torch.linalg.eigvalsh(x.T @ x).max()
    w = torch.zeros(25, dtype=torch.float64)
    for _ in range(20_000):
        w = project(w + step * (x.T @ (target - x @ w)), 2.0)
    assert (w - explain.mu_lasso(features, labels, 2.0, 4)[:, 2]).abs().max() < 1e-5


def test_a_bound_that_does_not_bind_gives_least_squares(problem):
    features, labels = problem
    weights = explain.mu_lasso(features, labels, 1e6, 4)
    exact = torch.linalg.lstsq(features.double(), F.one_hot(labels, 4).double()).solution
    assert (weights - exact).abs().max() < 1e-6


def test_the_path_grows_and_counts(problem):
    features, labels = problem
    path = explain.lasso_paths(features, labels, 4)[0]
    assert path.norms[0] == 0 and (path.norms.diff() >= 0).all() and (path.explained.diff() >= -1e-9).all()
    assert path.needed(2.0) is None
    assert 1 <= path.needed(float(path.explained[3])) <= 3
    assert torch.allclose(path.at(float(path.norms[4])), path.weights[:, 4])
    weights = torch.stack([p.weights[:, 5] for p in explain.lasso_paths(features, labels, 4)], 1)
    assert torch.allclose(explain.explained_share(features, labels, weights)[0], path.explained[5])


def test_dead_and_twin_features(problem):
    features, labels = problem
    more = torch.cat([features, torch.zeros(120, 2), features[:, :1]], 1)
    weights = explain.mu_lasso(more, labels, 2.0, 4)
    assert (weights[25:27] == 0).all() and weights.isfinite().all()
    known = explain.mu_lasso(features, labels, 2.0, 4)
    assert torch.allclose(more.double() @ weights, features.double() @ known, atol=1e-6), "the same predictions"


def test_bad_lassos(problem):
    features, labels = problem
    for mu in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="mu must be a finite number > 0"):
            explain.mu_lasso(features, labels, mu, 4)
        with pytest.raises(ValueError, match="mu must be a finite number > 0"):
            explain.lasso_paths(features, labels, 4)[0].at(mu)
    with pytest.raises(ValueError, match="no image has the label 4, 5"):
        explain.mu_lasso(features, labels, 1.0, 6)
    with pytest.raises(ValueError, match="labels must lie between 0 and 2"):
        explain.mu_lasso(features, labels, 1.0, 3)
    with pytest.raises(ValueError, match=r"labels \(n,\)"):
        explain.mu_lasso(features, labels[:5], 1.0, 4)
    with pytest.raises(ValueError, match="not finite"):
        explain.mu_lasso(features * float("nan"), labels, 1.0, 4)


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["relu1", "pool1", "relu2", "relu3", "relu4"])
def test_receptive_fields_are_what_a_unit_sees(layer):
    model = bl.build_model("smallcnn", width=0.1).eval()
    for name, module in list(model.named_children()):
        if isinstance(module, nn.MaxPool2d):  # reads all of its window
            model.register_module(name, nn.AvgPool2d(2))
        elif isinstance(module, nn.BatchNorm2d):
            model.register_module(name, nn.Identity())
        elif isinstance(module, nn.Conv2d):
            module.weight.data.fill_(1.0)
    field = explain.receptive_field(model, layer)
    x = torch.ones(1, 3, 32, 32, requires_grad=True)
    out = x
    for name, module in model.named_children():
        out = module(out)
        if name == layer:
            break
    row, column = out.shape[-1] // 2, out.shape[-1] // 2 - 1
    out[0, 0, row, column].backward()
    seen = torch.zeros(32, 32, dtype=torch.bool)
    top, left = (max(0, field.corner + field.step * k) for k in (row, column))
    bottom, right = (field.corner + field.step * k + field.size for k in (row, column))
    seen[top:bottom, left:right] = True
    assert torch.equal(x.grad[0].sum(0) > 0, seen)


def test_receptive_fields_where_there_are_none():
    assert explain.receptive_field(network(), "relu5") == explain.ReceptiveField(32, 32, 0)
    with pytest.raises(ValueError, match="chain of layers"):
        explain.receptive_field(nn.ModuleDict({"a": nn.ReLU()}), "a")
    with pytest.raises(ValueError, match="rows and columns differently"):
        explain.receptive_field(nn.Sequential(nn.Conv2d(3, 3, (1, 3))), "0")


def test_the_average_picture_shows_what_the_channel_sees():
    images = flowers(train=60, valid=6, test=6)
    model = colours()  # on normalised pixels: channel 0 is strongest where red is
    patch = explain.average_visualisation(model, images, images.train.x, ("relu", 0), count=20)
    assert patch.shape == (3, 1, 1)
    strongest = images.train.x[:, 0].flatten(1).max(1).values.topk(20).values.float().mean() / 255
    assert torch.allclose(patch[0].squeeze(), strongest, atol=0.01)
    whole = explain.average_visualisation(network(num_classes=6), images, images.train.x, ("relu5", 3), count=5)
    assert whole.shape == (3, 32, 32) and whole.min() >= 0 and whole.max() <= 1


def test_patches_beyond_the_image_count_for_nothing():
    images = flowers(train=60, valid=6, test=6)
    patch = explain.average_visualisation(network(num_classes=6), images, images.train.x, ("relu4", 1), count=3)
    assert patch.shape == (3, 22, 22) and patch.nan_to_num(0.5).ge(0).all() and patch.nan_to_num(0.5).le(1).all()


def test_a_back_projection_is_the_gradient_of_the_feature():
    model, x = network(), draw(3, 3, 32, 32)
    places = [("relu3", 2), None, ("relu5", 7)]
    drawn = explain.back_projection(model, x, places, rule="gradient")
    leaf = x.clone().requires_grad_()
    out = model[: list(dict(model.named_children())).index("relu3") + 1](leaf)[0, 2]
    (out.square().sum() / 2).backward()
    assert torch.allclose(drawn[0], leaf.grad[0].abs().sum(0), atol=1e-6)
    assert (drawn[1] == 0).all() and drawn.shape == (3, 32, 32)
    for rule in ("guided", "deconvnet"):
        assert explain.back_projection(model, x, places, rule=rule).isfinite().all()
    with pytest.raises(ValueError, match="rule must be one of"):
        explain.back_projection(model, x, places, rule="lrp")
    with pytest.raises(ValueError, match="2 places for 3 images"):
        explain.back_projection(model, x, places[:2])


def test_a_picture_leaves_the_model_as_it_was():
    model = network().train()
    model.norm1.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    explain.class_attribution(model, draw(2, 3, 32, 32), torch.tensor([0, 1]), "guided")
    assert model.training and not model.norm1.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model.relu1._forward_hooks and not model.relu1._backward_hooks


def test_without_captum(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match="explanations need captum: pip install --no-deps captum"):
        explain.class_attribution(network(), draw(1, 3, 32, 32), torch.tensor([0]))


def test_scaling():
    maps = torch.stack([torch.arange(4.0).view(2, 2), torch.full((2, 2), 3.0)])
    assert torch.equal(explain.scaled(maps)[0], torch.arange(4.0).view(2, 2) / 3)
    assert torch.equal(explain.scaled(maps)[1], torch.zeros(2, 2))


def test_an_explanation_that_can_be_checked_by_eye():
    model = colours()
    x, y, mask = patches()
    features = explain.channel_features(model, x)
    weights = explain.mu_lasso(features.values, y, 5.0, 3)
    found = explain.heatmap(model, x, weights)
    assert torch.equal(found.predicted, y) and torch.equal(found.chosen[:, 0], y)
    assert (found.chosen[:, 0] >= 0).all() and (found.intensity[:, 0] > 0).all()
    one = explain.heatmap(model, x, weights, keep=1)
    assert torch.allclose(one.maps, explain.scaled(x[torch.arange(30), y].clamp_min(0)), atol=1e-6)
    split = dataclasses.make_dataclass("S", ["mask"])(mask)
    truth = explain.against_truth(one.maps, split)
    assert truth["energy"] > 0.9 and truth["overlap"] == 1.0 and truth["pointing"] == 1.0
    with pytest.raises(ValueError, match="weights are for 2 features"):
        explain.heatmap(model, x, weights[:2])
    with pytest.raises(ValueError, match="keep must be"):
        explain.heatmap(model, x, weights, keep=0)


def test_weights_that_sum_to_nothing_are_said_to():
    weights = torch.tensor([[2.0, 1.0, -3.0], [-2.0, 1.0, 1.0]])
    values = torch.tensor([[0.6, 0.8]]).expand(3, 2)
    strength, odd = explain.intensities(values, weights, torch.arange(3))
    assert odd.tolist() == [True, False, True]
    assert torch.allclose(strength[0], torch.tensor([0.3, -0.4])), "by the L1 norm, 4"
    assert torch.allclose(strength[1], torch.tensor([0.3, 0.4])), "by the sum, 2"
    assert strength[2, 0] < 0 < strength[2, 1], "evidence against a class stays evidence against it"
    assert (explain.intensities(values, torch.zeros(2, 3), torch.arange(3))[0] == 0).all()


def test_the_random_control_keeps_the_layers():
    model, x = network(), draw(40, 3, 32, 32)
    features = explain.channel_features(model, x)
    chosen = features.values.topk(3, dim=1).indices
    chosen[0, 2] = -1
    drawn = explain.random_choice(features, chosen, torch.Generator().manual_seed(0))
    assert drawn[0, 2] == -1 and (drawn != chosen).float().mean() > 0.9
    for a, b in zip(chosen.flatten().tolist(), drawn.flatten().tolist(), strict=True):
        assert features.places[a][0] == features.places[b][0]
    active = features.values.gather(1, drawn.clamp_min(0))
    assert (active[(drawn != chosen) & (drawn >= 0)] > 0).all(), "it draws channels that respond"


# --- strides ----------------------------------------------------------------------------------------------------------


def strided():
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*parts)


def test_resampling_changes_the_way_back_only():
    model, x = strided(), draw(4, 3, 32, 32)
    smooth = explain.resample_strides(model)
    assert torch.allclose(model(x), smooth(x), atol=1e-6)
    assert list(model.state_dict()) == list(smooth.state_dict())
    assert type(model[0]) is nn.Conv2d, "the model itself is as before"
    for weight, other in zip(model.parameters(), smooth.parameters(), strict=True):
        assert torch.equal(weight, other) and weight is not other


def test_resampling_takes_the_grid_out():
    conv = nn.Conv2d(1, 1, 1, stride=2, bias=False)
    conv.weight.data.fill_(1.0)
    maps = []
    for model in (nn.Sequential(conv), explain.resample_strides(nn.Sequential(conv))):
        x = torch.ones(1, 1, 8, 8, requires_grad=True)
        model(x).sum().backward()
        maps.append(x.grad[0])
    assert torch.equal(maps[1], torch.full((1, 8, 8), 0.25)) and maps[0].sum() == maps[1].sum()
    assert explain.grid_strength(maps[1], 2) == 0 and abs(explain.grid_strength(maps[0], 2) - 3**0.5) < 1e-6


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_resampling_moves_nothing(stride):
    """An impulse goes back to where it came from, through two layers and for kernels that have a middle."""
    side, at = 24 * stride, torch.arange(24.0 * stride)
    convs = [nn.Conv2d(1, 1, 3, stride=stride, padding=1, bias=False) for _ in range(2)]
    for conv in convs:
        conv.weight.data.fill_(1.0)
    centres = []
    for model in (nn.Sequential(*convs), explain.resample_strides(nn.Sequential(*convs))):
        x = torch.zeros(1, 1, side, side, requires_grad=True)
        out = model(x)
        out[0, 0, out.shape[2] // 2, out.shape[3] // 2 - 1].backward()
        mass = x.grad[0, 0] / x.grad.sum()
        centres.append(torch.stack([(mass.sum(1) * at).sum(), (mass.sum(0) * at).sum()]))
    assert torch.allclose(centres[1], centres[0], atol=1e-3)


def test_resampling_of_an_odd_size():
    conv = nn.Conv2d(3, 2, 3, stride=3, padding=1)
    x = draw(2, 3, 16, 16).requires_grad_()
    smooth = explain.resample_strides(nn.Sequential(conv))
    assert torch.allclose(smooth(x), conv(x), atol=1e-6)
    smooth(x).sum().backward()
    assert x.grad.shape == x.shape


# --- tests of explanations --------------------------------------------------------------------------------------------


def test_silenced_channels_are_silent_for_as_long():
    model, x = network(), draw(2, 3, 32, 32)
    before = model(x)
    with explain.silenced(model, [("relu1", 0), ("relu5", 3), ("relu1", 2)]):
        outputs = bl.modules.capture_activations(model, x)
        assert not torch.allclose(model(x), before)
    assert outputs["relu1"][:, [0, 2]].abs().sum() == 0 == outputs["relu5"][:, 3].abs().sum()
    assert torch.equal(model(x), before)


def test_ablation_finds_the_channel_that_counts():
    model = colours()
    x, y, _ = patches()
    weights = torch.eye(3)
    places = [("relu", k) for k in range(3)]
    found = explain.ablation(model, x, y, weights, places, draws=40, generator=torch.Generator().manual_seed(0))
    assert found["whole"] == [100.0] * 3 and found["selected"] == [0.0] * 3
    assert all(30 < level < 95 for level in found["random"]), "two of three draws hit another channel"
    with pytest.raises(ValueError, match="no image has the class 2"):
        explain.ablation(model, x[y < 2], y[y < 2], weights, places)
    with pytest.raises(ValueError, match="3 features, but 2 places"):
        explain.ablation(model, x, y, weights, places[:2])


def test_measures_against_the_truth():
    _, _, mask = patches(6)
    flat, perfect, wrong = torch.ones(6, 8, 8), mask.float(), (~mask).float()
    area = 9 / 64
    assert torch.allclose(explain.energy_inside(flat, mask), torch.full((6,), area))
    assert torch.allclose(explain.energy_inside(torch.zeros(6, 8, 8), mask), torch.full((6,), area))
    assert torch.allclose(explain.pointing(flat, mask), torch.full((6,), area))
    for measure in (explain.energy_inside, explain.overlap, explain.pointing):
        assert (measure(perfect, mask) == 1).all() and (measure(wrong, mask) == 0).all()


def test_images_without_masks():
    plain = Split(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="no masks, so there is no truth"):
        explain.against_truth(torch.ones(2, 8, 8), plain)
    with pytest.raises(ValueError, match="2 maps for 6 images"):
        explain.against_truth(torch.ones(2, 32, 32), flowers(train=1, valid=1, test=6).test)


def test_deletion_falls_fastest_where_it_counts():
    model = colours(4.0)
    x, _, mask = patches()
    best = explain.deletion(model, x, mask.float())
    worst = explain.deletion(model, x, (~mask).float())
    assert best[0] == worst[0] and explain.curve_area(best) < explain.curve_area(worst)
    assert abs(explain.curve_area([1.0] * 7) - 1) < 1e-6


# --- experiments ------------------------------------------------------------------------------------------------------


def test_an_experiment_is_recorded_and_repeats():
    recipe = bl.Recipe(epochs=4, batch_size=32, crop=0)
    common = {"train": 640, "valid": 120, "test": 60}
    experiment = explain.ExplanationExperiment(p=0.05, q=1, recipe=recipe, **common)
    assert experiment.spec["task"] == "explanations" and experiment.spec["q"] == 1.0
    record = experiment.run(progress=False, device="cpu")
    metrics = record.metrics
    assert {"selected", "random", "guided", "gradient", "usual place", "flat"} == set(metrics["truth"])
    assert len(metrics["counts"]) == len(explain.MUS) and len(metrics["ablation"]["whole"]) == 6
    assert len(metrics["deletion"]["selected"]) == len(explain.DELETED)
    assert len(metrics["needed"]["0.3"]) == 6 and metrics["counts"] == sorted(metrics["counts"])
    again = experiment.run(progress=False, device="cpu")
    assert again.metrics == metrics


def test_bad_experiments():
    for bad, message in (
        ({"dataset": "mnist"}, "dataset must be one of"),
        ({"method": "dropblock"}, "method must be one of"),
        ({"mu": 0.0}, "mu must be one of 1, 2"),
        ({"p": 1.0}, "p must be a number"),
        ({"q": -1}, "q must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            explain.ExplanationExperiment(**bad)


def test_the_sweep_has_three_seeds_of_everything():
    experiments = explain.explanations()
    assert len(experiments) == 27
    settings = {(e.dataset, e.method, e.p, e.q) for e in experiments}
    assert len(settings) * 3 == len(experiments)


def fabricated(dataset, q, seed, *, overlap=0.5, guided=0.6, lost=50.0, needed=2):
    """A record as :func:`explain.ExplanationExperiment.run` makes it, with the numbers wanted."""
    quiet = {"method": "none", "p": 0.0} if q is None else {"p": explain.SWEPT_P, "q": q}
    mu = 10.0 if dataset == "cifar10" else 5.0
    spec = explain.ExplanationExperiment(dataset, seed=seed, mu=mu, **quiet).spec
    curve = [1.0 - 0.1 * k for k in range(len(explain.DELETED))]
    wobble = 0.01 * seed
    truth = {"selected": overlap, "random": 0.4, "guided": guided, "gradient": 0.6, "usual place": 0.2, "flat": 0.03}
    metrics = {
        "valid_accuracy": 98.0,
        "test_accuracy": 97.0,
        "counts": [1.0, 3.0, 10.0, 20.0, 40.0],
        "explained": [0.3, 0.5, 0.7, 0.8, 0.9],
        "needed": {"0.3": [needed, None, needed + 1], "0.5": [None] * 3},
        "odd": 0.0,
        "sparsity": {"relu4": 0.6, "relu5": 0.7},
        "ablation": {"whole": [100.0, 90.0], "selected": [95 - lost + wobble] * 2, "random": [90.0, 80.0]},
        "deletion": {"selected": curve, "random": curve},
    }
    if dataset != "cifar10":
        measures = ("energy", "overlap", "pointing")
        metrics["truth"] = {name: dict.fromkeys(measures, v + wobble) for name, v in truth.items()}
        metrics["truth"]["selected"]["overlap"] += wobble
    return bl.Record(spec, metrics, {})


SWEPT = ("flowers-single-6c", "cifar10")


def everything(**kwargs):
    runs = [fabricated(d, None, s, **kwargs) for d in ("flowers-double-12c", "cifar10") for s in range(3)]
    runs += [fabricated("flowers-single-6c", q, s, **kwargs) for q in (None, 1.0, 2.0, 3.0) for s in range(3)]
    return runs + [fabricated("cifar10", q, s, **kwargs) for q in (1.0, 2.0, 3.0) for s in range(3)]


def test_the_frame_of_recorded_runs():
    runs = everything()
    frame = explain.explanations_frame([*runs, bl.Record({"task": "language"}, {}, {})])
    assert len(frame) == len(runs)
    row = frame[(frame["dataset"] == "cifar10") & (frame["seed"] == 0)].iloc[0]
    assert (row["features"], row["explained"], row["needed"], row["hoyer"]) == (20.0, 0.8, 3.0, 0.7)
    runs[0].metrics["needed"]["0.3"] = [1, None, None]
    assert explain.explanations_frame(runs[:1])["needed"].isna().all(), "more than half never get there"
    assert (row["selected"], row["random"], row["relevance"]) == (50.0, 10.0, 40.0)
    assert frame["overlap_selected"].notna().sum() == 15 and "energy_usual place" in frame
    assert explain.explanations_frame([]).empty


def test_the_verdicts_are_those_of_the_numbers():
    from bridgeout_lite.studies.explanations.claims import SECTION

    def verdicts(runs):
        return [claim.judge(runs).verdict for claim in SECTION.claims]

    assert verdicts([]) == ["not run"] * 5
    assert verdicts(everything()[:2]) == ["not run"] * 5
    open_, good, bad = "undecided", "holds in direction", "contradicted"
    assert verdicts(everything()[:3]) == [open_, good, bad, "not run", "not run"]
    assert verdicts(everything()) == [open_, good, bad, open_, open_], (
        "no difference between q = 1 and q = 3 is no gain"
    )
    assert verdicts(everything(overlap=0.3)) == [open_, bad, bad, open_, open_]
    relevance = SECTION.claims[0].judge(everything())
    assert "3 for it" in relevance.short and "the control is lenient" in relevance.reason
    assert "3 against" in SECTION.claims[0].judge(everything(lost=-20.0)).short
    better = [r for r in everything() if r.spec["q"] != 1.0]
    better += [fabricated(d, 1.0, s, needed=1, lost=60, overlap=0.7) for d in SWEPT for s in range(3)]
    assert verdicts(better) == [open_, good, bad, good, good]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_receptive_fields_of_what_is_no_plain_chain():
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    assert explain.receptive_field(pooled, "1") == explain.ReceptiveField(32, 32, 0)
    with pytest.raises(ValueError, match="what a unit of 'stage1' sees is not known for a Sequential"):
        explain.receptive_field(bl.build_model("resnet14", width=0.25), "stage1")
    with pytest.raises(ValueError, match="the padding of '0' must be a number, got 'same'"):
        explain.receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3, padding="same")), "0")


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_resampled_strides_compute_the_same_forwards_with_any_padding(mode):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode=mode))
    x = draw(2, 3, 9, 9)
    assert torch.allclose(explain.resample_strides(model)(x), model(x), atol=1e-6)
    assert model[0].stride == (2, 2)
    noisy = bl.attach_bridgeout(model, 0.3, 2.0)
    with pytest.raises(ValueError, match="detach noise and gates first"):
        explain.resample_strides(noisy)


def test_overlap_and_deletion_do_not_see_the_scale_of_a_map():
    maps, masks = draw(3, 8, 8).abs(), torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, 2:5, 2:5] = True
    tiny = maps * 2.0**-40
    assert torch.equal(explain.overlap(maps, masks), explain.overlap(tiny, masks))
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), draw(3, 3, 8, 8)
    assert explain.deletion(model, x, maps) == explain.deletion(model, x, tiny)


def test_few_features_bad_numbers_and_layers_that_do_not_run():
    model, x = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 2)), draw(4, 3, 8, 8)
    assert explain.heatmap(model, x, torch.eye(2)).chosen.shape == (4, 2), "at most as many as there are"
    for keep in (0, 1.5, True, "x"):
        with pytest.raises(ValueError, match="keep must be a whole number >= 1"):
            explain.heatmap(model, x, torch.eye(2), keep=keep)
    for mu in ("x", None, True, float("inf")):
        with pytest.raises(ValueError, match="mu must be a finite number > 0"):
            explain.mu_lasso(draw(4, 2), torch.tensor([0, 1, 0, 1]), mu, 2)
    with pytest.raises(ValueError, match="draws must be a whole number >= 1"):
        explain.ablation(model, x, torch.tensor([0, 1, 0, 1]), torch.eye(2), [("1", 0), ("1", 1)], draws=0)
    with pytest.raises(ValueError, match="period must be a whole number from 1 to 8, got 0"):
        explain.grid_strength(draw(1, 8, 8), 0)
    model.add_module("idle", nn.Module())
    model.forward = lambda x: model[3](model[2](model[1](model[0](x))))
    with pytest.raises(ValueError, match="layer 'idle' puts out no tensor"):
        explain.channel_features(model, x, ["idle"])
