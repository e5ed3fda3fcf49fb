"""The same penalty by several mechanisms: is it the noise that acts on a network, or the penalty that it stands for?

All of them act on the last features of a network, those that its linear classifier reads. There network and loss are
the softmax GLM of chapter 1 exactly, so theory tells the penalty; and several draws of the noise cost no more than
as many classifiers. The network is trained on few images, where without a regulariser it learns them by heart.

* "noise": Sparseout on the features. With ``draws`` > 1 the loss of a step is the mean over that many independent draws
  for each image: its expectation, the penalty, stays, and the variance of its gradient, all else that noise does, goes
  down with their number.
* "penalty": no noise; to the loss is added what theory gives for that p and q, to second order, curvature included.
* "sum": no noise; to the loss is added ``strength`` times the sum of ``|x|^q`` over the features, averaged over images.

Source of the separation: Wei, Kakade and Ma 2020, arXiv:2002.12915.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from ..checks import check_choice, check_exponent, check_positive, check_probability, check_whole
from ..data import Images, Split
from ..models import Scale
from ..modules import evaluating
from ..noise import sparseout
from ..rivals.base import Regulariser
from ..runs.records import Record, Store, find_store, rounded
from ..sparsity import gini, hoyer
from ..stats import Gap, pooled_gap
from ..theory import lq_penalty, monte_carlo_penalty
from ..training import Recipe, fit
from .adaptive import Adaptive
from .base import (
    LEAST_SEEDS,
    NO_NUMBER,
    QUESTION,
    TOO_FEW,
    Claim,
    Finding,
    Judge,
    Regime,
    Section,
    Study,
    Table,
    judged,
    list_gaps,
)
from .experiment import ImageExperiment, Run, accuracies
from .search import Ladder, search_then

# Each method with the field that says how strong it is.
NEEDS: dict[str, set[str]] = {"none": set(), "noise": {"p"}, "penalty": {"p"}, "sum": {"strength"}}

# Validation images that are watched after each epoch; at the end all of them are.
WATCHED = 500

# The first training images, as they are: there the change of the loss under noise is set against its prediction, after
# each epoch and at the end for each of these p and q.
PROBED = 500
PROBE_DRAWS = 32
PROBES = tuple((p, q) for q in (1.0, 1.5, 2.0) for p in (0.1, 0.3, 0.5))

# Validation images whose features are measured.
MEASURED = 2000

# The training of all methods. Without a regulariser 2,500 images are known by heart at its end: more than 99 % of them,
# where 60 % of others are told right.
RECIPE = Recipe(
    epochs=30, batch_size=125, lr=0.2, momentum=0.85, weight_decay=5e-4, flip="alternating", crop=0, precision="float32"
)


@dataclasses.dataclass(frozen=True)
class MechanismExperiment(ImageExperiment):
    """One run, fully described.

    Attributes:
        dataset, train, valid, test: as for :func:`bridgeout_lite.load_images`, but "auto".
        model, width: as for :func:`bridgeout_lite.build_model`; of the models "airnet", whose classifier has no bias.
        method: one of ``NEEDS``.
        p, q: of the noise, or of the noise whose penalty is added. draws: of the noise in a step.
        strength: of the plain sum.
        recipe: of the training. seed: of initial weights, order of images, noise.

    Raises:
        ValueError: a name or a number outside of what it may be; a method without its strength.
    """

    dataset: str = "cifar10"
    model: str = "airnet"
    method: str = "none"
    p: float = 0.0
    q: float = 2.0
    draws: int = 1
    strength: float = 0.0
    width: float = 0.25
    train: int | None = 2500
    valid: int = 10000
    test: int | None = None
    recipe: Recipe = RECIPE
    seed: int = 0

    PROTOCOL: ClassVar[int] = 1
    TAGS: ClassVar[dict[str, Any]] = {"study": "mechanisms", "protocol": 1}  # told at 1 as well

    def __post_init__(self) -> None:
        self.check()
        check_choice(self.model, ("airnet",), "model")
        check_choice(self.method, tuple(NEEDS), "method")
        self._settle(p=check_probability(self.p), q=check_exponent(self.q))
        self._settle(strength=check_positive(self.strength, "strength"))
        check_whole(self.draws, "draws", 1)
        has = {name for name in ("p", "strength") if getattr(self, name)}
        if has != NEEDS[self.method] or (self.draws > 1 and self.method != "noise"):
            raise ValueError(
                "noise has p and draws, penalty has p, sum has strength, none has none of them; "
                f"got {self.method!r} with p={self.p:g}, draws={self.draws}, strength={self.strength:g}"
            )

    def attach(self, model: nn.Module) -> "FeaturePenalty | None":
        """Attach the method to a model; what the training loop has to call, if anything."""
        if self.method == "noise":
            attach_draws(model, self.p, self.q, self.draws)
        if self.method == "penalty":
            return FeaturePenalty(self.q, p=self.p).attach(model)
        return FeaturePenalty(self.q, strength=self.strength).attach(model) if self.method == "sum" else None

    def measure(self, images: Images, run: Run) -> dict[str, Any]:
        """Train the network and measure it.

        Returns:
            {train, valid, test}_{accuracy, loss} (%, nats) of the network without noise, on images as they are;
            history, one list per column: train_loss and train_accuracy (with noise and augmentation), valid_loss and
            valid_accuracy on the first ``WATCHED`` images, hoyer of the features and rms of the head's weights and,
            where the experiment has a p, measured, error and predicted (see :func:`probe`); features (see
            :func:`measure_features`); probes, one for each of ``PROBES``; weights, the root mean square per layer.
        """
        model = self.build(images)
        rival = self.attach(model)
        probed = images.normalize(images.train.x[:PROBED])

        def watch(model: nn.Module) -> dict[str, float]:
            features, weights = last_features(model, probed), head_weights(model)
            row = {"hoyer": hoyer(features, 1).mean().item(), "head_rms": weights.square().mean().sqrt().item()}
            return row | (probe(features, weights, self.p, self.q) if self.p else {})

        some = dataclasses.replace(images, valid=Split(images.valid.x[:WATCHED], images.valid.y[:WATCHED]))
        history = run.train(fit, model, some, self.recipe, seed=self.seed, regulariser=rival, watch=watch)
        detach_draws(model)
        if rival is not None:
            rival.detach(model)
        metrics: dict[str, Any] = dict(accuracies(model, images, history.precision, ("train", "valid", "test")))
        unneeded = ("epoch", "lr", "seconds", "images_per_second")
        metrics["history"] = {str(k): rounded(v.tolist(), 4) for k, v in history.frame.items() if k not in unneeded}
        features, weights = last_features(model, probed), head_weights(model)
        metrics["probes"] = [{"p": p, "q": q} | probe(features, weights, p, q) for p, q in PROBES]
        metrics["features"] = measure_features(last_features(model, images.normalize(images.valid.x[:MEASURED])))
        metrics["weights"] = {
            name.removesuffix(".weight"): w.detach().square().mean().sqrt().item()
            for name, w in model.named_parameters()
            if w.dim() > 1
        }
        return metrics


class Draws(nn.Module):
    """Several draws of Sparseout of each row of (n, d): (draws * n, d), first all rows once, then all again. The
    identity in evaluation."""

    def __init__(self, p: float, q: float, draws: int = 1) -> None:
        super().__init__()
        self.p, self.q, self.draws = check_probability(p), check_exponent(q), draws

    def forward(self, x: Tensor) -> Tensor:
        return sparseout(x.repeat(self.draws, 1), self.p, self.q) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p:g}, q={self.q:g}, draws={self.draws}"


def attach_draws(model: nn.Module, p: float, q: float, draws: int = 1) -> nn.Module:
    """Let the classifier read its features through :class:`Draws`, which it then has as the submodule ``draws``. In
    training mode the model answers each image ``draws`` times. Changes ``model`` and returns it."""
    classifier = model.get_submodule("classifier")
    classifier.add_module("draws", Draws(p, q, draws).train(model.training))
    classifier.__dict__["_draws_hook"] = classifier.register_forward_pre_hook(_through_draws)
    return model


def _through_draws(classifier: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    noisy: Tensor = classifier.get_submodule("draws")(inputs[0])
    return noisy


def detach_draws(model: nn.Module) -> nn.Module:
    """Undo :func:`attach_draws`. Changes ``model`` and returns it; one without draws is left as it is."""
    classifier = model.get_submodule("classifier")
    if "_draws_hook" in classifier.__dict__:
        classifier.__dict__.pop("_draws_hook").remove()
        del classifier.draws
    return model


class FeaturePenalty(Regulariser):
    """An explicit penalty on the features that a classifier reads.

    Args:
        q: the exponent. p: of the noise whose penalty it is (:func:`bridgeout_lite.theory.lq_penalty`). strength: of
            the plain sum of ``|x|^q``. One of the two is above 0.
    """

    def __init__(self, q: float, *, p: float = 0.0, strength: float = 0.0) -> None:
        self.q, self.p, self.strength = check_exponent(q), check_probability(p), check_positive(strength, "strength")
        self._features: Tensor | None = None
        self._hook: Any = None

    def __repr__(self) -> str:
        return f"FeaturePenalty(q={self.q:g}, p={self.p:g}, strength={self.strength:g})"

    def attach(self, model: nn.Module) -> "FeaturePenalty":
        """See the features of each forward pass in training mode; returns itself."""
        self._hook = model.get_submodule("classifier").register_forward_pre_hook(self._keep)
        return self

    def detach(self, model: nn.Module) -> None:
        """See no more of them."""
        self._hook.remove()
        self._features = None

    def _keep(self, classifier: nn.Module, inputs: tuple[Tensor]) -> None:
        self._features = inputs[0] if classifier.training else None

    def penalty(self, model: nn.Module) -> Tensor:
        assert self._features is not None, "no forward pass in training mode came before"
        features = self._features.float()
        if self.p:
            return lq_penalty(features, head_weights(model), self.p, self.q, "softmax")
        return self.strength * power(features, self.q).sum(1).mean()


def power(x: Tensor, q: float) -> Tensor:
    """``|x|^q``, with slope 0 at 0: what is 0 stays 0."""
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x.abs()).pow(q))


def head_weights(model: nn.Module) -> Tensor:
    """B of shape (features, classes) with logits = features @ B."""
    classifier, scale = model.get_submodule("classifier"), model.get_submodule("scale")
    assert isinstance(classifier, nn.Linear) and isinstance(scale, Scale)
    return classifier.weight.T * scale.factor


@torch.no_grad()
def last_features(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the classifier reads in evaluation mode, (images, features), in float32."""
    seen: list[Tensor] = []
    hook = model.get_submodule("classifier").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with evaluating(model):
            for part in inputs.split(500):
                model(part)
    finally:
        hook.remove()
    return torch.cat(seen).float()


def probe(features: Tensor, weights: Tensor, p: float, q: float) -> dict[str, float]:
    """What noise on the features adds to the loss: ``measured`` over draws, with the standard error ``error``, and
    ``predicted`` by theory to second order; nats."""
    draws = torch.Generator().manual_seed(0)
    features, weights = features.detach().cpu(), weights.detach().cpu()
    measured, error = monte_carlo_penalty(features, weights, p, q, "softmax", "features", PROBE_DRAWS, draws)
    predicted = lq_penalty(features.double(), weights.double(), p, q, "softmax").item()
    return {"measured": measured, "error": error, "predicted": predicted}


def measure_features(features: Tensor) -> dict[str, float]:
    """How sparse features (images, units) are. ``dead`` is the share of units that are 0 for every image; they are left
    out of hoyer, gini and zero_fraction, which are taken image by image and averaged, and of ``unit_hoyer``, taken
    unit by unit over the images. ``hoyer_all`` and ``zero_fraction_all`` include them. rms is over all."""
    live = features[:, (features != 0).any(0)]
    row = {"dead": 1 - live.shape[1] / features.shape[1]}
    row |= {"hoyer_all": hoyer(features, 1).mean().item()}
    row |= {"zero_fraction_all": (features == 0).float().mean().item(), "rms": features.square().mean().sqrt().item()}
    if live.shape[1] > 1:  # else there is nothing to compare
        row |= {"hoyer": hoyer(live, 1).mean().item(), "gini": gini(live, 1).mean().item()}
        row |= {"zero_fraction": (live == 0).float().mean().item(), "unit_hoyer": hoyer(live, 0).mean().item()}
    return row


# --- the plan ---------------------------------------------------------------------------------------------------------

EXPONENTS = (1.0, 1.5, 2.0)
DRAWS = (1, 4, 16, 64)

# Seeds of each strength that is tried, and of each that is chosen.
SEARCHED, REPEATED = 2, 10

# The strengths from which one is chosen for each setting; those where a search begins.
LADDERS: dict[str, tuple[float, ...]] = {
    "weight_decay": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2),
    "p": (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.85, 0.93, 0.97, 0.99),
    "strength": (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0),
}
BEGINNING: dict[str, tuple[float, ...]] = {
    "weight_decay": (1e-3, 4e-3),
    "p": (0.3, 0.7),
    "strength": (3e-4, 3e-3),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a strength is chosen for: a method, its q and its number of draws. Without a method it is weight decay."""

    method: str
    q: float = 2.0
    draws: int = 1

    @property
    def dial(self) -> str:
        """What sets its strength, a name of ``LADDERS``."""
        return {"none": "weight_decay", "sum": "strength"}.get(self.method, "p")

    def at(self, value: float, seed: int, decay: float) -> MechanismExperiment:
        """One run at that strength; ``decay`` is the weight decay of those that have another dial."""
        own = self.dial == "weight_decay"
        recipe = dataclasses.replace(RECIPE, weight_decay=value if own else decay)
        strength: dict[str, Any] = {} if own else {self.dial: value}
        return MechanismExperiment(method=self.method, q=self.q, draws=self.draws, seed=seed, recipe=recipe, **strength)

    def ladder(self, decay: float = 0.0) -> Ladder:
        """The search for its strength at that weight decay."""
        make = functools.partial(self.at, decay=decay)
        return Ladder(make, LADDERS[self.dial], BEGINNING[self.dial], SEARCHED)


PLAIN = Setting("none")

SETTINGS = tuple(
    Setting(method, q, draws)
    for method, draws in (("noise", 1), ("penalty", 1), ("noise", 64), ("noise", 16), ("sum", 1), ("noise", 4))
    for q in EXPONENTS
)

# Those that the claims compare: they are searched and repeated before the others.
DECISIVE = SETTINGS[:9]


def repeats(chosen: Mapping[Setting, float], decay: float) -> list[MechanismExperiment]:
    """Plain training and every setting at its chosen strength, all seeds."""
    pairs = [(PLAIN, decay), *((setting, chosen[setting]) for setting in SETTINGS if setting in chosen)]
    return [setting.at(value, seed, decay) for seed in range(REPEATED) for setting, value in pairs]


def next_runs(records: Iterable[Record]) -> list[MechanismExperiment]:
    """What the study lacks after these records: the search for the weight decay; that for the strength of each decisive
    setting, and the repeats; the same for the other settings. Called again with what these runs give it goes on, until
    nothing is left."""
    records = list(records)
    if runs := PLAIN.ladder().to_try(records):
        return runs
    decay = PLAIN.ladder().best(records)
    return _searched_and_repeated(DECISIVE, decay, records) or _searched_and_repeated(SETTINGS, decay, records)


def _searched_and_repeated(settings: Iterable[Setting], decay: float, records: list[Record]) -> list[Any]:
    ladders = {setting: setting.ladder(decay) for setting in settings}

    def repeated() -> list[MechanismExperiment]:
        return repeats({setting: one.best(records) for setting, one in ladders.items()}, decay)

    return search_then(ladders.values(), repeated, records)


def tuned_decay() -> float:
    """The weight decay that this study's recorded runs have found.

    Raises:
        ValueError: they are not there, or the search for it has not ended.
    """
    path = find_store("mechanisms")
    records = list(Store(path)) if path else []
    if PLAIN.ladder().to_try(records):
        raise ValueError("the weight decay comes from the study of mechanisms: run bridgeout sweep mechanisms first")
    return PLAIN.ladder().best(records)


# --- the table --------------------------------------------------------------------------------------------------------


def dial_rows(records: Iterable[Record], study: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """For each run of a study of mechanisms that did not diverge its row, with method, q, draws, p, strength,
    weight_decay, seed, seconds and what was measured in single numbers, and all of its metrics."""
    for record in records:
        spec, metrics = record.spec, record.metrics
        if spec.get("study") == study and "test_accuracy" in metrics:
            row = {k: spec[k] for k in ("method", "q", "draws", "p", "strength", "seed")}
            row |= {"weight_decay": spec["recipe"]["weight_decay"], "seconds": record.provenance.get("seconds")}
            yield row | {k: v for k, v in metrics.items() if isinstance(v, float)}, metrics


def mechanisms_frame(records: Iterable[Record]) -> pd.DataFrame:
    """A row per run: method, q, draws, p, strength, weight_decay, seed, seconds, {train, valid, test}_{accuracy, loss},
    and what :func:`measure_features` gives. Records of other studies, and runs that diverged, are passed over."""
    return pd.DataFrame(row | metrics["features"] for row, metrics in dial_rows(records, "mechanisms"))


def probes_frame(records: Iterable[Record]) -> pd.DataFrame:
    """What noise on the features adds to the loss along training: one row per run and epoch of each run that has a p:
    method, q, draws, p, seed, epoch, measured, error, predicted (nats), hoyer, head_rms."""
    frames = []
    for record in records:
        spec, history = record.spec, record.metrics.get("history", {})
        if spec.get("study") != "mechanisms" or "predicted" not in history:
            continue
        columns = {k: history[k] for k in ("measured", "error", "predicted", "hoyer", "head_rms")}
        run = {k: spec[k] for k in ("method", "q", "draws", "p", "seed")}
        frames.append(pd.DataFrame(columns).assign(epoch=range(1, len(history["predicted"]) + 1), **run))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


# --- the claims -------------------------------------------------------------------------------------------------------


def chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a table of mechanisms the rows of each setting's chosen strength, which is run with more seeds than those of
    the search, and ``mechanism``, a name for it such as "noise, 4 draws". None for a setting without."""
    if not len(rows):
        return rows
    several = rows["method"] + ", " + rows["draws"].astype(str) + " draws"
    rows = rows.assign(mechanism=rows["method"].where(rows["draws"] == 1, several))
    rows["q"] = rows["q"].mask(rows["method"] == "none")  # which has none
    dials = ["mechanism", "q", "p", "strength", "weight_decay"]
    seeds = rows.groupby(dials, dropna=False)["seed"].transform("nunique")
    most = seeds.groupby([rows["mechanism"], rows["q"]], dropna=False).transform("max")
    return rows[(seeds >= LEAST_SEEDS) & (seeds == most)]


def pairs(rows: pd.DataFrame, value: str, a: str, b: str) -> dict[str, Gap]:
    """At each q ``value`` of one mechanism minus that of another, at their chosen strengths, with the spread of all
    mechanisms at all q; "none" has no q. Of rows of :func:`chosen`."""
    if not len(rows):
        return {}
    levels = rows["mechanism"].where(rows["q"].isna(), rows["mechanism"] + rows["q"].map(" at q={:.3g}".format))
    rows = rows.assign(level=levels)
    exponents = sorted(set(rows["q"][rows["mechanism"] == a]))
    named = {q: (f"{a} at q={q:.3g}", b if b == "none" else f"{b} at q={q:.3g}") for q in exponents}
    gaps = {f"q={q:.3g}:": pooled_gap(rows, value, "level", *pair) for q, pair in named.items()}
    return {name: gap for name, gap in gaps.items() if gap.n}


def compare(
    value: str, a: str, b: str, unit: str, spec: str, *, within: float | None = None, matters: float = 0.0
) -> Judge:
    """Is ``value`` of a that of b at every q, up to ``within``, or else above it?"""

    def find(rows: pd.DataFrame) -> Finding:
        some = chosen(rows)
        gaps = pairs(some, value, a, b)
        if not gaps:
            return TOO_FEW
        plain = some[some["method"] == "none"]
        ours = some[some["mechanism"].isin([a, b])].groupby(["mechanism", "q"], as_index=False).first()
        dials = zip(ours["mechanism"], ours["q"], ours[["p", "strength"]].max(axis=1), strict=True)
        said = ", ".join(f"{name} at q={q:.3g} {strength:g}" for name, q, strength in dials)
        what = f"ahead means above 0, {matters:g} matters" if within is None else f"the same means within {within:g}"
        return judged(
            gaps,
            f"{a} minus {b}, n = {min(gap.n for gap in gaps.values())}: {list_gaps(gaps, spec)} {unit}",
            f"{what}; strengths chosen on validation: {said}; spread pooled over all mechanisms",
            within=within,
            matters=matters,
            unit=unit,
            spec=spec,
            regime=Regime(plain["train_accuracy"].mean(), plain["test_accuracy"].mean()) if len(plain) else None,
        )

    return find


# The networks and data of all studies on few images, for their claims.
FEW_IMAGES = (
    "a ReLU network of six convolutions, 16 to 32 channels, 2,500 images of CIFAR-10, 30 epochs, weight decay tuned"
)


def questions(rows: Iterable[tuple[str, str, Judge]], place: str, sweep: str, table: Table) -> tuple[Claim, ...]:
    """The questions of a study of mechanisms: of each row its name, what is asked, and what judges it."""
    source = "asked by this book, after Wei, Kakade & Ma 2020"
    about = (source, NO_NUMBER, f"{FEW_IMAGES}; on {place}", f"`bridgeout sweep {sweep}`")
    return tuple(Claim(claim, *about, find, table, QUESTION, name) for name, claim, find in rows)


SECTION = Section(
    "Penalty or noise, on the last features",
    "The same q by several mechanisms, where theory is exact up to second order: noise, noise averaged over many draws "
    "in each step, and the explicit penalty that theory gives for it.",
    questions(
        (
            (
                "penalty-or-noise-accuracy",
                "The penalty alone gives the test accuracy that the noise gives",
                compare("test_accuracy", "noise", "penalty", "points", "+.2f", within=1.0),
            ),
            (
                "penalty-or-noise-sparsity",
                "The penalty alone gives the sparsity of features that the noise gives",
                compare("hoyer", "noise", "penalty", "of Hoyer's measure", "+.3f", within=0.02),
            ),
            (
                "averaged-noise-accuracy",
                "Noise averaged over 64 draws in each step gives the test accuracy of noise",
                compare("test_accuracy", "noise", "noise, 64 draws", "points", "+.2f", within=1.0),
            ),
            (
                "noise-or-decay-accuracy",
                "Noise on the last features adds to what tuned weight decay gives in test accuracy",
                compare("test_accuracy", "noise", "none", "points", "+.2f", matters=0.5),
            ),
        ),
        "the 32 features before the classifier",
        "mechanisms",
        mechanisms_frame,
    ),
)

STUDY = Study("mechanisms", {"mechanisms": Adaptive(next_runs)}, (SECTION,), table=mechanisms_frame)
