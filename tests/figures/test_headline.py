"""The headline: what the page gets and computes against the records and against Python, and the figure in a browser."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from browser import module
from scipy import stats

from bridgeout_lite import Experiment, Recipe, Record
from bridgeout_lite.studies import activations, language
from bridgeout_lite.studies.language import LanguageExperiment, LanguageRecipe
from bridgeout_lite.widgets.headline import CHOSEN, Headline, pack

IMAGES = "smallcnn"
IMAGE_LAYERS = ("relu1", "relu5")
LANGUAGE_LAYERS = {"lstm": ("embedded", "hidden.0", "hidden.1"), "transformer": ("blocks.0.relu", "blocks.1.relu")}


ORIGIN = {"seconds": 100.0, "data_checksum": "0" * 16}


def measures(layers, draws):
    rest = {"zero_fraction": 0.5, "rms": 1.0, "histogram": []}
    return {name: {"hoyer": draws.uniform(0.2, 0.6), "gini": draws.uniform(0.4, 0.9)} | rest for name in layers}


def headline(images, texts, **values):
    """The figure of these records."""
    return Headline(activations.grid(images), language.grid(texts), **values)


def image(p=0.1, q=2.0, seed=0, model=IMAGES, **spec):
    """A record of the activation grid, made up."""
    method = "sparseout" if p else "none"
    recipe = Recipe(epochs=spec.pop("epochs", 5))
    experiment = Experiment("cifar10", model, method, p, q, recipe=recipe, seed=seed, **spec)
    draws = np.random.default_rng([int(1000 * p), int(100 * q), seed])
    accuracy = 78 + q - 5 * p + draws.normal(0, 0.4)
    metrics = {"test_accuracy": accuracy, "valid_accuracy": accuracy + draws.normal(0, 0.3)}
    return Record(experiment.spec, metrics | {"layers": measures(IMAGE_LAYERS, draws)}, ORIGIN)


def text(p=0.2, q=2.0, seed=0, model="lstm", **spec):
    """A record of the language sweep, made up."""
    method = "sparseout" if p else "none"
    recipe = LanguageRecipe(epochs=spec.pop("epochs", 10))
    spec = {"train": 40_000} | spec
    experiment = LanguageExperiment(model=model, method=method, p=p, q=q, recipe=recipe, seed=seed, **spec)
    draws = np.random.default_rng([len(model), int(1000 * p), int(100 * q), seed])
    perplexity = 150 + 8 * q + 60 * (p - 0.3) ** 2 + draws.normal(0, 3)
    metrics = {"test_perplexity": perplexity, "valid_perplexity": perplexity + draws.normal(0, 2)}
    return Record(experiment.spec, metrics | {"layers": measures(LANGUAGE_LAYERS[model], draws)}, {})


PICTURES = [
    *(image(0.0, seed=seed) for seed in range(3)),
    *(image(p, q, seed) for p in (0.05, 0.1, 0.2, 0.3) for q in (1.0, 1.5, 2.0, 2.5, 3.0) for seed in range(3)),
]
EXPONENTS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)


def searched(model):
    """One seed of every p, as the sweep's search has it, and two more seeds of one p at some q."""
    runs = [text(0.0, seed=seed, model=model) for seed in range(3)]
    runs += [text(p, q, model=model) for q in EXPONENTS for p in (0.2, 0.4, 0.6)]
    best = {q: min((r for r in runs if r.spec["p"] and r.spec["q"] == q), key=valid).spec["p"] for q in EXPONENTS[:4]}
    return runs + [text(p, q, seed, model) for q, p in best.items() for seed in (1, 2)]


def valid(record):
    return record.metrics["valid_perplexity"]


TEXTS = [*searched("lstm"), *searched("transformer")]


@pytest.fixture
def figure():
    return headline(PICTURES, TEXTS)


def of(records, model, p, q):
    return [r for r in records if (r.spec["model"], r.spec["p"], r.spec["q"]) == (model, p, q)]


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_p_of_each_q_is_chosen_on_validation(figure):
    for q in EXPONENTS:
        figure.q = q
        numbers = figure.numbers()
        if q == 1.25:
            assert math.isnan(numbers["image_p"]) and numbers["image_seeds"] == 0
        else:  # every p has the same seeds
            means = {
                p: np.mean([r.metrics["valid_accuracy"] for r in of(PICTURES, IMAGES, p, q)])
                for p in (0.05, 0.1, 0.2, 0.3)
            }
            assert numbers["image_p"] == max(means, key=means.get)
        # the seed of the search alone, whatever the others say
        first = [r for p in (0.2, 0.4, 0.6) for r in of(TEXTS, "lstm", p, q) if r.spec["seed"] == 0]
        assert numbers["language_p"] == min(first, key=valid).spec["p"]


def test_of_equal_scores_the_lowest_p_is_chosen():
    twins = [image(p, 2.0) for p in (0.3, 0.1, 0.2)]
    for record in twins:
        record.metrics["valid_accuracy"] = 80.0
    assert headline(twins, TEXTS).numbers()["image_p"] == 0.1


def test_numbers_are_the_records(figure):
    figure.q, figure.p, figure.layer, figure.place = 2.0, "0.2", "relu1", "LSTM: hidden.0"
    numbers = figure.numbers()
    runs = of(PICTURES, IMAGES, 0.2, 2.0)
    accuracies = [run.metrics["test_accuracy"] for run in runs]
    assert numbers["image_seeds"] == 3 and numbers["image_accuracy"] == pytest.approx(np.mean(accuracies))
    low, high = stats.t.interval(0.95, 2, np.mean(accuracies), stats.sem(accuracies))
    assert (numbers["image_low"], numbers["image_high"]) == (pytest.approx(low), pytest.approx(high))
    for name in ("hoyer", "gini"):
        expected = np.mean([run.metrics["layers"]["relu1"][name] for run in runs])
        assert numbers[f"image_{name}"] == pytest.approx(expected)
    figure.place = "transformer: blocks.1.relu"
    runs = of(TEXTS, "transformer", 0.2, 2.0)
    expected = np.mean([run.metrics["layers"]["blocks.1.relu"]["gini"] for run in runs])
    assert figure.numbers()["language_gini"] == pytest.approx(expected)
    assert figure.numbers()["language_perplexity"] == pytest.approx(
        np.mean([run.metrics["test_perplexity"] for run in runs])
    )


def test_one_seed_has_no_interval(figure):
    figure.q = 3.0
    numbers = figure.numbers()
    assert numbers["language_seeds"] == 1 and math.isfinite(numbers["language_perplexity"])
    assert math.isnan(numbers["language_low"]) and math.isnan(numbers["language_high"])
    alone = headline([image()], [text()])
    assert alone.numbers()["image_seeds"] == alone.numbers()["language_seeds"] == 1
    assert len(alone.quantiles) == 1 and math.isfinite(alone.quantiles[0])


def test_what_is_not_recorded_has_no_numbers(figure):
    figure.p = "0.4"
    numbers = figure.numbers()
    assert numbers["image_seeds"] == 0 and math.isnan(numbers["image_accuracy"]) and math.isnan(numbers["image_hoyer"])
    assert numbers["language_p"] == 0.4 and figure.picture() is not None


def test_a_grid_is_of_one_experiment(figure):
    """Other networks and methods, all of the text, runs that diverged and equal runs change nothing."""
    more = [text(0.2, width=200, train=None), *TEXTS, TEXTS[4], Record(text(0.3).spec, {"failed": "nan"}, {})]
    others = [image(model="smallcnn-plain"), Record({"model": IMAGES, "method": "dropout"}, {}, {})]
    assert headline([*others, *PICTURES, PICTURES[5]], more).tasks == figure.tasks
    with pytest.raises(ValueError, match=r"several experiments \(recipe differ\): give those of one"):
        activations.grid([*PICTURES, image(epochs=9)])


def test_one_language_model_is_enough():
    figure = headline(iter(PICTURES), iter(searched("transformer")))
    assert list(figure.tasks) == [IMAGES, "transformer"] and list(figure.presets) == ["Transformer"]
    assert figure.place == "transformer: blocks.1.relu"


def test_the_picture_is_drawn(figure):
    axes = figure.picture().axes
    assert [ax.get_title(loc="center") or ax.get_title(loc="left") for ax in axes] == [
        "smallcnn, CIFAR-10: images",
        "LSTM, Penn Treebank: language",
        "Sparsity of relu5",
        "Sparsity of hidden.1",
    ]
    assert all(len(ax.containers) == count for ax, count in zip(axes, (1, 1, 2, 2), strict=True))


# --- what is refused --------------------------------------------------------------------------------------------------


def spoilt(record, *path, value=None):
    """A copy with the entry at the path of its metrics replaced, or taken out."""
    record = json.loads(json.dumps(dataclasses.asdict(record)))
    part = record["metrics"]
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return Record(**record)


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ([], TEXTS, r"the table has no column model, .*: give grid\(records\) of bridgeout_lite.studies.activations"),
        ([image(0.0)], TEXTS, r"the table has no run with noise \(p > 0\): give grid\(records\)"),
        (PICTURES, PICTURES, "the table has no column model"),
        (
            [image(), spoilt(image(seed=1), "layers", "relu1")],
            TEXTS,
            "seed 1 has the layers relu5 and not relu1, relu5",
        ),
        (
            PICTURES,
            [spoilt(text(), "layers", "hidden.0", "gini", value="much")],
            "gini is not a finite number at 0.2, 2",
        ),
        (
            PICTURES,
            [spoilt(text(), "test_perplexity", value=math.inf)],
            r"test is not a finite number at 0.2, 2.0, 0, em",
        ),
        (PICTURES, [text(0.2, seed=0), text(0.4, seed=1)], "lstm with q = 2 have no seed in common.* run the sweep"),
    ],
)
def test_records_that_cannot_be_shown_are_refused(images, texts, message):
    with pytest.raises(ValueError, match=message) as error:
        headline(images, texts)
    assert "\n" not in str(error.value)


def test_images_are_of_one_network():
    both = pd.concat([activations.grid(PICTURES), language.grid(TEXTS)])
    with pytest.raises(ValueError, match=r"several networks \(smallcnn, LSTM, transformer\): give the rows of one"):
        Headline(both, language.grid(TEXTS))


# --- in the page ------------------------------------------------------------------------------------------------------


@pytest.mark.pages
def test_the_page_chooses_and_summarises_as_python_does(browser, figure):
    page = browser.new_context().new_page()
    module(page, "headline")
    for task in figure._tasks.values():
        assert dict(page.evaluate("(task) => [...figure.chosen(task)]", pack(task))) == task.chosen()
    quantiles = stats.t.ppf(0.975, np.arange(1, 9)).tolist()
    for n in range(2, 10):
        values = np.random.default_rng(n).normal(100, 3, n)
        found = page.evaluate("([values, t]) => figure.summary(values, t)", [values.tolist(), quantiles])
        low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        assert [found[k] for k in ("mean", "low", "high")] == pytest.approx([values.mean(), low, high], rel=1e-9)
    alone = page.evaluate("(t) => figure.summary([5], t)", quantiles)
    assert alone["mean"] == 5 and math.isnan(alone["low"]) and math.isnan(alone["high"])
    page.context.close()


def bars(page, panel):
    """How many intervals each line of a panel has."""
    paths = page.locator(".sbn-panel").nth(panel).locator(".sbn-bars")
    return [(d or "").count("V") for d in paths.evaluate_all("(all) => all.map((n) => n.getAttribute('d'))")]


@pytest.mark.pages
def test_intervals_stand_where_there_are_seeds(opened, figure):
    page = opened(figure)
    assert [bars(page, k) for k in range(4)] == [[5], [4], [5, 5], [4, 4]]
    hollow = [page.locator(".sbn-panel").nth(k).locator(".sbn-single[r='5']").count() for k in range(4)]
    assert hollow == [0, 2, 0, 4]
    captions = page.locator(".sbn-captioned p")
    assert "Hollow" not in captions.nth(0).text_content() and "3 seeds" in captions.nth(0).text_content()
    assert "Hollow: one seed, no interval." in captions.nth(1).text_content()
    page.locator("input[name=q]").press("End")
    page.wait_for_function("document.querySelector('.sbn-live').textContent.includes('one seed, no interval')")


@pytest.mark.pages
def test_claims_are_words_on_the_side_that_they_name(opened, figure):
    page = opened(figure)
    middle = [page.locator(".sbn-panel").nth(k).locator(".sbn-rule").bounding_box()["x"] for k in (0, 1)]
    boxes = [page.locator(".sbn-panel").nth(k).get_by_text("claim: better here").bounding_box() for k in (0, 1)]
    assert boxes[0]["x"] >= middle[0] and boxes[1]["x"] + boxes[1]["width"] <= middle[1]
    assert "no data of it stand here" in page.locator(".sbn-words").text_content()


@pytest.mark.pages
def test_what_is_not_recorded_is_said(opened, figure):
    page = opened(figure)
    note = page.locator(".sbn-note")
    assert note.text_content() == ""
    page.select_option("select[name=p]", "0.4")
    page.wait_for_function("document.querySelector('.sbn-note').textContent")
    assert note.text_content() == "Not recorded of smallcnn: q = 2, p = 0.4."
    assert page.locator(".sbn-panel").nth(0).get_by_text("p = 0.4 is not recorded").count() == 1
    page.select_option("select[name=p]", CHOSEN)
    page.locator("input[name=q]").press("Home")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.sbn-note').textContent.includes('q = 1.25')")
