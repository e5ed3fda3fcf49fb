"""Training: a recipe, one loop, and a history. Small enough to read in one sitting, fast enough for two CPU cores.

The whole data set sits on the device as uint8; batches are cut, augmented and normalised there. Within an epoch nothing
is read back from the device, so a GPU never waits. Seeds and checkpoints: see :mod:`bridgeout_lite.epochs`.

Example:
    >>> from .data import load_images
    >>> images = load_images("digits", train=64, valid=16, test=16)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    >>> history = fit(model, images, Recipe(epochs=2, batch_size=32, lr=0.01), device="cpu", progress=False)
    >>> len(history.frame), 0 <= evaluate(model, images)[1] <= 100, pick_device("cpu")
    (2, True, device(type='cpu'))
"""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_choice, check_positive, check_share, check_whole, library
from .cudagraph import Replay, Work
from .data import Images, Split
from .epochs import CheckpointError as CheckpointError
from .epochs import epoch_seed
from .epochs import identify as identify
from .epochs import run_epochs as run_epochs
from .models import Whitening
from .modules import evaluating

if TYPE_CHECKING:
    import pandas as pd

SCHEDULES = ("onecycle", "cosine", "steps", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")
FLIPS = (False, True, "alternating")
VIEWS = ("one", "flip", "shift")

# Training images that a whitening layer learns from.
WHITENED = 5000

# A recipe's spec leaves these out at these values.
OMITTED_DEFAULTS: dict[str, Any] = {"label_smoothing": 0.0, "bias_lr": 1.0}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train: SGD with Nesterov momentum on cross-entropy.

    Attributes:
        epochs: passes over the training split.
        batch_size: images per step; an incomplete final batch is dropped.
        lr: peak learning rate.
        momentum, weight_decay: as SGD has them; weight decay acts on every parameter.
        schedule: "onecycle" (up for a fifth of the run, then down to zero), "cosine", "steps" (times ``gamma`` after
            each epoch of ``milestones``) or "constant".
        flip: mirror half of the images; "alternating": those that are mirrored in one epoch are not in the next.
        crop: shift by at most this many pixels, filling with black.
        clip: largest norm of the gradient (default: no limit). Noise with q < 2 has heavy-tailed gradients.
        precision: "bfloat16" runs the forward pass under autocast; "auto" does so where the hardware has it.
        label_smoothing: share of a label's weight that is spread evenly over all classes.
        bias_lr: learning rate of biases and of BatchNorm's shifts, in units of ``lr``.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.2
    flip: bool | str = True
    crop: int = 4
    clip: float | None = None
    precision: str = "auto"
    label_smoothing: float = 0.0
    bias_lr: float = 1.0

    def __post_init__(self) -> None:
        check_choice(self.schedule, SCHEDULES, "schedule")
        check_choice(self.precision, PRECISIONS, "precision")
        if self.flip not in FLIPS:
            raise ValueError(f"flip must be True, False or 'alternating', got {self.flip!r}")
        above_zero = functools.partial(check_positive, zero=False)
        checks: dict[str, Callable[[Any, str], Any]] = {
            **dict.fromkeys(("epochs", "batch_size"), check_whole),
            "crop": functools.partial(check_whole, least=0),
            **dict.fromkeys(("lr", "bias_lr"), above_zero),
            **dict.fromkeys(("weight_decay", "gamma"), check_positive),
            **dict.fromkeys(("momentum", "label_smoothing"), check_share),
            "clip": lambda value, name: None if value is None else above_zero(value, name),
            "milestones": lambda value, name: tuple(check_whole(epoch, f"each of {name}") for epoch in value),
        }
        for name, check in checks.items():  # 1 becomes 1.0: two recipes are one if their reprs are
            object.__setattr__(self, name, check(getattr(self, name), name))

    @property
    def spec(self) -> dict[str, Any]:
        """The recipe as JSON values, for the spec of an experiment. Fields added after the first records were made are
        left out at their defaults, so that older fingerprints stay valid."""
        fields = dataclasses.asdict(self) | {"milestones": list(self.milestones)}
        return {k: v for k, v in fields.items() if k not in OMITTED_DEFAULTS or v != OMITTED_DEFAULTS[k]}


@dataclasses.dataclass(frozen=True)
class History:
    """A training run. ``frame`` has one row per epoch: epoch, lr, train_loss and valid_loss (nats), train_accuracy and
    valid_accuracy (%), seconds, images_per_second."""

    frame: "pd.DataFrame"
    precision: str
    device: str

    @property
    def last_row(self) -> dict[str, float]:
        """The row of the last epoch, by column name."""
        return {str(k): float(v) for k, v in self.frame.iloc[-1].items()}


class Regulariser:
    """A method that acts on training from outside: a term of the loss, and what follows each step.

    Its repr and :meth:`places` tell runs apart: a checkpoint fits only a method with the same two.
    """

    def penalty(self, model: nn.Module) -> Tensor:
        """A scalar to add to the mean loss of the mini-batch that the model has just seen."""
        raise NotImplementedError

    def after_step(self, model: nn.Module, lr: float | None = None) -> None:
        """Called after the optimizer has stepped with learning rate ``lr``; does nothing by default."""

    def resume(self, steps: int) -> None:
        """Set the method's state to that after ``steps`` steps of a resumed run (0: a new run). Most have none."""

    def places(self, model: nn.Module) -> list[str]:
        """Names of the modules of ``model`` on which the method acts, if it acts on some only."""
        return []


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """ "auto" is CUDA, else Apple's MPS, else the CPU; ValueError for a device that this torch cannot reach."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device {device!r} is not available here: use 'auto', 'cpu', 'cuda' or 'mps'") from error
    return chosen


def pick_precision(precision: str, device: torch.device) -> str:
    """ "auto" is bfloat16 where the device multiplies it natively, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in probes)
    return "bfloat16" if native else "float32"


def fit(
    model: nn.Module,
    images: Images,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    graph: bool = False,
    regulariser: Regulariser | None = None,
    watch: Callable[[nn.Module], dict[str, float]] | None = None,
) -> History:
    """Train ``model`` in place on ``images.train``, watching ``images.valid``. The test split is not touched.

    Args:
        model: any classifier of the images; it is moved to the device. In a model that is in training mode, modules in
            evaluation mode stay so: that is how to freeze a BatchNorm.
        images: from :func:`bridgeout_lite.load_images`.
        recipe: defaults to ``Recipe()``.
        seed: seeds the order of the images, the augmentation and the noise (not the model's initial weights).
        device: see :func:`pick_device`.
        checkpoint: a file that is rewritten after every epoch; if it exists the run resumes from it.
        progress: show a bar with loss, accuracy and time left (the environment variable TQDM_DISABLE hides it).
        on_epoch: called after each epoch with its row of the history.
        graph: record forward and backward pass as a CUDA graph and replay it. On a GPU a small network spends most of
            its time on launching hundreds of kernels. The model must run the same operations at every step and read no
            value back.
        regulariser: adds its penalty to the loss, and may act after each step.
        watch: called with the model, in evaluation mode, at the end of each epoch; the values it returns are added to
            the epoch's row of the history.

    Raises:
        ValueError: fewer training images than one batch; no validation images; an unusable device, or ``graph`` on
            one other than CUDA.
        CheckpointError: the checkpoint is unreadable, belongs to another model, recipe, seed or data set, or cannot
            be written (checked before training starts).
        RuntimeError: ``graph``, and the model cannot be recorded.
        FloatingPointError: the loss is no longer finite.
        KeyboardInterrupt: passed on, after one line that says from which epoch the same call would resume.
    """
    pandas = library("pandas", "fit")
    recipe = recipe or Recipe()
    device = pick_device(device)
    precision = pick_precision(recipe.precision, device)
    if graph and device.type != "cuda":
        raise ValueError(f"graph=True needs a CUDA device, got {str(device)!r}: leave graph out")
    if len(images.train) < recipe.batch_size:
        raise ValueError(
            f"{len(images.train)} training images are fewer than one batch of {recipe.batch_size}: "
            "load more of them, or lower batch_size"
        )
    if not len(images.valid):
        raise ValueError(f"the validation split of {images.name} is empty: load it with valid >= 1")
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.to(device)
    prepare(model, images)
    steps = len(images.train) // recipe.batch_size
    optimizer = torch.optim.SGD(
        _groups(model, recipe),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=device.type == "cuda" or None,  # on a CPU it saves 1 or 2 % of a step, and rounds in another way
    )
    scheduler = make_scheduler(optimizer, recipe, steps)
    identity = identify(model, images, recipe, seed, precision + " as a CUDA graph" * graph)
    if regulariser is not None:
        identity["regulariser"] = f"{regulariser!r} on {regulariser.places(model)}"
    learn: Work = functools.partial(_learn, model, recipe, precision, regulariser)
    learn = Replay(learn) if graph else learn

    def step(x: Tensor, y: Tensor) -> Tensor:
        result = learn(x, y)
        optimizer.step()
        if regulariser is not None:
            regulariser.after_step(model, optimizer.param_groups[0]["lr"])
        scheduler.step()
        return result

    def one_epoch(epoch: int, bar: Any) -> dict[str, float]:
        if regulariser is not None:
            regulariser.resume(epoch * steps)
        row = {"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"]}
        row |= _epoch(model, images, recipe, step, precision, epoch, seed, bar)
        if watch is not None:
            with evaluating(model), torch.no_grad():
                row |= watch(model)
        return row

    rows = run_epochs(
        one_epoch,
        (model, optimizer, scheduler),
        identity,
        epochs=recipe.epochs,
        steps=steps,
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        progress=progress,
        on_epoch=on_epoch,
    )
    return History(pandas.DataFrame(rows), precision, str(device))


def prepare(model: nn.Module, images: Images) -> None:
    """Let whitening layers without filters learn them from the first training images."""
    for module in model.modules():
        if isinstance(module, Whitening) and not module.ready:
            module.learn(images.normalize(images.train.x[:WHITENED]))


def _turned(count: int, epoch: int, seed: int) -> Tensor:
    """Which images an epoch of alternating flips mirrors: one coin per image and run, turned every epoch."""
    coins = torch.randint(
        0, 2, (count,), device="cpu", generator=torch.Generator("cpu").manual_seed(epoch_seed(seed, -1))
    )
    return (coins + epoch) % 2 == 1


def _groups(model: nn.Module, recipe: Recipe) -> Any:
    """The parameters for the optimizer: two groups if biases have a learning rate of their own."""
    if recipe.bias_lr == 1.0:
        return model.parameters()
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name.removesuffix(".original").endswith("bias")].append(parameter)  # under Bridgeout it has that suffix
    # weight decay subtracts lr times weight_decay: the same from both groups
    decay = recipe.weight_decay / recipe.bias_lr
    return [
        {"params": groups[False]},
        {"params": groups[True], "lr": recipe.lr * recipe.bias_lr, "weight_decay": decay},
    ]


def _learn(
    model: nn.Module, recipe: Recipe, precision: str, regulariser: Regulariser | None, x: Tensor, y: Tensor
) -> Tensor:
    """Compute the gradients of one batch; return its loss and share of hits, on the device."""
    model.zero_grad(set_to_none=True)
    with autocast(x.device, precision):
        logits = model(x)
    y = y.repeat(len(logits) // len(y))  # a model may answer each image several times, under several draws
    loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
    (loss if regulariser is None else loss + regulariser.penalty(model)).backward()
    if recipe.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    with torch.no_grad():
        return torch.stack([loss.detach(), (logits.argmax(1) == y).float().mean()])


def _epoch(
    model: nn.Module, images: Images, recipe: Recipe, learn: Work, precision: str, epoch: int, seed: int, bar: Any
) -> dict[str, float]:
    """Learn from every batch once; the losses and accuracies."""
    start = time.perf_counter()
    x, y = images.train.x, images.train.y
    steps = len(y) // recipe.batch_size
    draws = torch.Generator(x.device).manual_seed(epoch_seed(seed, epoch) + 1)
    order = torch.randperm(len(y), generator=draws, device=x.device)
    totals = torch.zeros(2, device=x.device)  # loss and hits stay on the device until the epoch ends
    normalize = images.normalizer(x.device)
    turned = _turned(len(y), epoch, seed).to(x.device) if recipe.flip == "alternating" else None
    if not model.training:  # else layers that the user has frozen, in evaluation mode, stay so
        model.train()
    for step in range(steps):
        index = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        flip = recipe.flip is True if turned is None else turned[index]
        totals += learn(normalize(augment(x[index], flip, recipe.crop, draws)), y[index])
        bar.update()
    train_loss, train_hits = (totals / steps).tolist()
    seconds = time.perf_counter() - start
    valid_loss, valid_accuracy = evaluate(model, images, "valid", precision=precision)
    if not math.isfinite(train_loss + valid_loss):  # the validation loss sees the last step too
        raise FloatingPointError(
            f"the training loss is {train_loss} and the validation loss {valid_loss} in epoch {epoch + 1}: "
            f"lower lr (now {recipe.lr:g}) or p, or set clip"
        )
    bar.set_postfix(loss=f"{train_loss:.3f}", valid=f"{valid_accuracy:.1f} %")
    return {
        "train_loss": train_loss,
        "train_accuracy": 100.0 * train_hits,
        "valid_loss": valid_loss,
        "valid_accuracy": valid_accuracy,
        "seconds": seconds,
        "images_per_second": steps * recipe.batch_size / seconds,
    }


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: Images,
    split: str = "test",
    *,
    batch_size: int = 500,
    precision: str = "float32",
    views: str = "one",
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (%) of ``model`` on one split, in evaluation mode, on the model's device.

    ``views`` is "one", the image itself; "flip", the mean answer to it and its mirror image; "shift", the same with
    half of the weight on both shifted by one pixel, up and left or down and right.

    Raises:
        ValueError: ``split`` is not "train", "valid" or "test", or is empty; other views.
    """
    check_choice(split, ("train", "valid", "test"), "split")
    check_choice(views, VIEWS, "views")
    part: Split = getattr(images, split)
    if not len(part):
        raise ValueError(f"the {split} split of {images.name} is empty")
    device = next(model.parameters()).device
    loss, hits = torch.zeros((), device=device), torch.zeros((), device=device)
    normalize = images.normalizer(device)
    with evaluating(model):
        for x, y in zip(part.x.split(batch_size), part.y.split(batch_size), strict=True):
            x, y = x.to(device), y.to(device)
            with autocast(device, precision):
                logits = _answer(model, normalize(x), views)
            loss += F.cross_entropy(logits, y, reduction="sum")
            hits += (logits.argmax(1) == y).sum()
    return loss.item() / len(part), 100.0 * hits.item() / len(part)


def _answer(model: nn.Module, x: Tensor, views: str) -> Tensor:
    if views == "one":
        logits: Tensor = model(x).float()
        return logits
    if views == "flip":
        return (_answer(model, x, "one") + _answer(model, x.flip(3), "one")) / 2
    padded = F.pad(x, (1,) * 4, mode="reflect")
    shifted = [padded[:, :, k : k + x.shape[2], k : k + x.shape[3]] for k in (0, 2)]
    return _answer(model, x, "flip") / 2 + sum(_answer(model, part, "flip") for part in shifted) / 4


def augment(x: Tensor, flip: bool | Tensor, crop: int, generator: torch.Generator | None = None) -> Tensor:
    """Mirror half of a batch (n, c, h, w) of uint8 images and shift each by at most ``crop`` pixels, filling with zeros
    (black): torchvision's RandomHorizontalFlip and RandomCrop(padding=crop) for a whole batch at once. ``flip`` may
    also be a tensor (n,) of truth values, the images to mirror."""
    n, _, height, width = x.shape
    if crop:
        shift = torch.randint(0, 2 * crop + 1, (2, n), generator=generator, device=x.device)
        windows = F.pad(x, (crop,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: every shift of every image
        x = windows[torch.arange(n, device=x.device), :, shift[0], shift[1]]
    if flip is True:
        flip = torch.rand(n, generator=generator, device=x.device) < 0.5
    if isinstance(flip, Tensor):
        x = x + (x.flip(3) - x) * flip.view(n, 1, 1, 1).to(x.dtype)  # exact modulo 256; torch.where takes longer
    return x


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bfloat16 autocast on ``device`` if ``precision`` is "bfloat16", else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def make_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    library, total = torch.optim.lr_scheduler, recipe.epochs * steps
    if recipe.schedule == "onecycle":
        rise = max(0.2, 2 / (total + 1))  # at least one step up: OneCycleLR divides by the number of them
        return library.OneCycleLR(
            optimizer, recipe.lr, total_steps=total + 1, pct_start=rise, anneal_strategy="linear", cycle_momentum=False
        )
    if recipe.schedule == "cosine":
        return library.CosineAnnealingLR(optimizer, total)
    milestones = [m * steps for m in recipe.milestones] if recipe.schedule == "steps" else []
    return library.MultiStepLR(optimizer, milestones, recipe.gamma)
