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
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...checks import check_choice, check_exponent, check_probability
from ...layers import attach_sparseout, detach_sparseout
from ...modules import capture_activations, seeded
from ...runs.records import Record
from ...sparsity import gini, hoyer, zero_fraction
from ...text import LEVELS, TEXT_SETS, Tokens, load_text, tokenize
from ..experiment import Experiment, Run, columns, least
from .fit import SAMPLED, LanguageRecipe, evaluate_language, fit_language, perplexity, sample
from .model import MODELS, LanguageModel, build_language_model, is_noise_place

METHODS = ("none", "sparseout")
MEASURED_TOKENS = 2000

# The recorded sweep: q and p of the search, which has one seed. p = 0.1 came last, as 0.2 was the best for some q.
SEARCHED_Q = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
SEARCHED_P = (0.1, 0.2, 0.4, 0.6)

# The p of least validation loss for each model and q in the search, as tuned() finds it: repeated with two more seeds.
TUNED_P: dict[tuple[str, float], float] = {
    **{("lstm", q): p for q, p in zip(SEARCHED_Q, (0.2, 0.4, 0.4, 0.4, 0.4, 0.4), strict=True)},
    **{("transformer", q): p for q, p in zip(SEARCHED_Q, (0.1, 0.2, 0.6, 0.1, 0.1, 0.2), strict=True)},
}


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
class LanguageExperiment(Experiment):
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

    PROTOCOL: ClassVar[int] = 1
    TAGS: ClassVar[dict[str, Any]] = {"task": "language"}

    def __post_init__(self) -> None:
        check_choice(self.dataset, TEXT_SETS[1:], "dataset")  # not "auto": a spec names its data
        check_choice(self.level, LEVELS, "level")
        check_choice(self.model, MODELS, "model")
        check_choice(self.method, METHODS, "method")
        self._settle(p=check_probability(self.p), q=check_exponent(self.q))

    def attach(self, model: nn.Module) -> nn.Module:
        """Attach the method to a model."""
        if self.method == "none":
            return model
        return attach_sparseout(model, self.p, self.q, shared=0 if self.same_mask else None, where=is_noise_place)

    def load(self) -> Tokens:
        """The tokens of the text."""
        sizes = {k: getattr(self, k) for k in ("vocabulary", "train", "valid", "test")}
        return tokenize(load_text(self.dataset), self.level, **sizes)

    def build(self, tokens: Tokens) -> LanguageModel:
        """The untrained model, with the initial weights of the experiment's seed."""
        sizes = {"width": self.width, "layers": self.layers, "context": self.recipe.length}
        with seeded(self.seed):
            model: LanguageModel = build_language_model(self.model, len(tokens.vocabulary), **sizes)
        return model

    def measure(self, tokens: Tokens, run: Run) -> dict[str, Any]:
        """valid_loss, test_loss (nats per token), valid_perplexity, test_perplexity, parameters, history, layers (see
        :func:`measure_hidden`; the first ``MEASURED_TOKENS`` of the validation part) and sample, some text drawn from
        the model."""
        model, recipe = self.build(tokens), self.recipe
        self.attach(model)
        history = run.train(fit_language, model, tokens, recipe, seed=self.seed)
        detach_sparseout(model)
        metrics: dict[str, Any] = {}
        for part in ("valid", "test"):
            text = getattr(tokens, part)
            loss = evaluate_language(model, text, length=recipe.length // 2, precision=history.precision)
            metrics |= {f"{part}_loss": loss, f"{part}_perplexity": perplexity(loss)}
        measured = tokens.valid[:MEASURED_TOKENS]
        windows = measured[: len(measured) // recipe.length * recipe.length].view(-1, recipe.length).t()
        draws = torch.Generator().manual_seed(self.seed)
        return metrics | {
            "parameters": sum(p.numel() for p in model.parameters()),
            "history": columns(history, "train_loss", "valid_loss"),
            "layers": measure_hidden(model, windows, self.q),
            "sample": sample(model, tokens.vocabulary, "\n", SAMPLED[self.level], generator=draws),
        }


def language_model() -> list[LanguageExperiment]:
    """Chapter 8's runs on Penn Treebank, scaled down to two CPU cores: the first 40,000 of 929,589 training words, the
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
    searched = [e for e in language_model() if e.seed == 0 and e.method == "sparseout" and e.train is not None]
    best = least(records, searched, "valid_loss", lambda spec: (spec["model"], spec["q"]))
    return {key: spec["p"] for key, spec in best.items()}
