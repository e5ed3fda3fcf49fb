r"""Language models and their experiments: an LSTM and a small transformer of the same size, in plain torch.

Both read tokens (time, batch), put out logits (time, batch, vocabulary), and share one matrix between the embedding of
a token and the logit of a token. Places where noise can sit are modules, so that it is attached from outside as
everywhere in this package: in the LSTM where dropout usually sits (on the embeddings, between the layers, on the
outputs; never on the recurrent connections), in the transformer on the activations of the MLPs.

Perplexity is exp of the mean cross-entropy a token, in nats; all tokens count, line ends and unknown ones too.

Sources: Zaremba, Sutskever and Vinyals 2014, arXiv:1409.2329 (where dropout goes in an LSTM); Gal and Ghahramani 2016,
arXiv:1512.05287 (one mask for all time steps); Press and Wolf 2017, arXiv:1608.05859 (tied embeddings).
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import TEXT_SETS, load_text
from .layers import attach_sparseout, detach_sparseout
from .noise import check_choice, check_exponent, check_probability
from .records import Record, provenance, rounded
from .sparsity import capture_activations, gini, hoyer, zero_fraction
from .text import LEVELS, Tokens, Vocabulary, streams, tokenize
from .training import History, Recipe, autocast, identify, make_scheduler, pick_device, pick_precision, run_epochs

METHODS = ("none", "sparseout")
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("onecycle", "cosine", "constant")

# Streams read side by side in evaluation, and tokens of the validation part whose hidden states are measured.
EVALUATED_STREAMS = 20
MEASURED_TOKENS = 2000

# Tokens of the text that every record keeps as a sample, drawn after a line's end.
SAMPLED = {"word": 60, "char": 300}

# The recorded sweep: q and p of the search, which has one seed. p = 0.1 came last, as 0.2 was the best for some q.
SEARCHED_Q = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
SEARCHED_P = (0.1, 0.2, 0.4, 0.6)

# The p of least validation loss for each model and q in the search, as tuned() finds it: repeated with two more seeds.
TUNED_P: dict[tuple[str, float], float] = {
    ("lstm", 1.0): 0.2,
    ("lstm", 1.25): 0.4,
    ("lstm", 1.5): 0.4,
    ("lstm", 2.0): 0.4,
    ("lstm", 2.5): 0.4,
    ("lstm", 3.0): 0.4,
    ("transformer", 1.0): 0.1,
    ("transformer", 1.25): 0.2,
    ("transformer", 1.5): 0.6,
    ("transformer", 2.0): 0.1,
    ("transformer", 2.5): 0.1,
    ("transformer", 3.0): 0.2,
}


class LanguageModel(nn.Module):
    """What both models share: tokens to vectors and vectors to logits, by one matrix (vocabulary, width).

    The matrix starts with entries of variance 1/width and the embedding is multiplied by sqrt(width): vectors with
    entries of about 1, so that noise of different q is of comparable strength at the start.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (time, batch) to vectors (time, batch, width)."""
        vectors: Tensor = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return vectors

    def logits(self, hidden: Tensor) -> Tensor:
        """Vectors (time, batch, width) to logits (time, batch, vocabulary)."""
        return F.linear(hidden, self.embedding.weight, self.bias)


class LSTMLanguageModel(LanguageModel):
    """Embedding, LSTM layers of one width, logits. The state is a tensor (layers, 2, batch, width) of h and c; None
    stands for zeros. A layer has 8 width (width + 1) parameters."""

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 2) -> None:
        super().__init__(vocabulary, width)
        self.embedded = nn.Identity()
        self.lstm = nn.ModuleList(nn.LSTM(width, width) for _ in range(layers))
        self.hidden = nn.ModuleList(nn.Identity() for _ in range(layers))

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (time, batch) and the state before them to logits (time, batch, vocabulary) and the state after."""
        x = self.embedded(self.embed(tokens))
        states = []
        for number, (lstm, place) in enumerate(zip(self.lstm, self.hidden, strict=True)):
            before = None if state is None else (state[number, :1], state[number, 1:])
            x, after = lstm(x, before)
            x = place(x)
            states.append(torch.cat(after))
        return self.logits(x), torch.stack(states)


class Block(nn.Module):
    """A transformer layer, normalised first: x + attention(norm(x)), then x + mlp(norm(x)). The MLP is twice as wide as
    x: the layer has 8 width^2 weights, as an LSTM layer does. ReLU, as in the image networks: what is off is zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.mixed = nn.Linear(width, width, bias=False)
        self.up, self.relu, self.down = nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        time, batch, width = x.shape
        parts = self.queries_keys_values(self.norm1(x)).view(time, batch, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 1, 3, 0, 4)  # each (batch, heads, time, width / heads)
        seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.mixed(seen.permute(2, 0, 1, 3).reshape(time, batch, width))
        out: Tensor = x + self.down(self.relu(self.up(self.norm2(x))))
        return out


class TransformerLanguageModel(LanguageModel):
    """Embedding with learned positions, causal self-attention layers, logits.

    The state is the tokens seen before, as many as fit beside the new ones into ``context``. In training it is ignored:
    every window stands alone, as is usual; in evaluation each token is so predicted from up to ``context`` others.
    """

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 2, context: int = 32, heads: int = 4) -> None:
        if width % heads:
            raise ValueError(f"width must be a multiple of {heads}, the number of attention heads; got {width}")
        super().__init__(vocabulary, width)
        self.context = context
        self.position = nn.Embedding(context, width)
        nn.init.normal_(self.position.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`LSTMLanguageModel.forward`; raises ValueError for more tokens than ``context``."""
        if len(tokens) > self.context:
            raise ValueError(f"{len(tokens)} tokens at once, but this transformer's context is {self.context}")
        seen = tokens if state is None or self.training else torch.cat([state, tokens])[-self.context :]
        x = self.embed(seen) + self.position.weight[: len(seen), None]
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x[-len(tokens) :])), seen


MODELS = ("lstm", "transformer")


def build_language_model(name: str, vocabulary: int, *, width: int = 128, layers: int = 2, context: int = 32) -> Any:
    """A language model by name: "lstm" or "transformer" (whose context is ``context`` tokens).

    Raises:
        ValueError: an unknown name; sizes that are not whole numbers >= 1.
    """
    check_choice(name, MODELS, "model")
    for what, value in (("vocabulary", vocabulary), ("width", width), ("layers", layers), ("context", context)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{what} must be a whole number >= 1, got {value!r}")
    if name == "lstm":
        return LSTMLanguageModel(vocabulary, width, layers)
    return TransformerLanguageModel(vocabulary, width, layers, context)


def is_noise_place(name: str, module: nn.Module) -> bool:
    """Where noise sits: the LSTM's embeddings, and the outputs of its layers; the transformer's ReLUs."""
    return isinstance(module, nn.Identity | nn.ReLU)


@dataclasses.dataclass(frozen=True)
class LanguageRecipe:
    """How to train a language model by truncated backpropagation through time.

    Attributes:
        epochs: passes over the training text.
        batch_size: stretches of the text read side by side.
        length: tokens a window. The LSTM's state is carried from window to window, gradients are not.
        optimizer: "adamw" or "sgd" (without momentum).
        lr, weight_decay, schedule, clip, precision: as for :class:`bridgeout_lite.Recipe`; schedule is "onecycle",
            "cosine" or "constant".
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
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 2:
            raise ValueError(f"length must be a whole number of tokens >= 2, got {self.length!r}")
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
        recipe: None is ``LanguageRecipe()``.
        seed: of the windows' starts and the noise (not of the model's initial weights).
        device, checkpoint, progress, on_epoch: as for :func:`bridgeout_lite.fit`.

    Returns:
        A :class:`~bridgeout_lite.History` whose ``frame`` has epoch, lr, train_loss and valid_loss (nats a token),
        train_perplexity and valid_perplexity, seconds and tokens_per_second.

    Raises:
        ValueError: a window is longer than a stretch of the text; an unusable device.
        CheckpointError, FloatingPointError, KeyboardInterrupt: as in :func:`bridgeout_lite.fit`.
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
        bar.set_postfix(loss=f"{train_loss:.3f}", valid_perplexity=f"{perplexity(valid_loss):.1f}")
        return {
            "epoch": epoch + 1,
            "lr": lr,
            "train_loss": train_loss,
            "train_perplexity": perplexity(train_loss),
            "valid_loss": valid_loss,
            "valid_perplexity": perplexity(valid_loss),
            "seconds": seconds,
            "tokens_per_second": steps * text[: recipe.length].numel() / seconds,
        }

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
    """exp of a loss in nats a token; infinite beyond the range of floats, where ``math.exp`` raises OverflowError."""
    return torch.tensor(loss, dtype=torch.float64).exp().item()


@torch.inference_mode()
def evaluate_language(model: LanguageModel, tokens: Tensor, *, length: int = 16, precision: str = "float32") -> float:
    """Mean cross-entropy (nats a token) of ``model`` on tokens (n,), in evaluation mode; exp of it is the perplexity.

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
    was_training = model.training
    model.eval()
    for at in range(0, rows, length):
        with autocast(device, precision):
            logits, state = model(inputs[at : at + length], state)
        loss += cross_entropy(logits, targets[at : at + length], "sum")
    model.train(was_training)
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
    was_training = model.training
    model.eval()
    state, drawn = None, []
    for token in given:
        logits, state = model(token.view(1, 1), state)
    for _ in range(count):
        scores = logits[-1, 0].float().cpu() / temperature
        scores[0] = -math.inf
        token = torch.multinomial(scores.softmax(0), 1, generator=generator)
        drawn.append(token)
        logits, state = model(token.view(1, 1).to(device), state)
    model.train(was_training)
    return vocabulary.decode(torch.cat(drawn)) if drawn else ""


def measure_hidden(model: LanguageModel, tokens: Tensor, q: float) -> dict[str, dict[str, Any]]:
    r"""How sparse is what the noise acts on? ``{place: {...}}`` over tokens (time, batch), in evaluation mode: hoyer,
    gini, zero_fraction and rms of all values as one vector and, under ``per_sample``, of the vector of each token, on
    average; ``noise_ratio``, the mean of :math:`|x|^q` over the mean of :math:`x^2` (times p/(1-p): noise power over
    signal power)."""
    places = {}
    for name, out in capture_activations(model, tokens, where=is_noise_place).items():
        out = out.float()
        size, power = out.abs(), out.square().mean().clamp_min(1e-30)
        on = size[size > 0]
        place: dict[str, Any] = {"rms": out.square().mean().sqrt().item()}
        place["per_sample"] = {"rms": place["rms"]}
        for measure in (hoyer, gini, zero_fraction):
            place[measure.__name__] = measure(out).item()
            place["per_sample"][measure.__name__] = measure(out, -1).mean().item()
        places[name] = place | {"noise_ratio": (on.pow(q).sum() / out.numel() / power).item()}
    return places


@dataclasses.dataclass(frozen=True)
class LanguageExperiment:
    """One run of a language model, fully described.

    Attributes:
        dataset: as for :func:`bridgeout_lite.load_text`, but "auto". level: "word" or "char".
        vocabulary, train, valid, test: symbols to know and tokens to use at most; see
            :func:`bridgeout_lite.text.tokenize`.
        model, width, layers: as for :func:`build_language_model`; the context is the recipe's length.
        method: "none" or "sparseout", at every place of :func:`is_noise_place`; q = 2 is Dropout.
        p, q: of the noise. same_mask: draw it once for all time steps of a window.
        recipe: of the training. seed: of the initial weights, the windows and the noise.
    """

    dataset: str = "ptb"
    level: str = "word"
    vocabulary: int | None = None
    train: int | None = None
    valid: int | None = None
    test: int | None = None
    model: str = "lstm"
    width: int = 128
    layers: int = 2
    method: str = "sparseout"
    p: float = 0.3
    q: float = 2.0
    same_mask: bool = False
    recipe: LanguageRecipe = dataclasses.field(default_factory=LanguageRecipe)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.dataset, TEXT_SETS[1:], "dataset")  # not "auto": a spec names its data
        check_choice(self.level, LEVELS, "level")
        check_choice(self.model, MODELS, "model")
        check_choice(self.method, METHODS, "method")
        object.__setattr__(self, "p", check_probability(self.p))
        object.__setattr__(self, "q", check_exponent(self.q))

    @property
    def spec(self) -> dict[str, Any]:
        """The experiment as JSON values: what a record is found by."""
        return {"task": "language", **dataclasses.asdict(self)}

    def attach(self, model: nn.Module) -> nn.Module:
        """Attach the method to a model."""
        if self.method == "none":
            return model
        return attach_sparseout(model, self.p, self.q, shared=0 if self.same_mask else None, where=is_noise_place)

    def run(self, **options: Any) -> Record:
        """:func:`run_language` on this experiment's data."""
        return run_language(self, **options)


def run_language(
    experiment: LanguageExperiment,
    tokens: Tokens | None = None,
    *,
    device: str | torch.device = "auto",
    checkpoint: str | Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Record:
    """Train one experiment and measure it. The test part is read once, after training.

    Args:
        experiment: what to run. tokens: already loaded data of that description; None loads it.
        device, checkpoint, progress, on_epoch: as for :func:`bridgeout_lite.fit`.

    Returns:
        A :class:`~bridgeout_lite.Record` with the metrics valid_loss, test_loss (nats a token), valid_perplexity,
        test_perplexity, parameters, history (a column a list), layers (see :func:`measure_hidden`; the first
        ``MEASURED_TOKENS`` of the validation part) and sample, some text drawn from the model.
    """
    where = pick_device(device)
    if tokens is None:
        tokens = load_tokens(experiment)
    if tokens.name != experiment.dataset:
        raise ValueError(f"the experiment asks for {experiment.dataset!r} but the tokens given are {tokens.name!r}")
    tokens = tokens.to(where)
    started, origin = time.perf_counter(), provenance(where, tokens.name, tokens.checksum)
    recipe = experiment.recipe
    with torch.random.fork_rng([]):
        torch.manual_seed(experiment.seed)
        model = build_language_model(
            experiment.model,
            len(tokens.vocabulary),
            width=experiment.width,
            layers=experiment.layers,
            context=recipe.length,
        )
    experiment.attach(model)
    history = fit_language(
        model,
        tokens,
        recipe,
        seed=experiment.seed,
        device=where,
        checkpoint=checkpoint,
        progress=progress,
        on_epoch=on_epoch,
    )
    detach_sparseout(model)
    losses = {
        part: evaluate_language(model, getattr(tokens, part), length=recipe.length // 2, precision=history.precision)
        for part in ("valid", "test")
    }
    metrics: dict[str, Any] = {f"{part}_loss": loss for part, loss in losses.items()}
    metrics |= {f"{part}_perplexity": perplexity(loss) for part, loss in losses.items()}
    metrics["parameters"] = sum(p.numel() for p in model.parameters())
    metrics["history"] = {k: history.frame[k].tolist() for k in ("train_loss", "valid_loss")}
    measured = tokens.valid[:MEASURED_TOKENS]
    windows = measured[: len(measured) // recipe.length * recipe.length].view(-1, recipe.length).t()
    metrics["layers"] = measure_hidden(model, windows, experiment.q)
    draws = torch.Generator().manual_seed(experiment.seed)
    metrics["sample"] = sample(model, tokens.vocabulary, "\n", SAMPLED[experiment.level], generator=draws)
    origin |= {"precision": history.precision, "seconds": time.perf_counter() - started}
    return Record(experiment.spec, rounded(metrics), rounded(origin))


def load_tokens(experiment: LanguageExperiment) -> Tokens:
    """The data of an experiment."""
    sizes = {k: getattr(experiment, k) for k in ("vocabulary", "train", "valid", "test")}
    return tokenize(load_text(experiment.dataset), experiment.level, **sizes)


def language_model() -> list[LanguageExperiment]:
    """Chapter 9's runs on Penn Treebank, scaled down to two CPU cores: the first 40,000 of 929,589 training words, the
    4,000 most frequent of them as vocabulary, models of 128 units in 2 layers (0.78 M parameters). 10 epochs of the
    LSTM and 4 of the transformer: without noise both then stand at about their best validation perplexity.

    First both models without noise and over ``SEARCHED_Q`` and ``SEARCHED_P``, with one seed; then each q at its
    ``TUNED_P`` with two more seeds. Last one LSTM with Dropout on all training words, of a size for which perplexities
    are published: 200 units, 2 layers, p = 0.2, 6 epochs.
    """
    small: dict[str, Any] = {"vocabulary": 4000, "train": 40_000, "valid": 15_000}
    recipe = LanguageRecipe(epochs=10, batch_size=10)
    settings = {
        "lstm": small | {"model": "lstm", "recipe": recipe},
        "transformer": small | {"model": "transformer", "recipe": dataclasses.replace(recipe, epochs=4, lr=3e-3)},
    }
    experiments = []
    for seed in range(3):
        for name, common in settings.items():
            experiments.append(LanguageExperiment(method="none", p=0.0, seed=seed, **common))
            searched = [(p, q) for q in SEARCHED_Q for p in SEARCHED_P]
            tuned = [(p, q) for (model, q), p in TUNED_P.items() if model == name]
            experiments += [LanguageExperiment(p=p, q=q, seed=seed, **common) for p, q in (tuned if seed else searched)]
    published = LanguageRecipe(epochs=6, batch_size=20, length=35, clip=0.25)
    return [*experiments, LanguageExperiment(width=200, p=0.2, valid=15_000, recipe=published)]


def tuned(records: Iterable[Record]) -> dict[tuple[str, float], float]:
    """The p of least validation loss for each (model, q) among the runs of the search, those with seed 0, on the text
    of the sweep."""
    best: dict[tuple[str, float], tuple[float, float]] = {}
    searched = [e.spec for e in language_model() if e.seed == 0 and e.method == "sparseout" and e.train is not None]
    for record in records:
        if record.spec in searched:
            key, found = (record.spec["model"], record.spec["q"]), (record.metrics["valid_loss"], record.spec["p"])
            best[key] = min(best.get(key, found), found)
    return {key: p for key, (_, p) in best.items()}
