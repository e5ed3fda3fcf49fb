"""The activation explorer: the payload against the records, the button's other end, and the figure in a browser."""

import asyncio
import base64
import dataclasses
import itertools
import json
import math
import signal
import threading
import zlib

import numpy as np
import pytest
import torch
from browser import in_fresh_python
from browser import told as spoilt_page
from gallery import agree

import bridgeout_lite as bl
from bridgeout_lite import DataError, Experiment, Recipe, Record
from bridgeout_lite.studies.activations import grid as as_table
from bridgeout_lite.studies.activations import trainer
from bridgeout_lite.studies.activations.trainer import Trainer
from bridgeout_lite.studies.measures import HISTOGRAM_EDGES
from bridgeout_lite.widgets.activations import MAPS, MEASURES, ActivationExplorer

P, Q, SEEDS = (0.05, 0.1, 0.2, 0.3), (1.0, 1.5, 2.0, 2.5, 3.0), (0, 1, 2)
SHAPES = {f"relu{k}": (3, 4, 16, 16) for k in (1, 2, 3)} | {"relu4": (3, 4, 8, 8), "relu5": (3, 128)}
BINS = len(HISTOGRAM_EDGES) - 1
TINY = Experiment(
    "digits", width=0.25, p=0.2, q=2.0, train=128, valid=64, recipe=Recipe(epochs=1, batch_size=64, precision="float32")
)


def explorer(records, images=None, **values):
    """The figure of these records, as one that can train."""
    return ActivationExplorer(as_table(records), images, Trainer(records, images), **values)


def made_up(p, q, seed, maps=True):
    """A record as the grid has them, with numbers drawn at random and maps as smooth and as sparse as real ones."""
    draws = np.random.default_rng([int(100 * p), int(10 * q), seed])
    layers, levels = {}, {}
    for name, shape in SHAPES.items():
        share = np.exp(-(((np.arange(BINS) - draws.uniform(20, 35)) / draws.uniform(4, 8)) ** 2))
        share *= draws.uniform(0.3, 0.7) / share.sum()
        layers[name] = {measure: draws.uniform(0.2, 0.9) for measure in MEASURES.values()}
        layers[name] |= {"zero_fraction": 1 - share.sum(), "histogram": share.round(5).tolist()}
        field = draws.normal(size=shape)
        field = np.maximum(field + np.roll(field, 1, -1) + 0.5 * np.roll(field, 1, -2) - 0.8, 0)
        packed = zlib.compress(np.ceil(field / field.max() * 15).astype(np.uint8).tobytes(), 9)
        levels[name] = {"shape": list(shape), "top": 2.5 + seed, "levels": base64.b64encode(packed).decode()}
    spec = Experiment("cifar10", method="sparseout" if p else "none", p=p, q=q, seed=seed).spec
    accuracy = draws.uniform(65, 80)
    metrics = {"valid_accuracy": accuracy, "test_accuracy": accuracy, "layers": layers}
    metrics |= {"maps": {"images": [1, 3, 14], "layers": levels}} if maps else {}
    return Record(spec, metrics, {"seconds": 100.0 + seed, "data_checksum": "0" * 16, "data": "cifar10"})


def grid(**options):
    places = [(0.0, 2.0), *itertools.product(P, Q)]
    return [made_up(p, q, seed, **options) for p, q in places for seed in SEEDS]


def unpack(index, packed):
    """The payload's bytes as arrays, in the order that pack() tells."""
    data, runs, layers = zlib.decompress(packed), index["runs"], index["layers"]
    at = 0

    def take(count, kind=np.uint8):
        nonlocal at
        at += count * np.dtype(kind).itemsize
        return np.frombuffer(data[at - count * np.dtype(kind).itemsize : at], kind)

    numbers = take(len(runs) * (1 + 5 * len(layers)), "<f4").reshape(len(runs), -1)
    shares = take(len(runs) * len(layers) * BINS).reshape(len(runs), len(layers), BINS)
    mapped, maps = sum(place >= 0 for *_, place in runs), {}
    for name, shape in index["shapes"].items():
        count = mapped * math.prod(shape)
        pairs = take(-(-count // 2))
        maps[name] = np.stack([pairs >> 4, pairs & 15], 1).ravel()[:count].reshape(mapped, *shape)
    pictures = take(len(index["images"]) * 3 * 32 * 32 * index["pictured"]).reshape(-1, 3, 32, 32)
    assert at == len(data)
    return numbers, shares, maps, pictures


def recorded_levels(record, name):
    entry = record.metrics["maps"]["layers"][name]
    levels = np.frombuffer(zlib.decompress(base64.b64decode(entry["levels"])), np.uint8).reshape(entry["shape"])
    levels = np.array([0, 1, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5], np.uint8)[levels]  # the figure's are octaves
    return levels[: MAPS[0], : MAPS[1]] if levels.ndim == 4 else levels[: MAPS[0]]


# --- the payload ------------------------------------------------------------------------------------------------------


def test_the_payload_holds_what_is_recorded():
    records = grid()
    figure = explorer(records)
    numbers, shares, maps, _ = unpack(figure.index, figure.packed)
    assert len(figure.index["runs"]) == len(records) == 63 == len(figure.table) // 5
    by_place = {(r.spec["p"], r.spec["q"] if r.spec["p"] else 0.0, r.spec["seed"]): r for r in records}
    for run, (p, q, seed, place) in enumerate(figure.index["runs"]):
        metrics = by_place[p, q, seed].metrics
        assert numbers[run, 0] == pytest.approx(metrics["valid_accuracy"], rel=1e-7)
        for k, (name, layer) in enumerate(metrics["layers"].items()):
            expected = [layer[m] for m in MEASURES.values()] + [metrics["maps"]["layers"][name]["top"]]
            assert numbers[run, 1 + 5 * k : 6 + 5 * k] == pytest.approx(expected, rel=1e-7)
            error = shares[run, k] * (figure.index["top"] / 255) - layer["histogram"]
            assert abs(error).max() <= figure.index["top"] / 510 * (1 + 1e-9)  # half a step
            assert np.array_equal(maps[name][place], recorded_levels(by_place[p, q, seed], name))


def test_pictures_come_from_the_very_data_set_or_not_at_all(digits):
    few = [made_up(0.1, q, 0) for q in (1.0, 2.0)]
    other = explorer(few, digits)
    assert not other.index["pictured"] and other.index["images"] == ["image 1", "image 3"]
    same = [dataclasses.replace(r, provenance=r.provenance | {"data_checksum": digits.checksum}) for r in few]
    figure = explorer(same, digits)
    assert figure.index["images"] == [digits.classes[int(digits.valid.y[i])] for i in (1, 3)]
    assert np.array_equal(unpack(figure.index, figure.packed)[3], digits.valid.x[[1, 3]].numpy())


def test_an_incomplete_grid_and_runs_without_maps():
    records = [made_up(0.1, 1.0, 0), made_up(0.2, 2.0, 0, maps=False), made_up(0.2, 2.0, 1)]
    figure = explorer(records)
    assert [run[3] for run in figure.index["runs"]] == [0, -1, 1]
    _, _, maps, _ = unpack(figure.index, figure.packed)
    assert all(np.array_equal(maps[name][1], recorded_levels(records[2], name)) for name in maps)
    assert figure.p == 0.2 and figure.q == 2.0 and figure.numbers()["mean_accuracy"] > 0
    figure.q = 1.0
    assert all(math.isnan(value) for value in figure.numbers().values()) and set(figure.plane()) == {
        (0.1, 1.0),
        (0.2, 2.0),
    }
    assert figure.picture() is not None
    bare = explorer([made_up(0.1, 1.0, 0, maps=False)])
    assert bare.index["shapes"] == {} and bare.index["images"] == []


def test_numbers_and_plane_are_the_records():
    records = grid()
    figure = explorer(records, p=0.2, q=2.5, seed=1, layer="relu3", measure="Gini")
    one = next(r for r in records if (r.spec["p"], r.spec["q"], r.spec["seed"]) == (0.2, 2.5, 1)).metrics
    setting = [r.metrics for r in records if (r.spec["p"], r.spec["q"]) == (0.2, 2.5)]
    accuracies = [m["valid_accuracy"] for m in setting]
    numbers = figure.numbers()
    assert {k: numbers[k] for k in MEASURES.values()} == {k: one["layers"]["relu3"][k] for k in MEASURES.values()}
    assert numbers["valid_accuracy"] == one["valid_accuracy"]
    assert (numbers["lowest_accuracy"], numbers["highest_accuracy"]) == (min(accuracies), max(accuracies))
    assert numbers["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert figure.plane()[0.2, 2.5] == pytest.approx(np.mean([m["layers"]["relu3"]["gini"] for m in setting]))
    assert len(figure.plane()) == 21
    figure.measure = "validation accuracy"
    assert figure.plane()[0.2, 2.5] == pytest.approx(np.mean(accuracies))
    figure.p = 0.0  # no noise: one and the same whatever q is
    assert figure.numbers() == explorer(records, p=0.0, q=1.0, seed=1, layer="relu3").numbers()


def without(record, *path, value=None):
    """A copy of the record with the entry at the path replaced."""
    spoilt = json.loads(json.dumps(dataclasses.asdict(record)))
    part = spoilt["metrics"]
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return Record(**spoilt)


GOOD = made_up(0.1, 1.0, 0)
SECOND = made_up(0.1, 2.0, 0)


@pytest.mark.parametrize(
    "records, message",
    [
        ([], "the table has no column p, q, .*: give bridgeout_lite.studies.activations.grid"),
        ([Record(GOOD.spec | {"model": "smallcnn-plain"}, GOOD.metrics, GOOD.provenance)], "the table has no column"),
        ([made_up(0.0, 2.0, 0)], r"no run with noise \(p > 0\)"),
        ([GOOD, Record(SECOND.spec | {"width": 0.5}, SECOND.metrics, SECOND.provenance)], r"\(width differ\)"),
        (
            [GOOD, without(SECOND, "layers", "relu5", "hoyer", value=float("nan"))],
            "hoyer is not a finite number at 0.1, 2",
        ),
        ([GOOD, without(SECOND, "layers", "relu5")], "seed 0 has the layers relu1, relu2, relu3, relu4 and not"),
        ([GOOD, without(SECOND, "layers", "relu5", "histogram", value=[0.1] * 3)], "a histogram has not 45 finite"),
        (
            [GOOD, without(SECOND, "maps", "layers", "relu2", "shape", value=[3, 4, 32, 8])],
            "of relu2 have not one shape",
        ),
    ],
)
def test_records_that_cannot_be_shown_are_refused(records, message):
    with pytest.raises(ValueError, match=message) as error:
        ActivationExplorer(as_table(records))
    assert "\n" not in str(error.value)


def test_a_measurement_that_diverged_is_refused():
    broken = made_up(0.1, 2.0, 0)
    broken.metrics["layers"]["relu1"]["rms"] = None  # what a record has for a number that is not finite
    with pytest.raises(ValueError, match=r"rms is not a finite number at 0.1, 2.0, 0, relu1: leave the run out"):
        ActivationExplorer(as_table([GOOD, broken]))


# --- training from the figure -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few():
    return bl.load_images("digits", train=128, valid=64)


@pytest.fixture(scope="module")
def trained(few):
    """Two runs on a few digits."""
    return [bl.run(dataclasses.replace(TINY, q=q), few, device="cpu", progress=False) for q in (1.0, 2.0)]


@pytest.fixture
def told(monkeypatch):
    """All that the page would hear: the states of the trait ``training``, and messages."""
    heard = []
    monkeypatch.setattr(ActivationExplorer, "send", lambda self, content, buffers=None: heard.append(content))

    def listen(figure):
        figure.observe(lambda change: heard.append(change["new"]), "training")
        return heard

    return listen


def ask(figure, **content):
    figure._handle_custom_msg(content, [])


def test_the_button_trains_and_adds_the_point(trained, few, told):
    figure = explorer(trained, few)
    heard = told(figure)
    ask(figure, kind="hello")
    assert heard == [{"kind": "here"}]
    ask(figure, kind="train", p=0.1, q=3, seed=1)
    shares = [state["share"] for state in heard[1:] if "share" in state]
    assert shares[0] == 0 and shares[-1] == 1
    assert figure.training == {"words": "added: p = 0.1, q = 3, seed 1"}
    assert (figure.p, figure.q, figure.seed) == (0.1, 3.0, 1)
    assert figure.controls["p"]["values"] == [0.1, 0.2] and figure.controls["q"]["values"] == [1.0, 2.0, 3.0]
    expected = bl.run(dataclasses.replace(TINY, p=0.1, q=3.0, seed=1), few, progress=False)
    assert figure.numbers()["hoyer"] == expected.metrics["layers"]["relu5"]["hoyer"]
    assert len(figure.table) == 15 and len(figure.index["runs"]) == 3 and figure.index["pictured"]
    numbers, _, maps, pictures = unpack(figure.index, figure.packed)
    assert numbers[0, 0] == pytest.approx(expected.metrics["valid_accuracy"])  # (0.1, 3, 1) comes first
    assert np.array_equal(maps["relu2"][0], recorded_levels(expected, "relu2")) and len(pictures) == 2
    ask(figure, kind="train", p=0.2, q=1, seed=0)  # nothing to train
    assert figure.training["words"].startswith("recorded already") and len(figure.table) == 15
    ask(figure, kind="train", p=0, q=1.5, seed=0)
    assert figure.table["q"][0] == 0 and figure.p == 0 and figure.q == 1.0
    assert ActivationExplorer(figure.table).index["runs"] == figure.index["runs"]


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"p": 1.5, "q": 1, "seed": 0}, "0 <= p < 1"),
        ({"p": None, "q": 1, "seed": 0}, "p must be a number"),
        ({"p": 0.1, "q": -1, "seed": 0}, "q must be a finite number >= 0"),
        ({"p": 0.1, "q": 1, "seed": 0.5}, "seed must be a whole number"),
        ({"p": 0.1, "q": 1}, "seed must be a whole number"),
    ],
)
def test_bad_input_is_told_in_the_figure(trained, told, setting, message):
    figure = explorer(trained)
    heard = told(figure)
    ask(figure, kind="train", **setting)
    assert (
        message in figure.training["words"] and "\n" not in figure.training["words"] and len(figure.index["runs"]) == 2
    )
    assert len(heard) == 2, "even the same complaint twice is two changes"


@pytest.mark.parametrize(
    "failure, message",
    [
        (KeyboardInterrupt(), "interrupted; nothing was added"),
        (FloatingPointError("the loss is nan: lower lr"), "lower lr"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_training_that_fails_is_told_in_the_figure(trained, few, monkeypatch, failure, message):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(trainer, "run", fail)
    figure = explorer(trained, few)
    ask(figure, kind="train", p=0.1, q=1.0, seed=0)
    assert message in figure.training["words"] and "share" not in figure.training
    assert len(figure.index["runs"]) == 2 and figure.p == 0.2


def test_the_kernels_interrupt_reaches_the_training(trained, monkeypatch):
    monkeypatch.setattr(ActivationExplorer, "train", lambda self, *setting: signal.raise_signal(signal.SIGINT))
    figure = explorer(trained)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a kernel has it outside of cells
    try:
        ask(figure, kind="train", p=0.1, q=1.0, seed=0)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert figure.training == {"words": "interrupted; nothing was added"}


def test_a_message_on_another_thread_trains_on_that_of_the_cells(trained, monkeypatch):
    seen = []
    monkeypatch.setattr(ActivationExplorer, "train", lambda self, *given: seen.append((threading.get_ident(), given)))

    async def cell():
        figure = explorer(trained)
        thread = threading.Thread(target=ask, args=(figure,), kwargs={"kind": "train", "p": 0.1, "q": 1.0, "seed": 0})
        thread.start()
        thread.join()
        assert seen == []
        await asyncio.sleep(0.01)

    asyncio.run(cell())
    assert seen == [(threading.get_ident(), (0.1, 1.0, 0))]


PLAIN = """
import dataclasses, json
import ipywidgets
import bridgeout_lite as bl
from bridgeout_lite.studies import activations
from bridgeout_lite.studies.activations.trainer import Trainer
from bridgeout_lite.widgets.activations import ActivationExplorer

recipe = bl.Recipe(epochs=1, batch_size=64, precision="float32")
one = bl.Experiment("digits", width=0.25, p=0.2, q=1.0, train=128, valid=64, recipe=recipe)
images = bl.load_images("digits", train=128, valid=64)
records = [bl.run(one, images, device="cpu", progress=False)]
figure = ActivationExplorer(activations.grid(records), images, Trainer(records, images))
view = next(c for c in figure.children if isinstance(c, ipywidgets.Image))
before = view.value
figure.train(0.1, 1.0)
slider = next(c for c in figure.children if getattr(c, "description", "").startswith("drop"))
print(json.dumps([isinstance(figure, ipywidgets.VBox), slider.options, slider.value, figure.p, view.value != before]))
"""


def test_the_plain_view_shows_a_trained_setting():
    assert in_fresh_python(PLAIN, BRIDGEOUT_WIDGETS="plain") == [True, [0.1, 0.2], 0.1, 0.1, True]


def test_the_data_set_must_be_that_of_the_records(trained, few, offline):
    figure = explorer([made_up(0.1, 1.0, 0)])  # recorded on CIFAR-10
    with pytest.raises(DataError, match=r"cifar10.*is not here.*load_images\('cifar10'\)"):
        figure.train(0.2, 1.0)
    changed = [dataclasses.replace(r, provenance=r.provenance | {"data_checksum": "0" * 16}) for r in trained]
    with pytest.raises(DataError, match="checksum differs"):
        explorer(changed, few).train(0.1, 1.0)
    figure = explorer(trained)  # without images it finds them itself
    assert (figure.train(0.1, 1.0)["p"] == 0.1).all() and figure.p == 0.1
    with pytest.raises(ValueError, match="give it a trainer"):
        ActivationExplorer(as_table(trained)).train(0.3, 1.0)


def test_on_epoch_hears_every_epoch_and_changes_no_bit(few):
    recipe = dataclasses.replace(TINY.recipe, epochs=2)
    two, rows = dataclasses.replace(TINY, recipe=recipe), []
    heard = bl.run(two, few, device="cpu", progress=False, on_epoch=lambda row: (rows.append(row), torch.rand(3)))
    silent = bl.run(two, few, device="cpu", progress=False)
    assert heard.metrics == silent.metrics
    assert [row["epoch"] for row in rows] == [1, 2]
    assert (
        bl.runs.records.rounded([row["valid_accuracy"] for row in rows]) == heard.metrics["history"]["valid_accuracy"]
    )


# --- in the page ------------------------------------------------------------------------------------------------------

LIVE = """
export default { render({ model, el }) {
  const listeners = {};
  const { on } = model;
  model.on = (event, listener) => { listeners[event] = listener; on(event, listener); };
  window.sent = [];
  window.model = model;
  window.answer = (message) => listeners["msg:custom"](message);
  model.send = (message) => { sent.push(message); };
  return still.render({ model, el });
} };
"""


@pytest.mark.pages
def test_a_run_that_is_not_recorded_is_said(opened):
    records = [r for r in grid() if (r.spec["p"], r.spec["q"], r.spec["seed"]) != (0.3, 1.5, 0)]
    figure = explorer(records, p=0.3, q=1.5, seed=1)
    page = opened(figure)
    for name, press, value in [("seed", "ArrowLeft", 0), ("p", "Home", 0.0), ("p", "ArrowRight", 0.05)]:
        page.locator(f"input[type=range][name={name}]").press(press)
        setattr(figure, name, value)
        agree(page, figure)
        missing = (figure.p, figure.q, figure.seed) == (0.3, 1.5, 0)
        note = page.locator(".sbn-note").inner_text()
        assert ("not recorded" in note) == missing and ("q has no effect" in note) == (figure.p == 0)
        assert page.locator("canvas.sbn-map").count() == (0 if missing else MAPS[0])
    for layer in figure.index["layers"]:
        page.select_option("select[name=layer]", layer)
        figure.layer = layer
        agree(page, figure)
        assert page.locator("canvas.sbn-map").count() == (MAPS[0] if layer == "relu5" else MAPS[0] * MAPS[1])


@pytest.mark.pages
def test_the_map_shows_the_means_and_its_cells_move_the_sliders(opened):
    figure = explorer([r for r in grid() if (r.spec["p"], r.spec["q"]) != (0.3, 3.0)])
    page = opened(figure)
    for measure in figure.controls["measure"]["options"]:
        page.select_option("select[name=measure]", measure)
        figure.measure = measure
        page.wait_for_timeout(80)
        texts = page.locator(".sbn-heat .sbn-value").all_text_contents()
        digits = 1 if measure == "validation accuracy" else 3
        cells = figure.plane()
        shown = [(0.0, 0.0), *itertools.product(P, Q)]
        expected = [f"{cells[place]:.{digits}f}" if place in cells else "–" for place in shown]
        assert [text.removeprefix("no noise: ") for text in texts] == expected
    for cell, p, q in [(8, 0.1, 2.0), (0, 0.0, 2.0), (20, 0.3, 3.0), (16, 0.3, 1.0)]:
        page.locator(".sbn-heat .sbn-cell").nth(cell).click()
        figure.p, figure.q = p, q
        agree(page, figure)
        sliders = [page.locator(f"input[type=range][name={name}]").get_attribute("aria-valuetext") for name in "pq"]
        assert sliders == [f"{p:g}", f"{q:g}"]


@pytest.mark.pages
def test_the_maps_are_drawn_as_recorded(opened, digits):
    same = dataclasses.replace(GOOD, provenance=GOOD.provenance | {"data_checksum": digits.checksum})
    figure = explorer([same], digits, layer="relu3")
    page = opened(figure)
    pixels = """(node) => { const {width, height} = node;
        return [...node.getContext('2d').getImageData(0, 0, width, height).data]; }"""
    expected = recorded_levels(GOOD, "relu3").reshape(-1, 16 * 16).astype(int)
    maps = page.locator("canvas.sbn-map")
    assert maps.count() == len(expected)
    for k, levels in enumerate(expected):
        opacity = np.array(maps.nth(k).evaluate(pixels)).reshape(-1, 4)[:, 3]
        assert np.array_equal(opacity == 0, levels == 0)
        assert np.array_equal(opacity, 51 * levels)
    picture = np.array(page.locator(".sbn-picture canvas").nth(1).evaluate(pixels)).reshape(32, 32, 4)
    assert np.array_equal(picture[..., :3], digits.valid.x[3].permute(1, 2, 0).numpy())


@pytest.mark.pages
def test_the_numbers_in_the_cells_can_be_read(opened):
    """Contrast of ink on the deepest cell, light and dark: at least 4.5."""
    page = opened(explorer([made_up(0.1, q, 0) for q in Q]))
    contrast = """() => {
        const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92
            : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const paper = rgb(getComputedStyle(document.querySelector('.sbn')).backgroundColor);
        const ink = light(rgb(getComputedStyle(document.querySelector('.sbn-value')).fill));
        return Math.min(...[...document.querySelectorAll('.sbn-cell')].map((cell) => {
            const style = getComputedStyle(cell), part = +style.fillOpacity, blue = rgb(style.fill);
            const ground = light(blue.map((v, k) => part * v + (1 - part) * paper[k]));
            return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        }));
    }"""
    assert page.evaluate(contrast) >= 4.5
    page.evaluate("""() => { const { dataset, style } = document.documentElement; dataset.theme = 'dark';
        style.setProperty('--pst-color-text-base', '#ced6dd');
        style.setProperty('--pst-color-background', '#14181e'); }""")
    assert page.evaluate(contrast) >= 4.5


def live(state):
    state["_esm"] = state["_esm"].replace("export default figure(", "const still = figure(") + LIVE


@pytest.mark.pages
def test_a_page_without_a_kernel_offers_no_training(opened):
    page = opened(explorer([GOOD]))
    assert page.get_by_role("button", name="Train this setting now").count() == 0
    page = opened(explorer([GOOD]), change=live)  # a host that can send, but nobody answers
    assert not page.get_by_role("button", name="Train this setting now").is_visible()
    assert page.evaluate("sent") == [{"kind": "hello"}]


@pytest.mark.pages
def test_the_button_asks_and_shows_what_the_kernel_tells(opened):
    records = [made_up(p, q, 0) for p in (0.1, 0.2) for q in (1.0, 2.0)]
    page = opened(explorer(records), change=live)
    page.evaluate("answer({kind: 'here'})")
    button = page.get_by_role("button", name="Train this setting now")
    words = page.locator(".sbn-trainer [role=status]")
    assert button.is_visible()
    page.locator("input[type=range][name=q]").press("End")
    fields = {name: page.locator(f"input[name=train-{name}]") for name in ("p", "q", "seed")}
    assert [field.input_value() for field in fields.values()] == ["0.2", "2", "0"]
    fields["p"].fill("0.15")
    fields["q"].fill("1.25")
    button.click()
    assert page.evaluate("sent.at(-1)") == {"kind": "train", "p": 0.15, "q": 1.25, "seed": 0}
    page.wait_for_function("document.querySelector('.sbn-trainer [role=status]').textContent.includes('No answer yet')")
    page.evaluate("model.set('training', {share: 0.5, words: 'epoch 1 of 2 done'})")
    assert button.is_disabled() and words.inner_text() == "epoch 1 of 2 done"
    assert page.locator("progress").get_attribute("value") == "0.5" and page.locator("progress").is_visible()
    page.evaluate("model.set('training', {words: 'not trained: p must be a number'})")
    assert button.is_enabled() and not page.locator("progress").is_visible()
    assert words.inner_text() == "not trained: p must be a number"

    more = explorer([*records, made_up(0.15, 1.25, 0)], p=0.15, q=1.25)  # what Python would then send
    page.evaluate(
        """([index, controls, packed]) => {
            model.set('index', index); model.set('controls', controls);
            model.set('packed', new DataView(Uint8Array.from(packed).buffer));
            model.set('p', 0.15); model.set('q', 1.25); }""",
        [more.index, more.controls, list(more.packed)],
    )
    page.wait_for_function("document.querySelectorAll('.sbn-heat .sbn-cell').length === 9")
    agree(page, more)
    assert page.locator("input[type=range][name=p]").get_attribute("aria-valuetext") == "0.15"
    page.locator("input[type=range][name=p]").press("End")
    page.locator("input[type=range][name=q]").press("End")
    more.p, more.q = 0.2, 2.0
    agree(page, more)


def repacked(change):
    """A spoiler that changes the packed bytes of the state."""

    def spoil(state):
        state["_esm"] = state["_esm"].replace(
            "export default figure(",
            "const still = figure(",
        ) + (
            "export default { render({ model, el }) { const { get } = model;"
            "model.get = (key) => key === 'packed' ? (" + change + ")(get(key)) : get(key);"
            "return still.render({ model, el }); } };"
        )

    return spoil


@pytest.mark.pages
@pytest.mark.parametrize(
    "spoil, message",
    [
        (repacked("() => null"), "it holds no recorded run"),
        (repacked("(data) => new DataView(new Uint8Array(9).buffer)"), "its data are damaged"),
        (repacked("(data) => new DataView(data.buffer.slice(0, 5000))"), "its data are damaged"),
    ],
)
def test_spoilt_bytes_are_told_in_the_figures_place(browser, tmp_path, spoil, message):
    text = spoilt_page(browser, explorer([made_up(0.1, q, 0) for q in Q]), tmp_path, spoil)
    assert message in text and "cannot be drawn" in text


@pytest.mark.pages
def test_a_number_that_is_none_is_told(browser, tmp_path):
    figure = explorer([GOOD])
    data = bytearray(zlib.decompress(figure.packed))
    data[:4] = np.array([np.nan], "<f4").tobytes()
    figure.packed = zlib.compress(bytes(data))
    assert "a recorded number is missing" in spoilt_page(browser, figure, tmp_path)
