"""Training, evaluating and sampling language models."""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import check_choice, check_whole
from ...modules import evaluating
from ...text import Tokens, Vocabulary, streams
from ...training import History, Recipe, autocast, identify, make_scheduler, pick_device, pick_precision, run_epochs
from .model import LanguageModel

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("onecycle", "cosine", "constant")

# Streams read side by side in evaluation, and tokens of the validation part whose hidden states are measured.
EVALUATED_STREAMS = 20

# Tokens of the text that every record keeps as a sample, drawn after a line's end.
SAMPLED = {"word": 60, "char": 300}


@dataclasses.dataclass(frozen=True)
class LanguageRecipe:
    """How to train a language model by truncated backpropagation through time.

    Attributes:
        epochs: passes over the training text. batch_size: stretches of the text read side by side.
        length: tokens per window. The LSTM's state is carried from window to window, gradients are not.
        optimizer: "adamw" or "sgd" (without momentum).
        lr, weight_decay, schedule, clip, precision: as for :class:`bridgeout_lite.Recipe`, with these ``SCHEDULES``.
    """

    epochs: int = 5
    batch_size: int = 20
    length: int = 32
    optimizer: str = "adamw"
    lr: float = 5e-3
    weight_decay: float = 0.0
    schedule: str = "onecycle"
    clip: float | None = 1.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_choice(self.optimizer, OPTIMIZERS, "optimizer")
        check_choice(self.schedule, SCHEDULES, "schedule")
        check_whole(self.length, "length", 2)
        checked = self.common
        for name in ("lr", "weight_decay", "clip"):  # 1 and 1.0 are one recipe, told by its repr
            object.__setattr__(self, name, getattr(checked, name))

    @property
    def common(self) -> Recipe:
        """What this recipe shares with that of images, checked there."""
        names = ("epochs", "batch_size", "lr", "weight_decay", "schedule", "clip", "precision")
        return Recipe(**{name: getattr(self, name) for name in names})


def fit_language(
    model: LanguageModel,
    tokens: Tokens,
    recipe: LanguageRecipe | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> History:
    """Train ``model`` in place on ``tokens.train``, watching ``tokens.valid``. The test part is not touched.

    Every epoch reads the text in its order, from a random one of the first ``length`` tokens on, so that windows are
    cut elsewhere each time.

    Args:
        model, tokens: from :func:`build_language_model` and :func:`bridgeout_lite.text.tokenize`.
        recipe: defaults to ``LanguageRecipe()``.
        seed: of the windows' starts and the noise (not of the model's initial weights).
        device, checkpoint, progress, on_epoch: as for :func:`bridgeout_lite.fit`, whose errors this has too.

    Returns:
        A :class:`~bridgeout_lite.History` whose ``frame`` has epoch, lr, train_loss and valid_loss (nats per token),
        train_perplexity and valid_perplexity, seconds and tokens_per_second.

    Raises:
        ValueError: a window is longer than a stretch of the text.
    """
    recipe = recipe or LanguageRecipe()
    where = pick_device(device)
    precision = pick_precision(recipe.precision, where)
    rows = len(tokens.train) // recipe.batch_size
    steps = (rows - recipe.length) // recipe.length
    if steps < 1:
        raise ValueError(
            f"{len(tokens.train)} training tokens in {recipe.batch_size} stretches are {rows} each, and windows of "
            f"{recipe.length} need {2 * recipe.length}: take a longer text, or lower length or batch_size"
        )
    model.to(where)
    tokens = tokens.to(where)
    text = streams(tokens.train, recipe.batch_size)
    make = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.SGD
    optimizer = make(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = make_scheduler(optimizer, recipe.common, steps)

    def one_epoch(epoch: int, bar: Any) -> dict[str, float]:
        start = time.perf_counter()
        first = int(torch.randint(recipe.length, ()))
        lr = optimizer.param_groups[0]["lr"]
        total, state = torch.zeros((), device=where), None
        model.train()
        for at in range(first, first + steps * recipe.length, recipe.length):
            with autocast(where, precision):
                logits, state = model(text[at : at + recipe.length], state)
            loss = cross_entropy(logits, text[at + 1 : at + 1 + recipe.length])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            scheduler.step()
            state = state.detach()
            total += loss.detach()
            bar.update()
        train_loss = (total / steps).item()
        seconds = time.perf_counter() - start
        valid_loss = evaluate_language(model, tokens.valid, length=recipe.length // 2, precision=precision)
        if not math.isfinite(train_loss + valid_loss):
            raise FloatingPointError(
                f"the training loss is {train_loss} and the validation loss {valid_loss} in epoch {epoch + 1}: "
                f"lower lr (now {recipe.lr:g}) or p, or set clip"
            )
        row = {"epoch": epoch + 1, "lr": lr, "train_loss": train_loss, "train_perplexity": perplexity(train_loss)}
        row |= {"valid_loss": valid_loss, "valid_perplexity": perplexity(valid_loss), "seconds": seconds}
        bar.set_postfix(loss=f"{train_loss:.3f}", valid_perplexity=f"{row['valid_perplexity']:.1f}")
        return row | {"tokens_per_second": steps * text[: recipe.length].numel() / seconds}

    history = run_epochs(
        one_epoch,
        (model, optimizer, scheduler),
        identify(model, tokens, recipe, seed, precision),
        epochs=recipe.epochs,
        steps=steps,
        seed=seed,
        device=where,
        checkpoint=checkpoint,
        progress=progress,
        on_epoch=on_epoch,
    )
    return History(pd.DataFrame(history), precision, str(where))


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats of logits (time, batch, vocabulary) for targets (time, batch); targets of -100 are left
    out."""
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction=reduction)


def perplexity(loss: float) -> float:
    """exp of a loss in nats per token; infinite beyond the range of floats, where ``math.exp`` raises OverflowError."""
    return torch.tensor(loss, dtype=torch.float64).exp().item()


@torch.inference_mode()
def evaluate_language(model: LanguageModel, tokens: Tensor, *, length: int = 16, precision: str = "float32") -> float:
    """Mean cross-entropy (nats per token) of ``model`` on tokens (n,), in evaluation mode; exp of it is the perplexity.

    The text is read in at most ``EVALUATED_STREAMS`` stretches side by side, ``length`` tokens at a time with the state
    carried on. Every token but the first is predicted once; the first of each stretch after it from that one alone.
    A transformer's context should be a multiple of ``length``: it sees the context less ``length`` tokens at least.

    Raises:
        ValueError: fewer than two tokens.
    """
    if len(tokens) < 2:
        raise ValueError(f"{len(tokens)} token(s) leave nothing to predict: give at least 2")
    device = next(model.parameters()).device
    tokens = tokens.to(device)
    count = len(tokens) - 1
    rows = math.ceil(count / EVALUATED_STREAMS)
    padding = (0, -count % rows)
    inputs = F.pad(tokens[:-1], padding).view(-1, rows).t()
    targets = F.pad(tokens[1:], padding, value=-100).view(-1, rows).t()
    loss, state = torch.zeros((), device=device, dtype=torch.float64 if device.type == "cpu" else None), None
    with evaluating(model):
        for at in range(0, rows, length):
            with autocast(device, precision):
                logits, state = model(inputs[at : at + length], state)
            loss += cross_entropy(logits, targets[at : at + length], "sum")
    return loss.item() / count


@torch.inference_mode()
def sample(
    model: LanguageModel,
    vocabulary: Vocabulary,
    start: str,
    count: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> str:
    """Continue the text ``start`` by ``count`` tokens drawn one by one from the model's predictions, never the unknown
    one. ``temperature`` divides the logits: below 1 the likely becomes likelier. ``generator`` lives on the CPU.

    Raises:
        ValueError: ``start`` has no token; temperature not > 0.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a number > 0, got {temperature!r}")
    device = next(model.parameters()).device
    given = vocabulary.encode(start).to(device)
    if vocabulary.level == "word" and not start.endswith("\n"):
        given = given[:-1]  # the text goes on in the same line
    if not len(given):
        raise ValueError(f"start must hold at least one {vocabulary.level}, got {start!r}")
    state, drawn = None, []
    with evaluating(model):
        for token in given:
            logits, state = model(token.view(1, 1), state)
        for _ in range(count):
            scores = logits[-1, 0].float().cpu() / temperature
            scores[0] = -math.inf
            token = torch.multinomial(scores.softmax(0), 1, generator=generator)
            drawn.append(token)
            logits, state = model(token.view(1, 1).to(device), state)
    return vocabulary.decode(torch.cat(drawn)) if drawn else ""
