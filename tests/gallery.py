"""The in-page figures as the book shows them: for their common tests, the screenshots and the benchmark."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import bridgeout_lite as bl
from bridgeout_lite import widgets
from bridgeout_lite.widgets.base import Figure

FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

SHOWN = """(names) => {
    const value = (name) => {
        const nodes = [...document.querySelectorAll(`.sbn [name="${name}"]`)];
        const node = nodes.find((one) => one.checked) ?? nodes[0];
        return node.type === "range" ? +node.getAttribute("aria-valuetext").replace("−", "-") : node.value;
    };
    const numbers = [...document.querySelectorAll(".sbn data")].map((node) => [node.dataset.name, +node.value]);
    return [Object.fromEntries(names.map((name) => [name, value(name)])), Object.fromEntries(numbers)];
}"""


class Shown(NamedTuple):
    """A figure: the code that makes it, what a reader and a notebook do with it, and what it refuses."""

    code: str
    moves: list[tuple[str, str, int]]
    """What a reader presses to see its point: a control's name or a button's text, the key, how often."""
    sets: dict[str, float | str]
    """What a notebook may set."""
    opening: tuple[tuple[str, str, int], ...] = ()
    """What is pressed before the first screenshot."""
    stops: tuple[tuple[str, ...], ...] = ()
    """Controls whose stops are visited in every combination by the test of the page against Python."""
    live: tuple[str, ...] = ()
    """Numbers of the readout that the page alone has, since they move by themselves."""
    refuses: tuple[tuple[str, Any, str], ...] = ()
    """A control, a value that it does not take, and a pattern of the reason."""
    spoil: tuple[tuple[Callable[[dict], Any], str], ...] = ()
    """A change of the figure's stored state, and what then stands in the figure's place."""
    weight: int = 150_000
    """Bytes that it may weigh in its page."""

    def make(self, **values: Any) -> Figure:
        code = self.code.removesuffix(")")
        return eval(f"{code}{'' if code.endswith('(') else ', '}**values)", {"bl": bl, "widgets": widgets}, locals())

    def move(self, page, presses=None) -> None:
        """Press the keys of the moves (or of ``presses``), in a page that shows this figure alone."""
        for name, key, times in self.moves if presses is None else presses:
            control = page.locator(f'.sbn [name="{name}"]')
            (control if control.count() else page.get_by_role("button", name=name, exact=True)).focus()
            for _ in range(times):
                page.keyboard.press(key)
                page.evaluate("new Promise(requestAnimationFrame)")  # a drawing a press, so that every run is the same


def tour(page, figure, name: str) -> Iterator[Any]:
    """Move a control through its stops as a reader does, in the page and in Python alike; a range without stops of its
    own to both ends and one step from each. Yields the value at each; none where the page has switched it off."""
    control, node = figure.controls[name], page.locator(f'.sbn [name="{name}"]')
    if "options" in control:
        for value in control["options"]:
            if node.first.get_attribute("type") == "radio":
                page.locator(f'.sbn [name="{name}"][value="{value}"]').check()
            elif page.locator(f'.sbn [name="{name}"]:enabled option[value="{value}"]:enabled').count():
                node.select_option(value)
            else:
                continue
            setattr(figure, name, value)
            yield value
    elif node.is_enabled():
        steps = ["Home", *["ArrowRight"] * (len(control["values"]) - 1)] if "values" in control else []
        for key in steps or ["Home", "ArrowRight", "End", "ArrowLeft"]:
            node.press(key)
            setattr(figure, name, _after(figure.controls[name], getattr(figure, name), key))
            yield getattr(figure, name)


def _after(control: dict, value: float, key: str) -> float:
    """Where a slider stands after a key."""
    step = {"ArrowLeft": -1, "ArrowRight": 1}.get(key)
    if "values" in control:
        stops = control["values"]
        return stops[0 if step is None else min(stops.index(value) + step, len(stops) - 1)]
    if step is None:
        return control["min" if key == "Home" else "max"]
    return round(value + step * control["step"], 9)


def agree(page, figure, live: tuple[str, ...] = ()) -> None:
    """The page's controls and numbers are those of Python; what Python does not know is not a number, or ``live``."""
    page.evaluate(FRAMES)
    controls, numbers = page.evaluate(SHOWN, [*figure.controls])
    expected = {name: getattr(figure, name) for name in figure.controls}
    assert all(_same(controls[name], value, 1e-3) for name, value in expected.items()), (controls, expected)
    known = {name: math.nan for name in numbers if name not in live} | figure.numbers()
    assert known.keys() <= numbers.keys(), (known, numbers)
    assert all(_same(numbers[name], value, 1e-6) for name, value in known.items()), (numbers, known)


def _same(found, expected, tolerance: float) -> bool:
    if isinstance(expected, str):
        return found == expected
    both_missing = math.isnan(found) and math.isnan(expected)
    return both_missing or math.isclose(found, expected, rel_tol=tolerance, abs_tol=1e-9)


def _no_unpacking(state: dict) -> None:
    state["_esm"] = "delete globalThis.DecompressionStream;" + state["_esm"]


GALLERY = {
    "NoisePenalty": Shown(
        "widgets.NoisePenalty()",
        [("q", "ArrowRight", 40)],
        {"q": 3.0},
        stops=(("form", "q"),),
        refuses=(
            ("p", 0.95, "p must be a number from 0 to 0.9 "),
            ("p", math.nan, "p must be a number from 0 to 0.9 "),
            ("q", -1.0, "q must be a number from 0 to 4 "),
            ("q", 9.0, "q must be a number from 0 to 4 "),
            ("x", 5.0, "x must be a number from -2 to 2 "),
            ("form", "sideways", "form must be one of odd, even; got 'sideways'"),
        ),
        spoil=(
            (lambda s: s.pop("_esm"), "needs a running kernel"),
            (lambda s: s.update(_esm="syntax error("), "cannot be drawn"),
        ),
    ),
    "LearnWhileYouDrag": Shown(
        "widgets.LearnWhileYouDrag()",
        [("q", "ArrowRight", 20), ("100 steps", "Enter", 100)],
        {"q": 2.0},
        opening=(("100 steps", "Enter", 100),),
        stops=(("method", "q"),),
        live=("steps", "train", "held_out", "distance"),
        refuses=(
            ("method", "Dropout", "one of Bridgeout, Sparseout; got 'Dropout'"),
            ("p", 0.9, "p must be a number from 0.05 to 0.7"),
            ("p", math.nan, "p must be a number from 0.05 to 0.7"),
            ("q", 4.0, "q must be a number from 0.5 to 3"),
            ("rate", 0.003, "rate must be one of 0.0005"),
        ),
        spoil=(
            (lambda s: s.update(features=[]), "table of patients is missing"),
            (lambda s: s.update(train=442), "of its 442 rows 442 are for training"),
        ),
    ),
    "Playground": Shown(
        "widgets.Playground()",
        [("q", "ArrowLeft", 5), ("50 steps", "Enter", 4)],
        {"q": 0.5},
        stops=(("method", "q"),),
        live=("steps", "train_loss", "loss", "accuracy", "hoyer", "gini", "near_zero", "activations", "silent"),
        refuses=(
            (
                "method",
                "magic",
                "one of none, Dropout, Sparseout, Bridgeout, Batch Bridgeout, L_q penalty; got 'magic'",
            ),
            ("p", 0.8, "p must be a number from 0.05 to 0.7"),
            ("q", math.nan, "q must be a number from 0.5 to 3"),
            ("rate", 1.0, "rate must be one of 0.005"),
            ("seed", 10, "seed must be a number from 0 to 9"),
        ),
        spoil=(
            (lambda s: s.update(method="magic"), "there is no noise magic"),
            (lambda s: s.update(train=1200), "of its 1200 images 1200 are for training"),
            (lambda s: s.update(labels="0123"), "of its 4 images 800 are for training"),
            (lambda s: s.update(labels=s["labels"] + "0"), "its images do not fit their labels"),
            (lambda s: s.update(stored={}), "its stored run is missing"),
            (lambda s: s["stored"].pop("gini"), "its stored run is missing"),
        ),
    ),
    "BridgeGeometry": Shown(
        "widgets.BridgeGeometry()",
        [("q", "ArrowLeft", 30)],
        {"q": 1.0},
        stops=(("q", "rho"),),
        refuses=(
            ("q", 0.4, "q must be a number from 0.5 to 4"),
            ("q", math.nan, "q must be a number"),
            ("r", 0.0, "r must be a number from 0.1 to 1.3"),
            ("rho", 1.0, "rho must be a number from -0.9 to 0.9"),
            ("a1", 9.0, "a1 must be a number from -1.6 to 1.6"),
        ),
        spoil=(
            (lambda s: s.update(a2="0.3"), "a2 is not a number"),
            (lambda s: s.pop("r"), "r is not a number"),
            (lambda s: s.update(q=0), "q and r must be above 0"),
            (lambda s: s.update(rho=1), "rho between"),
            (lambda s: s.update(controls={}), "cannot be drawn"),
        ),
    ),
    "ProximalMaps": Shown(
        "widgets.ProximalMaps()",
        [("q", "ArrowLeft", 10)],
        {"q": 0.5},
        stops=(("kind", "mu"), ("q", "mu")),
        live=("by_gradient",),  # for q < 1 a jitter that doubles the last digit in each step
        refuses=(
            ("kind", "L7", "kind must be one of bridge, L0, transformed L1, SCAD; got 'L7'"),
            ("mu", -0.1, "mu must be a number from 0 to 1.5"),
            ("q", 0.0, "q must be a number from 0.5 to 2"),
            ("w", math.nan, "w must be a number from -3 to 3"),
        ),
        spoil=((lambda s: s.update(kind="L7"), "there is no penalty L7"), (lambda s: s.pop("w"), "w is not a number")),
    ),
    "ActivationExplorer": Shown(
        'widgets.ActivationExplorer(bl.studies.activations.grid(bl.notebook.results("activations")))',
        [("q", "ArrowRight", 4)],
        {"q": 3.0},
        stops=(("p", "q"),),
        refuses=(
            ("p", 0.15, "p must be one of"),
            ("q", 9.0, "q must be one of"),
            ("seed", 7, "seed must be one of"),
            ("layer", "relu9", "layer must be one of"),
            ("measure", "luck", "measure must be one of"),
        ),
        spoil=(
            (lambda s: s.update(layer="relu9"), "there is no layer relu9"),
            (lambda s: s.update(index={}), "it holds no recorded run"),
            (lambda s: s["index"].update(runs=[]), "it holds no recorded run"),
            (lambda s: s["index"]["layers"].pop(), "its data do not fit its index"),
            (lambda s: s["index"]["runs"].pop(), "its data do not fit its index"),
            (lambda s: s["index"].pop("top"), "its data do not fit its index"),
            (_no_unpacking, "browser cannot unpack"),
        ),
    ),
    "PruningExplorer": Shown(
        'widgets.PruningExplorer(bl.studies.pruning.tables.comparisons(bl.notebook.results("pruning-cifar10")))',
        [("amount", "ArrowRight", 1), ("Recalibrated", "Enter", 1)],
        {"amount": 0.5},
        stops=(("method", "p", "q"), ("treatment", "amount"), ("study", "target")),
        refuses=(
            ("p", 0.05, r"p must be one of 0.01, 0.03, 0.1, 0.3 \(CIFAR-10, vgg11.*, Batch Bridgeout\); got 0.05"),
            ("q", 3.0, "q must be one of 1.0, 1.5, 2.0"),
            ("method", "magic", "method must be one of no noise, dropout, Batch Bridgeout; got 'magic'"),
            ("target", "50 % of weights", "target must be one of everything, 75 % of kernels"),
            ("treatment", "weights: zeroed", "treatment must be one of zeroed, zeroed, recalibrated, removed"),
            ("amount", 0.35, "amount must be one of 0.0, 0.1, 0.2"),
            ("layer", 9, r"layer must be one of 1, 2, 3, 4, 5, 6, 7, 8 \(CIFAR-10"),
            ("study", "ImageNet", "study must be one of CIFAR-10, vgg11 × 0.25"),
            ("beside", "luck", "beside must be one of other methods, other treatments"),
        ),
        spoil=(
            (lambda s: s.update(study="ImageNet"), "there is no study ImageNet"),
            (lambda s: s.update(p=0.2), "nothing is recorded of Batch Bridgeout with p 0.2"),
            (lambda s: s.update(layer=9), "there is no layer 9"),
            (_no_unpacking, "browser cannot unpack"),
        ),
    ),
    "Surgery": Shown(
        'widgets.Surgery(bl.studies.pruning.tables.comparisons(bl.notebook.results("pruning-cifar10")))',
        [("amount", "ArrowRight", 2)],
        {"amount": 0.5},
        stops=(("network", "treatment"), ("treatment", "amount")),
        refuses=(
            ("network", "VGG", "network must be one of weight decay only, Dropout, Batch Bridgeout; got 'VGG'"),
            (
                "treatment",
                "burnt",
                "treatment must be one of zeroed, silenced, removed, zeroed, recalibrated, .*; got 'burnt'",
            ),
            ("amount", 0.33, "amount must be one of 0.0, 0.05, .*, 0.9; got 0.33"),
        ),
        spoil=(
            (lambda s: s.update(network="VGG"), "there is no network VGG"),
            (lambda s: s.update(treatment="burnt"), "there is no treatment burnt"),
            (lambda s: s.update(index={}), "its networks are missing"),
            (lambda s: s["index"]["networks"]["Dropout"].pop("order"), "its networks are missing"),
            (lambda s: s["index"].update(labels=""), "its images are missing"),
            (lambda s: s["index"].update(labels="0123"), "its answers do not fit its networks"),
            (lambda s: s["index"].pop("costs"), "its answers do not fit its networks"),
        ),
        weight=2_300_000,
    ),
    "Lineage": Shown(
        "widgets.Lineage()",
        [("generation", "ArrowRight", 3)],
        {"generation": 5},
        stops=(("law", "generation"), ("factor", "generation")),
        refuses=(
            ("factor", 0.1, "factor must be a number from 0.5 to 1"),
            ("factor", math.nan, "factor must be a number from 0.5 to 1"),
            ("law", "jungle", "law must be one of exp, rescaled; got 'jungle'"),
            ("generation", 9, "generation must be a number from 0 to 8"),
        ),
        spoil=((lambda s: s.update(law="jungle"), "there is no law jungle"),),
    ),
    "Headline": Shown(
        'widgets.Headline(bl.studies.activations.grid(bl.notebook.results("activations")), '
        'bl.studies.language.grid(bl.notebook.results("language")))',
        [("q", "ArrowLeft", 1), ("Transformer", "Enter", 1)],
        {"q": 1.0},
        stops=(("p", "q"),),
        refuses=(
            ("q", 1.75, r"q must be one of 1.0, 1.25, 1.5, 2.0, 2.5, 3.0; got 1.75"),
            ("p", "0.9", r"p must be one of by validation, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6; got '0.9'"),
            ("layer", "relu9", "layer must be one of relu1, .*relu5; got 'relu9'"),
            ("place", "GRU: hidden.0", "place must be one of LSTM: embedded, LSTM: hidden.0"),
        ),
        spoil=(
            (lambda s: s.update(p="much"), "p is much, not a number"),
            (lambda s: s.update(place="GRU: hidden"), "there is no language model GRU"),
            (lambda s: s.update(place="LSTM: hidden.7"), "there is no layer hidden.7 in LSTM"),
            (lambda s: s.update(layer="relu9"), "there is no layer relu9 in smallcnn"),
            (lambda s: s.update(tasks={}), "it holds no recorded run of both tasks"),
            (lambda s: s["tasks"].pop("LSTM") and s["tasks"].pop("transformer"), "no recorded run of both tasks"),
            (lambda s: s["tasks"]["LSTM"]["runs"].clear(), "no recorded run of both tasks"),
            (lambda s: s["tasks"]["LSTM"]["runs"][3].pop(), "its data do not fit together"),
            (lambda s: s["tasks"]["LSTM"]["runs"][3].__setitem__(4, None), "a recorded number is missing"),
        ),
    ),
    "Arena": Shown(
        'widgets.Arena(bl.studies.arena.standings(bl.notebook.results("arena")))',
        [("budget", "ArrowLeft", 1), ("Colour the front", "Enter", 1)],
        {"treatment": "removed, recalibrated"},
        stops=(("network", "treatment", "budget"),),
        refuses=(
            ("network", "vgg16", "network must be one of vgg11, resnet14; got 'vgg16'"),
            ("treatment", "zeroed", "treatment must be one of removed, recalibrated, fine-tuned; got 'zeroed'"),
            ("budget", 12.34, r"budget must be one of [\d., ]+; got 12.34"),
            ("chosen", ["magic"], "chosen must be of l1-norm, none, .*, each once; got 'magic'"),
            ("chosen", ["none", "", "none"], "each once; got 'none'"),
            ("chosen", [*bl.studies.arena.LABELS][:9], "at most 8 methods can be told apart by colour; 9 are chosen"),
        ),
        spoil=(
            (lambda s: s.update(network="vgg16"), "there is no network vgg16 among the recorded ones"),
            (lambda s: s.update(treatment="zeroed"), "there is no treatment zeroed among the recorded ones"),
            (lambda s: s.update(chosen=["magic"]), "there is no method magic"),
            (lambda s: s.update(chosen=[""] * 9), "chosen is not a list of at most eight methods"),
            (lambda s: s.update(points=[]), "it holds no recorded run"),
            (lambda s: s.pop("networks"), "it holds no recorded run"),
            (lambda s: s["points"][5].pop(), "its data do not fit together"),
            (lambda s: s["points"][5].__setitem__(1, 99), "its data do not fit together"),
            (lambda s: s["points"][5].__setitem__(5, None), "a recorded number is missing"),
            (lambda s: s["points"][5].__setitem__(6, None), "a recorded number is missing"),
        ),
    ),
}
