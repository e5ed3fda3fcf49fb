"""Models that no one here wrote, and what the layers and the pruning do with each: the rows of book/zoo.md.

``make zoo`` compares them with the page, and writes it anew with ZOO=write. All rows need timm and transformers beside
the book's environment.
"""

import copy
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite import pruning
from bridgeout_lite.tv_compat import import_torchvision

PAGE = Path(__file__).parents[2] / "book" / "zoo.md"
COLUMNS = ("model", "Sparseout", "Bridgeout", "masks", "removed", "BatchNorm", "export")
TOLERANCE = 1e-4  # of the largest output

HEAD = """# Other people's models

What the layers and the pruning do with untrained models that no one here wrote, from torchvision, timm and
transformers, and with an LSTM and a U-Net. Each cell is a test: *yes* means that it ran and agreed, *refused* that one
line said what was in the way, and that the model was left as it was.

Sparseout
: attached behind every nonlinearity that is a module, one step of training, detached: the original state-dict keys.

Bridgeout
: the same, on the weights of all convolutions and linear layers.

masks
: `bl.pruning.prune(model, 0.3)`.

removed
: `remove_filters(model, 0.3, x)` computes what `prune(..., silence=True)` does, to 1e-4 of the largest output.

BatchNorm
: `recalibrate_batchnorm`; refused where there is no BatchNorm.

export
: `torch.export` in evaluation mode with Sparseout attached, the same output.

This page is written by `make zoo ZOO=write`.
"""

TORCHVISION = (
    *("resnet18", "vgg11_bn", "mobilenet_v3_small", "densenet121", "efficientnet_b0", "googlenet"),
    *("convnext_tiny", "vit_b_16", "swin_t"),
)
TIMM = ("resnet10t", "mobilenetv4_conv_small", "regnetx_002", "efficientvit_b0", "vit_tiny_patch16_224")
TRANSFORMERS = ("GPT-2", "BERT")
OWN = ("LSTM", "U-Net")
MODELS = (*TORCHVISION, *(f"timm {name}" for name in TIMM), *TRANSFORMERS, *OWN)


def lacking(name: str) -> str:
    """The package that the model needs and that is not here, or ""."""
    package = "timm" if name.startswith("timm ") else "transformers" if name in TRANSFORMERS else "torch"
    return "" if find_spec(package) else package


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """An untrained model with running statistics as training leaves them, and a batch."""
    torch.manual_seed(0)
    import_torchvision()
    import torchvision

    x: Any = torch.randn(2, 3, 224, 224) if "vit_" in name and "efficient" not in name else torch.randn(2, 3, 64, 64)
    if name in TORCHVISION:
        more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, weights=None, num_classes=10, **more)
    elif name.startswith("timm "):
        import timm

        model = timm.create_model(name.removeprefix("timm "), num_classes=10)
    elif name in TRANSFORMERS:
        import transformers

        x, same = torch.arange(16).view(2, 8), {"vocab_size": 32, "pad_token_id": 0}
        if name == "GPT-2":
            config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=16, use_cache=False, **same)
            config.bos_token_id = config.eos_token_id = None
            model = transformers.GPT2Model(config)
        else:
            model = transformers.BertModel(
                transformers.BertConfig(num_hidden_layers=2, num_attention_heads=2, hidden_size=32, **same)
            )
    else:
        model, x = (Sentences(), torch.randn(2, 8, 16)) if name == "LSTM" else (UNet(), x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model, x


class Sentences(nn.Module):
    """An LSTM and a classifier of its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.classifier = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.lstm(x)[0][:, -1])


class UNet(nn.Module):
    """Two levels down and up, with the features of the way down concatenated on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.low, self.up = self.block(3, 8), self.block(8, 16), nn.Upsample(scale_factor=2)
        self.join, self.head, self.pool = self.block(24, 8), nn.Conv2d(8, 2, 1), nn.MaxPool2d(2)

    @staticmethod
    def block(i: int, o: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.down(x)
        return self.head(self.join(torch.cat([skip, self.up(self.low(self.pool(skip)))], 1)))


def first(output: Any) -> torch.Tensor:
    """The first tensor of an output of whatever kind."""
    return output if isinstance(output, torch.Tensor) else output[0]


def is_nonlinear(name: str, module: nn.Module) -> bool:
    """torch's nonlinearities and, in transformers, classes of their own."""
    return type(module).__name__ in ("NewGELUActivation", "GELUActivation") or bl.layers.is_activation(name, module)


def row(name: str) -> tuple[str, ...]:
    """What each step says: "yes", or the one line with which it is refused. Anything else is raised."""
    model, x = build(name)
    before = copy.deepcopy(model.state_dict())

    def said(step: Callable[[], object]) -> str:
        try:
            step()
        except ValueError as error:
            assert "\n" not in str(error), "a refusal is one line"
            return f"no: {error}"
        assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items()), "it was left as it is"
        return "yes"

    def train(attach: Callable[[nn.Module], object], detach: Callable[[nn.Module], object]) -> None:
        own = copy.deepcopy(model).train()
        attach(own)
        first(own(x)).float().square().mean().backward()
        assert any(p.grad is not None for p in own.parameters())
        detach(own)
        assert list(own.state_dict()) == list(before)

    def with_weight(_: str, module: nn.Module) -> bool:
        return isinstance(module, nn.Conv2d | nn.Linear)

    def shrink() -> None:
        still = copy.deepcopy(model).eval()
        small = pruning.remove_filters(still, 0.3, x)
        silent = pruning.prune(still, 0.3, silence=True, example_input=x)
        a, b = first(small(x)), first(silent(x))
        assert (a - b).abs().max() <= TOLERANCE * b.abs().max().clamp_min(0.01)

    def recalibrate() -> None:
        own = copy.deepcopy(model).train()
        pruning.recalibrate_batchnorm(own, as_images(x), 1, batch_size=2, flip=False, crop=0)
        assert own.training

    def export() -> None:
        own = copy.deepcopy(model).eval()
        if any(is_nonlinear(*named) for named in own.named_modules()):
            bl.attach_sparseout(own, 0.1, 1.0, where=is_nonlinear)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(own, (x,)).module()
        assert torch.allclose(first(program(x)), first(own(x)), atol=1e-4)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            name,
            said(lambda: train(lambda m: bl.attach_sparseout(m, 0.1, 1.0), bl.detach_sparseout)),
            said(lambda: train(lambda m: bl.attach_bridgeout(m, 0.1, 1.5, where=with_weight), bl.detach_bridgeout)),
            said(lambda: pruning.prune(copy.deepcopy(model), 0.3)),
            said(shrink),
            said(recalibrate),
            said(export),
        )


def as_images(x: torch.Tensor) -> Any:
    """A data set of these inputs."""
    pixels = (x.clamp(0, 1) * 255).byte() if x.dim() == 4 else torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    part = bl.data.Split(pixels, torch.zeros(len(pixels), dtype=torch.long))
    return bl.data.Images("zoo", part, part, part, ("one",) * 10, (127.5,) * 3, (127.5,) * 3, "", False)


def line(row: tuple[str, ...]) -> str:
    """A row of the page's table; a refusal stands below it."""
    return "| " + " | ".join((row[0], *("yes" if cell == "yes" else "refused" for cell in row[1:]))) + " |"


def refusals(row: tuple[str, ...]) -> list[str]:
    """The refusals of a row, in words."""
    return [f"- {row[0]}, {what}: {cell[4:]}" for what, cell in zip(COLUMNS, row, strict=True) if cell[:4] == "no: "]


def page(rows: list[tuple[str, ...]]) -> str:
    """book/zoo.md."""
    parts = [HEAD, "| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    parts += [*map(line, rows), "", "## What is refused, and with what words", ""]
    return "\n".join((*parts, *(text for row in rows for text in refusals(row)), ""))
