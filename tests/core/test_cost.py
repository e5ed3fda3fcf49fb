"""Cost: counts equal those of other tools, measured numbers say what they mean, and ONNX computes the same."""

import sys

import pytest
import torch
import torch_pruning
from refusals import refused
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite import modules
from bridgeout_lite.models import MODELS, Shortcut, Whitening


def by_layers(model, image):
    """Multiply-adds of convolutions and linear layers for one image, and parameters: by the formula and by
    Torch-Pruning."""
    by_formula, outputs, handles = [], {}, []

    def note(module, inputs, out):
        outputs[module] = out
        by_formula.append(out.numel() * module.weight[0].numel())

    for module in model.eval().modules():
        if isinstance(module, nn.Conv2d | nn.Linear | Whitening):
            handles.append(module.register_forward_hook(note))
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    _, parameters, layers, _ = torch_pruning.utils.count_ops_and_params(model, image, layer_wise=True)
    by_pruner = 0
    for (module, out), formula in zip(outputs.items(), by_formula, strict=True):
        if isinstance(module, Whitening | Shortcut):  # convolutions of their own kind: it goes by the exact type
            by_pruner += formula
        else:  # Torch-Pruning counts the addition of a bias as well
            by_pruner += layers[module] - (0 if module.bias is None else out.numel())
    return parameters, sum(by_formula), by_pruner


@pytest.mark.parametrize("name", [name for name in MODELS if name != "wrn-28-10"])
@pytest.mark.parametrize("amount", [0, 0.5])
def test_counts_equal_those_of_other_tools(name, amount):
    image = torch.zeros(1, 3, 32, 32)
    model = bl.pruning.remove_filters(bl.build_model(name, width=0.125), amount, image)
    parameters, macs = bl.cost.count(model, image)
    assert (parameters, macs, macs) == by_layers(model, image)
    assert bl.cost.count(model, torch.zeros(3, 3, 32, 32)) == (parameters, macs)  # of one sample


class Attention(nn.Module):
    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_what_no_module_shows_is_counted_too():
    assert bl.cost.count(Attention(), torch.zeros(2, 3, 5, 4)) == (
        0,
        2 * 3 * 5 * 5 * 4,
    )  # two products
    encoder, fused = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), torch.backends.mha.get_fastpath_enabled()
    projections, hidden, attention = 4 * 16 * 16, 2 * 16 * 32, 2 * 5 * 16
    assert bl.cost.count(encoder, torch.zeros(2, 5, 16))[1] == 5 * (projections + hidden + attention)
    assert torch.backends.mha.get_fastpath_enabled() is fused
    with pytest.raises(ValueError, match="does not take"):
        bl.cost.count(encoder, torch.zeros(2, 5, 17))
    assert torch.backends.mha.get_fastpath_enabled() is fused


def test_counts_by_hand():
    """Grouped, depthwise, strided, transposed and one-dimensional convolutions, and a layer that runs twice."""
    grouped, depthwise = nn.Conv2d(8, 6, 3, groups=2), nn.Conv2d(6, 6, 3, stride=2, groups=6)
    transposed, linear = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Linear(4 * 6 * 6, 4 * 6 * 6, bias=False)
    model = nn.Sequential(grouped, depthwise, transposed, nn.Flatten(), linear, nn.ReLU(), linear)
    x = torch.zeros(2, 8, 9, 9)
    assert [tuple(m(torch.zeros(s)).shape[1:]) for m, s in ((grouped, x.shape), (depthwise, (2, 6, 7, 7)))] == [
        (6, 7, 7),
        (6, 3, 3),
    ]
    by_hand = 6 * 49 * 4 * 9 + 6 * 9 * 9 + 6 * 9 * 4 * 4 + 2 * 144 * 144
    parameters = 6 * 4 * 9 + 6 + 6 * 9 + 6 + 6 * 4 * 4 + 4 + 144 * 144
    assert bl.cost.count(model, x) == (parameters, by_hand)
    sequence = nn.Conv1d(3, 5, 4)
    assert bl.cost.count(sequence, torch.zeros(1, 3, 10)) == (3 * 5 * 4 + 5, 5 * 7 * 3 * 4)


def test_smallcnn_has_the_multiply_adds_of_its_docstring():
    assert bl.cost.count(bl.build_model("smallcnn"), torch.zeros(1, 3, 32, 32))[1] == pytest.approx(5.3e6, rel=0.01)


def test_masks_save_nothing():
    image = torch.zeros(1, 3, 32, 32)
    model = bl.build_model("smallcnn", width=0.5)
    whole = bl.cost.count(model, image)
    assert bl.cost.count(bl.pruning.prune(model, 0.5, silence=True), image) == whole
    assert bl.cost.count(bl.channels.apply_masks(model), image) == whole


def test_measure_says_what_it_measured():
    model, x = bl.build_model("smallcnn", width=0.25), torch.zeros(3, 3, 32, 32)
    model.train()
    model.norm1.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cost = bl.cost.measure(model, x, repeats=3, warmup=1)
    assert (cost.parameters, cost.macs) == bl.cost.count(model, x)
    assert (cost.batch, cost.threads, cost.device) == (3, torch.get_num_threads(), "cpu")
    assert cost.latency_ms > 0
    assert model.training and not model.norm1.training and model.norm2.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.conv1._forward_hooks


def test_peak_memory_of_a_chain_is_two_activations_and_the_input():
    """A ReLU needs its input and its output; what came before has been given back."""
    x = torch.zeros(2, 3, 64, 64)
    size = 4 * x.numel()
    chain = nn.Sequential(*(nn.ReLU() for _ in range(5)))
    assert bl.cost.measure(chain, x, repeats=1).peak_memory_bytes == 3 * size
    single = nn.Sequential(nn.ReLU())
    assert bl.cost.measure(single, x, repeats=1).peak_memory_bytes == 2 * size
    in_place = nn.Sequential(nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU(inplace=True))
    assert bl.cost.measure(in_place, x, repeats=1).peak_memory_bytes == 2 * size


def test_peak_memory_counts_weights_and_buffers():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000), nn.BatchNorm1d(1000)), torch.zeros(1, 3, 2, 2)
    numbers = 12 * 1000 + 1000 + 4 * 1000
    least = 4 * (numbers + x.numel() + 2 * 1000)
    assert least <= bl.cost.measure(model, x, repeats=1).peak_memory_bytes <= least + 100_000
    masked = bl.pruning.prune(bl.build_model("smallcnn", width=0.25), 0.5)
    image = torch.zeros(1, 3, 32, 32)
    assert (
        bl.cost.measure(bl.channels.apply_masks(masked), image).peak_memory_bytes
        < bl.cost.measure(bl.pruning.prune(masked, 0.5), image).peak_memory_bytes
    )


def test_peak_memory_of_masks_is_the_same_every_time(capfd):
    """Weights, masks, and the product of both, which is made in every pass."""
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU()), torch.zeros(1, 3, 8, 8)
    whole = bl.cost.measure(model, x, repeats=1).peak_memory_bytes
    weights = 4 * model[0].weight.numel()
    bl.pruning.prune(model, 0.5)
    peaks = [bl.cost.measure(model, x, repeats=1).peak_memory_bytes for _ in range(3)]
    assert peaks == [whole + 2 * weights] * 3
    assert "unknown size" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "example",
    [
        torch.zeros(1, 4, 32, 32),
        torch.zeros(3, 32, 32),
        torch.zeros(1, 3, 16, 16),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(0, 3, 32, 32),
        torch.zeros(3),
        [1.0],
        None,
    ],
    ids=lambda x: str(tuple(x.shape)) if isinstance(x, torch.Tensor) else str(x),
)
def test_an_example_input_that_does_not_fit(example, tmp_path):
    model = bl.build_model("smallcnn", width=0.25).train()
    calls = (bl.cost.count, bl.cost.measure, lambda m, x: bl.cost.export_onnx(m, x, tmp_path / "net.onnx"))
    for call in calls:
        with pytest.raises(ValueError, match=r"example_input .*images\.normalize\(images\.valid\.x\[:1\]\)") as error:
            call(model, example)
        assert "\n" not in str(error.value)
    assert model.training and not model.conv1._forward_hooks and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, bad", [("repeats", 0), ("repeats", 1.5), ("warmup", -1), ("warmup", True)])
def test_bad_repeats(name, bad):
    refused(lambda: bl.cost.measure(nn.ReLU(), torch.zeros(1, 1), **{name: bad}), f"{name} must be a whole", f"{bad!r}")


# --- ONNX -------------------------------------------------------------------------------------------------------------


def test_onnx_computes_what_torch_does(tmp_path):
    """The removed network, for the batch of one that it was exported with and for others."""
    import onnxruntime

    torch.manual_seed(0)
    image = torch.randn(1, 3, 32, 32)
    model = bl.pruning.remove_filters(bl.build_model("smallcnn", width=0.25), 0.5, image).train()
    path = tmp_path / "new" / "net.onnx"
    assert 0 <= bl.cost.export_onnx(model, image, path) < 1e-5
    assert model.training and [p.name for p in path.parent.iterdir()] == ["net.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    more = torch.randn(5, 3, 32, 32)
    found = torch.from_numpy(session.run(["output"], {"input": more.numpy()})[0])
    torch.testing.assert_close(found, model.eval()(more), rtol=1e-4, atol=1e-5)


def test_onnx_file_that_fails_the_check_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(bl.cost, "agree", lambda a, b: False)
    path = tmp_path / "net.onnx"
    path.write_text("what was there")
    with pytest.raises(ValueError, match=r"onnxruntime's output differs from torch's by .* is not written"):
        bl.cost.export_onnx(nn.Sequential(nn.Linear(3, 2)), torch.ones(1, 3), path)
    assert path.read_text() == "what was there" and len(list(tmp_path.iterdir())) == 1


def test_onnx_is_compared_with_what_is_exact(tmp_path, monkeypatch):
    """A GPU's rounding of inputs to 10 bits is no fault of the file; that of half precision is allowed for."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, image = bl.build_model("smallcnn", width=0.25).eval(), torch.rand(2, 3, 32, 32)
    with monkeypatch.context() as patch:
        patch.setattr(bl.cost, "run_once", lambda model, x: modules.run_once(model, x) * 1.001)
        assert bl.cost.export_onnx(model, image, tmp_path / "net.onnx") < 1e-4
    assert bl.cost.export_onnx(model.half(), image.half(), tmp_path / "half.onnx") < 0.1
    with pytest.raises(ValueError, match="returns a tuple: wrap it in a module that returns one"):
        bl.cost.export_onnx(Pair(), image, tmp_path / "pair.onnx")


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_onnx_without_its_packages(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"needs {package}.*: pip install onnx onnxscript onnxruntime"):
        bl.cost.export_onnx(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "net.onnx")


def test_agreement_is_relative_to_the_largest_output():
    one = torch.tensor([1.0, -100.0])
    assert bl.modules.agree(one + 0.009, one) and not bl.modules.agree(one + 0.011, one)
    assert not bl.modules.agree(one[:1], one) and not bl.modules.agree(one * torch.nan, one)
    assert bl.modules.agree(torch.zeros(2), torch.zeros(2)) and not bl.modules.agree(
        torch.zeros(2) + 2e-6, torch.zeros(2)
    )


def test_latencies_are_taken_in_turn_and_the_models_stay_as_they_are():
    order = []

    class Counted(nn.Linear):
        def forward(self, x):
            order.append((self.out_features, self.training))
            return super().forward(x)

    models = [Counted(4, n).train() for n in (1, 2)]
    found = bl.cost.latencies(models, torch.zeros(3, 4), rounds=3)
    assert len(found) == 2 and min(found) > 0
    assert order == [(1, False), (2, False)] * 4 and all(m.training for m in models)
    refused(lambda: bl.cost.latencies(models, torch.zeros(3, 4), rounds=0), "rounds must be a whole number >= 1, got 0")
    refused(lambda: bl.cost.latencies([], torch.zeros(3, 4)), "the number of models must be a whole number >= 1, got 0")
