"""The pruning explorer: what the page gets against the records, settings that follow, and the figure in a browser."""

import base64
import dataclasses
import json
import math
import zlib

import numpy as np
import pytest
import torch
from browser import in_fresh_python, told, weight
from gallery import agree

import bridgeout_lite as bl
from bridgeout_lite import Experiment, Recipe, Record
from bridgeout_lite.models import tied
from bridgeout_lite.pruning import prune
from bridgeout_lite.studies import curves as protocol
from bridgeout_lite.studies import published
from bridgeout_lite.studies.pruning.tables import EVERYTHING, TREATMENTS, accuracies, comparisons, rule
from bridgeout_lite.widgets.pruning_explorer import NAMES, PruningExplorer

METHODS = {name: method for method, name in NAMES.items()}

# Method, p, q, target_fraction: as many and as irregular as the recorded ones.
SETTINGS = (
    ("none", 0.0, 2.0, 1.0),
    ("dropout", 0.05, 2.0, 1.0),
    ("dropout", 0.1, 2.0, 1.0),
    ("dropout", 0.2, 2.0, 1.0),
    ("bridgeout", 0.1, 2.0, 1.0),
    ("bridgeout", 0.3, 2.0, 1.0),
    ("bridgeout", 0.03, 1.5, 1.0),
    ("bridgeout", 0.1, 1.5, 1.0),
    ("bridgeout", 0.1, 1.5, 0.75),
    ("bridgeout", 0.01, 1.0, 1.0),
)
VGG = {f"conv{k}": n for k, n in enumerate((16, 32, 64, 64, 128, 128, 128, 128), 1)}
BLOCKS = [(s, b) for s, count in ((1, 3), (2, 4), (3, 6)) for b in range(count)]
RESNET = {"conv": 16} | {
    f"stage{s}.{b}.{part}": 8 * 2**s
    for s, b in BLOCKS
    for part in ("conv1", "conv2", *(["shortcut.conv"] if s > 1 and b == 0 else []))
}


def explorer(records, **values):
    """The figure of these records."""
    return PruningExplorer(comparisons(records), **values)


def made_up(method="bridgeout", p=0.1, q=1.5, fraction=1.0, seed=0, *, layers=None, **spec):
    """A record of the pruning comparison with smooth made-up curves, a little different in every run."""
    layers = layers or (RESNET if spec.get("model") == "resnet34c" else VGG)
    recipe = Recipe(epochs=spec.pop("epochs", 10))
    common = {"model": "vgg11", "width": 0.25, "recipe": recipe, "measures": ("pruning",), "seed": seed} | spec
    experiment = Experiment(method=method, p=p, q=q, target_fraction=fraction, **common)
    draws = np.random.default_rng([len(method), int(1000 * p), int(10 * q), int(100 * fraction), seed, len(layers)])
    whole, noise = 85 - 30 * p / q - draws.uniform(0, 1), math.sqrt(p)
    curves = {}
    for name, (amounts, arguments) in (protocol.CURVES | {protocol.RELEASED: (protocol.RELEASED_AMOUNTS, {})}).items():
        half = 0.15 + 0.2 * noise + 0.2 * bool(arguments.get("recalibrate")) + 0.05 * bool(arguments.get("remove"))
        half += 0.3 * bool(arguments.get("recipe")) + draws.uniform(0, 0.02)
        fall = [1 / (1 + (amount / half) ** 4) for amount in amounts]
        accuracy = [round(10 + (whole - 10) * share, 2) for share in fall]
        curves[name] = {"amount": list(amounts), "test": accuracy}
        if name in protocol.CHOSEN_BY:
            curves[name]["valid"] = [round(value + draws.uniform(-0.3, 0.3), 2) for value in accuracy]
    left = [1 - amount for amount in protocol.AMOUNTS]
    costs = {
        "parameters": [round(579_786 * share**2) for share in left],
        "macs": [round(9_880_832 * s**2) for s in left],
    }
    norms = {name: sorted((0.6 + draws.gamma(4, 0.2, n)).round(6).tolist()) for name, n in layers.items()}
    pruning = {"curves": curves, "costs": {"amount": list(protocol.AMOUNTS)} | costs, "filters": norms, "weights": {}}
    times = [round(40 * (0.2 + 0.8 * share) * draws.uniform(0.9, 1.1), 4) for share in left]
    latency = {"amount": list(protocol.AMOUNTS), "latency_ms": times, "batch": 128}
    metrics = {"test_accuracy": curves["zeroed"]["test"][0], "valid_accuracy": 80.0, "pruning": pruning}
    return Record(experiment.spec, metrics, {"latency": latency, "device": "AMD EPYC", "seconds": 500.0})


def scratch(cut, seed=0, accuracy=70.0):
    spec = made_up("none", 0.0, 2.0, seed=seed, cut=cut, measures=()).spec
    return Record(spec, {"test_accuracy": accuracy + seed, "valid_accuracy": 70.0}, {"device": "AMD EPYC"})


def comparison(seeds=3, **spec):
    return [made_up(*setting, seed=seed, **spec) for seed in range(seeds) for setting in SETTINGS]


WHOLE = [*comparison(), *(scratch(cut, seed) for cut in (0.5, 0.7) for seed in range(3))]
SECOND = comparison(seeds=2, dataset="cifar100", model="resnet34c", width=1.0)
FIRST_NAME, SECOND_NAME = "CIFAR-10, vgg11 × 0.25", "CIFAR-100, resnet34c"


def unpack(figure):
    """What the page gets."""
    return json.loads(zlib.decompress(figure.packed))


def of(records, method, p=None, q=None, fraction=1.0):
    """The runs of one setting."""
    return [
        r
        for r in records
        if r.spec["method"] == METHODS[method]
        and "pruning" in r.metrics
        and (p is None or (r.spec["p"], r.spec["q"], r.spec.get("target_fraction", 1.0)) == (p, q, fraction))
    ]


@pytest.fixture
def figure():
    return explorer([*WHOLE, *SECOND])


# --- what the page gets -----------------------------------------------------------------------------------------------


def test_the_page_gets_what_is_recorded(figure):
    assert list(unpack(figure)) == [FIRST_NAME, SECOND_NAME]
    study = unpack(figure)[FIRST_NAME]
    assert [layer[:2] for layer in study["layers"]] == [[name, n] for name, n in VGG.items()]
    assert len(study["settings"]) == len(SETTINGS) and study["network"] == "vgg16"
    for entry in study["settings"]:
        fraction = 1.0 if entry["target"] == EVERYTHING else 0.75
        runs = of(WHOLE, entry["method"], entry["p"], entry["q"], fraction)
        assert len(runs) == 3 == len(entry["seeds"]) and set(entry["curves"]) == set(TREATMENTS)
        for treatment, lists in entry["curves"].items():
            assert all(len(values) == 3 for values in lists["test"])
            for run, values in zip(runs, zip(*lists["test"], strict=True), strict=True):
                assert dict(zip(lists["amount"], values, strict=True)) == accuracies(run, treatment)
        levels = np.frombuffer(base64.b64decode(entry["norms"]), np.uint8).astype(float)
        parts = np.split(levels, np.cumsum(list(VGG.values()))[:-1])
        for name, part, top in zip(VGG, parts, entry["tops"], strict=True):
            expected = np.mean([run.metrics["pruning"]["filters"][name] for run in runs], axis=0)
            assert abs(part * top / 255 - expected).max() <= top * (0.5 / 255 + 1e-3)
            assert (np.diff(part) >= 0).all()
    times = np.array([r.provenance["latency"]["latency_ms"] for r in of(WHOLE, "dropout") + of(WHOLE, "no noise")])
    times = np.concatenate([times, [r.provenance["latency"]["latency_ms"] for r in of(WHOLE, "Batch Bridgeout")]])
    assert study["costs"]["latency"] == pytest.approx(np.median(times / times[:, :1], axis=0).tolist(), rel=1e-12)
    assert study["costs"]["macs"] == WHOLE[0].metrics["pruning"]["costs"]["macs"]
    assert study["scratch"] == [[0.5, [70.0, 71.0, 72.0]], [0.7, [70.0, 71.0, 72.0]]]
    frame = published.curve("vgg16", "cifar10", "dropout")
    assert study["published"]["dropout"] == frame[["amount", "accuracy"]].to_numpy().tolist()
    assert unpack(figure)[SECOND_NAME]["network"] == "resnet34c" and not unpack(figure)[SECOND_NAME]["scratch"]


def test_the_chosen_settings_are_those_of_the_protocol(figure):
    frame = protocol.curves_frame([r for r in WHOLE if "pruning" in r.metrics])
    for curve in protocol.CHOSEN_BY:
        best = protocol.choose_settings(frame, curve)
        entries = unpack(figure)[FIRST_NAME]["settings"]
        for method, place in unpack(figure)[FIRST_NAME]["chosen"][curve].items():
            runs = of(
                WHOLE,
                method,
                entries[place]["p"],
                entries[place]["q"],
                1 if "every" in entries[place]["target"] else 0.75,
            )
            assert {protocol.setting(run.spec) for run in runs} == {best[METHODS[method]]}
    assert {rule(treatment) for treatment in TREATMENTS} == set(protocol.CHOSEN_BY)
    assert rule("removed, fine-tuned") == "removed, recalibrated" and rule("zeroed as released") == "zeroed"


def test_five_studies_weigh_less_than_150_kb():
    five = [*WHOLE, *SECOND, *comparison(dataset="cifar100"), *comparison(epochs=30), *comparison(width=0.5)]
    assert weight(explorer(five)) < 150_000


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_numbers_are_the_records(figure):
    figure.method, figure.p, figure.q, figure.treatment, figure.amount = "dropout", 0.1, 2.0, "removed", 0.4
    runs = of(WHOLE, "dropout", 0.1, 2.0)
    lists = [run.metrics["pruning"]["curves"]["removed"] for run in runs]
    values = [one["test"][one["amount"].index(0.4)] for one in lists]
    numbers = figure.numbers()
    assert numbers["accuracy"] == pytest.approx(np.mean(values)) and len(set(values)) > 1
    assert (numbers["lowest"], numbers["highest"]) == (min(values), max(values))
    assert numbers["published"] == 11.913  # VGG-16 with Dropout
    assert numbers["filters"] == sum(n - int(n * 0.4) for n in VGG.values()) == 416
    costs = runs[0].metrics["pruning"]["costs"]
    expected = {name: pytest.approx(costs[name][4] / 1e6) for name in ("parameters", "macs")}
    assert {name: numbers[name] for name in expected} == expected
    assert numbers["latency"] == 100 * unpack(figure)[FIRST_NAME]["costs"]["latency"][4] < 90
    figure.treatment = "zeroed, recalibrated"  # not recorded at 40 %, and nothing is saved
    numbers = figure.numbers()
    assert math.isnan(numbers["accuracy"]) and math.isnan(numbers["lowest"])
    assert (numbers["parameters"], numbers["latency"]) == (pytest.approx(costs["parameters"][0] / 1e6), 100)
    figure.study = SECOND_NAME
    figure.method, figure.amount = "Batch Bridgeout", 0.5
    assert figure.numbers()["published"] == 2.74 and figure.numbers()["filters"] == sum(RESNET.values()) // 2
    figure.amount = 0.6
    assert math.isnan(figure.numbers()["published"])


def test_with_nothing_pruned_only_recalibration_makes_a_difference():
    run = made_up()
    curves = run.metrics["pruning"]["curves"]
    unpruned, again = curves["zeroed"]["test"][0], curves["removed, recalibrated"]["test"][0]
    starts = {treatment: accuracies(run, treatment).get(0.0) for treatment in TREATMENTS}
    assert starts == {
        "zeroed": unpruned,
        "zeroed, recalibrated": again,
        "removed": curves["removed"]["test"][0],
        "removed, recalibrated": again,
        "removed, fine-tuned": None,
        "random: zeroed": unpruned,
        "random: removed, recalibrated": again,
        "folded: removed, recalibrated": again,
        "zeroed as released": unpruned,
    }
    assert list(accuracies(run, "random: zeroed")) == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_a_treatment_that_is_not_recorded_has_no_numbers(figure):
    older = [made_up(*setting) for setting in SETTINGS]
    for record in older:
        del record.metrics["pruning"]["curves"]["removed, fine-tuned"]
    figure = explorer(older, treatment="removed, fine-tuned", amount=0.5)
    assert math.isnan(figure.numbers()["accuracy"]) and figure.picture() is not None


def test_the_picture_is_drawn(figure):
    for beside, treatment in (("other treatments", "removed"), ("other methods", "zeroed")):
        figure.beside, figure.treatment = beside, treatment
        picture = figure.picture()
        curves, norms, network = picture.axes
        assert len(norms.patches) == 128 and len(network.patches) == 16
        assert norms.get_title() == "conv5: 38 of 128 fall"
        assert len(curves.lines) == (7 if beside == "other treatments" else 5)
        figure.overlay = False
        assert len(figure.picture().axes[0].lines) == len(curves.lines) - 1
        figure.overlay = True


@pytest.mark.parametrize("name", ["resnet34c", "wrn-10-2", "vgg11"])
def test_ties_are_those_that_pruning_finds(name):
    """Filters that stand alone fall by their own norm; by chance tied ones do so with probability below 1e-4."""
    torch.manual_seed(0)
    model = bl.build_model(name, width=1.0 if name != "vgg11" else 0.25)
    convs = {k: m for k, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    own = {k: set(m.weight.flatten(1).norm(dim=1).argsort()[: len(m.weight) // 2].tolist()) for k, m in convs.items()}
    prune(model, 0.5, silence=True, example_input=torch.zeros(1, 3, 32, 32))
    for layer, conv in convs.items():
        fallen = set((conv.weight.flatten(1).norm(dim=1) == 0).nonzero().flatten().tolist())
        assert len(fallen) == len(own[layer]), "as many as int(O * amount), tied or not"
        assert (fallen != own[layer]) == (layer in tied(name)), layer


# --- recorded settings only -------------------------------------------------------------------------------------------


def state(figure):
    return figure.method, figure.p, figure.q, figure.target


def test_what_is_moved_stays_and_the_rest_follows(figure):
    chosen = unpack(figure)[FIRST_NAME]["chosen"]["zeroed"]["Batch Bridgeout"]
    best = unpack(figure)[FIRST_NAME]["settings"][chosen]
    assert state(figure) == tuple(best[k] for k in ("method", "p", "q", "target"))
    figure.p = 0.1
    figure.q = 1.5
    assert state(figure) == ("Batch Bridgeout", 0.1, 1.5, EVERYTHING)
    figure.target = "75 % of kernels"
    assert state(figure) == ("Batch Bridgeout", 0.1, 1.5, "75 % of kernels")
    figure.p = 0.03
    assert state(figure) == ("Batch Bridgeout", 0.03, 1.5, EVERYTHING)
    figure.q = 1.0
    assert state(figure) == ("Batch Bridgeout", 0.01, 1.0, EVERYTHING)
    figure.p = 0.3
    assert state(figure) == ("Batch Bridgeout", 0.3, 2.0, EVERYTHING)
    figure.method = "dropout"
    assert state(figure) == ("dropout", 0.2, 2.0, EVERYTHING)  # by validation
    assert figure.controls["p"]["values"] == [0.05, 0.1, 0.2] and figure.controls["q"]["values"] == [2.0]
    figure.target = "75 % of kernels"  # not recorded of dropout, which stays
    assert state(figure) == ("dropout", 0.2, 2.0, EVERYTHING)
    figure.p = 0.1
    figure.method = "Batch Bridgeout"  # recorded at this p and q
    assert state(figure) == ("Batch Bridgeout", 0.1, 2.0, EVERYTHING)
    figure.method = "no noise"
    assert state(figure) == ("no noise", 0.0, 2.0, EVERYTHING) and figure.controls["p"]["values"] == [0.0]
    figure.study = SECOND_NAME
    figure.layer = 29
    figure.study = FIRST_NAME
    assert figure.layer == 8 and figure.controls["layer"]["values"] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_what_the_page_sends_is_taken_as_it_is(figure):
    """A click on the map moves method, p and q at once: no one of them may pull the others elsewhere."""
    sent = {"method": "dropout", "p": 0.05, "q": 2, "target": EVERYTHING}
    figure.set_state(sent)
    assert state(figure) == ("dropout", 0.05, 2.0, EVERYTHING)
    assert figure.controls["p"]["values"] == [0.05, 0.1, 0.2]


def test_a_figure_may_start_anywhere():
    figure = explorer(WHOLE, method="dropout", p=0.05, treatment="removed", amount=0.7, layer=2, overlay=False)
    assert state(figure) == ("dropout", 0.05, 2.0, EVERYTHING)
    assert (figure.treatment, figure.amount, figure.layer, figure.overlay) == ("removed", 0.7, 2, False)
    assert explorer(WHOLE, q=1.0).p == 0.01
    plain = explorer([made_up("none", 0.0, 2.0)])
    assert state(plain) == ("no noise", 0.0, 2.0, EVERYTHING) and "target" not in plain.controls


def test_studies_are_told_apart_by_what_differs():
    records = [*comparison(1), *comparison(1, epochs=30), *comparison(1, dataset="cifar100"), made_up(width=1.0)]
    figure = explorer([*records, Record({"dataset": "cifar10"}, {"layers": {}}, {})])
    assert list(unpack(figure)) == [
        "CIFAR-10, vgg11 × 0.25, 10 epochs",
        "CIFAR-10, vgg11 × 0.25, 30 epochs",
        "CIFAR-100, vgg11 × 0.25",
        "CIFAR-10, vgg11",
    ]
    figure.method = "dropout"
    figure.study = "CIFAR-10, vgg11"  # where it is not recorded
    assert state(figure) == ("Batch Bridgeout", 0.1, 1.5, EVERYTHING)
    short = [made_up("none", 0.0, 2.0, epochs=2), *comparison(1)]  # the richest study comes first
    assert explorer(short).study == "CIFAR-10, vgg11 × 0.25, 10 epochs"
    twice = explorer([made_up(), made_up()])
    assert unpack(twice)[FIRST_NAME]["settings"][0]["seeds"] == [0]


def spoilt(*path, value):
    """A record with the entry at the path replaced."""
    record = json.loads(json.dumps(dataclasses.asdict(made_up("dropout", 0.1, 2.0, seed=1))))
    part = record["metrics"]["pruning"]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return Record(**record)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], r"no recorded run with pruning curves.*comparisons\(records\).*results\(\"pruning-cifar10\"\)"),
        ([scratch(0.5)], "no recorded run with pruning curves"),
        (
            [spoilt("curves", "removed", "test", 2, value=math.nan)],
            "accuracy is not a finite number at dropout, 0.1, 2.0",
        ),
        ([spoilt("curves", "removed", "test", 2, value="much")], "accuracy is not a finite number at dropout"),
    ],
)
def test_records_that_cannot_be_shown_are_refused(records, message):
    with pytest.raises(ValueError, match=message) as error:
        explorer(records)
    assert "\n" not in str(error.value)


PLAIN = """
import json
import ipywidgets
from test_pruning_explorer import SECOND_NAME, SECOND, WHOLE, explorer

figure = explorer([*WHOLE, *SECOND])
rows = {child.description: child for child in figure.children if getattr(child, "description", "")}
view = next(child for child in figure.children if isinstance(child, ipywidgets.Image))
before = view.value
rows["method"].value = "dropout"
rows["drop probability p"].value = 0.05
rows["layer"].value = 3
states = [[figure.method, figure.p, figure.q, list(rows["exponent q"].options), figure.layer, view.value != before]]
rows["data set, network"].value = SECOND_NAME
states.append([figure.method, figure.p, figure.q, list(rows["exponent q"].options), figure.layer])
print(json.dumps([isinstance(figure, ipywidgets.VBox), "_esm" in figure.get_state(), *states]))
"""


def test_the_plain_view_keeps_to_recorded_settings():
    assert in_fresh_python(PLAIN, BRIDGEOUT_WIDGETS="plain") == [
        True,
        True,
        ["dropout", 0.05, 2.0, [2.0], 3, True],
        ["dropout", 0.05, 2.0, [2.0], 3],
    ]


# --- in the page ------------------------------------------------------------------------------------------------------


@pytest.mark.pages
def test_a_network_of_fewer_layers_keeps_to_its_own(opened, figure):
    page = opened(figure)
    for study, layer in ((SECOND_NAME, len(RESNET)), (FIRST_NAME, len(VGG))):
        page.select_option("select[name=study]", study)
        figure.study = study
        agree(page, figure)
        page.locator("input[name=layer]").press("End")
        figure.layer = layer
        agree(page, figure)
    page.select_option("select[name=study]", SECOND_NAME)
    page.locator("input[name=layer]").press("End")
    page.select_option("select[name=study]", FIRST_NAME)
    agree(page, figure)


@pytest.mark.pages
def test_every_recorded_setting_can_be_reached(opened, figure):
    """A click on its cell of the map goes there; the cells show the means."""
    page = opened(figure)
    entries = unpack(figure)[FIRST_NAME]["settings"]
    for treatment in ("zeroed", "removed, fine-tuned"):
        page.select_option("select[name=treatment]", treatment)
        figure.treatment = treatment
        agree(page, figure)
        shown = page.locator(".sbn-heat .sbn-value").all_text_contents()
        for entry, text in zip(entries, shown, strict=True):
            lists = entry["curves"][treatment]
            known = figure.amount in lists["amount"]
            means = [np.mean(values) for values in lists["test"]]
            assert text == (f"{means[lists['amount'].index(figure.amount)]:.1f}" if known else "–")
    chosen = set(unpack(figure)[FIRST_NAME]["chosen"]["removed, recalibrated"].values())
    best = page.locator(".sbn-heat .sbn-value").evaluate_all("(all) => all.map((n) => n.matches('.sbn-best'))")
    assert {k for k, one in enumerate(best) if one} == {k for k in chosen if entries[k]["p"]}
    for k in (9, 0, 8, 1, 5):
        page.locator(".sbn-heat .sbn-cell").nth(k).click()
        for name in ("method", "p", "q", "target"):
            setattr(figure, name, entries[k][name])
        agree(page, figure)
        assert state(figure) == tuple(entries[k][name] for name in ("method", "p", "q", "target"))


@pytest.mark.pages
def test_the_drawing_thins_out(opened, figure):
    page = opened(figure)

    def heights(style):
        return page.locator(f".sbn-network .{style}").evaluate_all("(all) => all.map((n) => +n.getAttribute('height'))")

    for _ in range(4):
        figure.amount = figure.controls["amount"]["values"][
            figure.controls["amount"]["values"].index(figure.amount) + 1
        ]
        page.locator("input[name=amount]").press("ArrowRight")
        agree(page, figure)
        left = [n - int(n * figure.amount) for n in VGG.values()]
        assert page.locator(".sbn-network .sbn-word").all_text_contents() == [str(n) for n in left]
        ratios = np.array(heights("sbn-kept")) / heights("sbn-whole")
        assert ratios == pytest.approx([n / whole for n, whole in zip(left, VGG.values(), strict=True)], abs=0.02)
        assert f"{sum(left)} of 688 filters" in page.locator(".sbn-network .sbn-title").text_content()
    assert figure.amount == 0.7 and page.locator(".sbn-network .sbn-zeroed").count() == 8
    gauges = page.locator(".sbn-gauges b")
    assert gauges.all_text_contents() == [f"{100 * sum(left) / 688:.0f} %", "100 %", "100 %", "100 %"]
    page.select_option("select[name=treatment]", "removed")
    figure.treatment = "removed"
    agree(page, figure)
    shares = [figure.numbers()[k] / v for k, v in (("filters", 688), ("parameters", 0.579786), ("macs", 9.880832))]
    shares.append(figure.numbers()["latency"] / 100)
    assert gauges.all_text_contents() == [f"{100 * share:.0f} %" for share in shares]
    assert page.locator(".sbn-network .sbn-zeroed").count() == 0
    page.locator(".sbn-network .sbn-kept").nth(1).click()  # a layer's box chooses it
    figure.layer = 2
    agree(page, figure)
    page.get_by_text("conv2: 22 of 32 filters fall").wait_for()


@pytest.mark.pages
def test_the_norms_are_cut_where_filters_fall(opened, figure):
    page = opened(figure)
    hidden, words = page.locator(".sbn-cut.sbn-hidden"), page.locator(".sbn-captioned").nth(2).locator("p")
    runs = of(WHOLE, *state(figure)[:3])
    sizes = np.mean([run.metrics["pruning"]["filters"]["conv5"] for run in runs], axis=0)
    text = page.locator(".sbn-captioned").nth(2).locator(".sbn-word").text_content()
    assert float(text.removeprefix("cut below ")) == pytest.approx(sizes[38], abs=sizes[-1] / 255)
    assert hidden.count() == 0 and "set to zero" in words.text_content()
    for study, treatment, layer, seen, why in [
        (FIRST_NAME, "random: zeroed", 5, False, "picked at random"),
        (FIRST_NAME, "folded: removed, recalibrated", 5, False, "another norm"),
        (FIRST_NAME, "removed", 5, True, "removed, with all that only serves them"),
        (SECOND_NAME, "removed", 29, False, "An addition ties"),
        (SECOND_NAME, "zeroed", 29, True, "set to zero"),
        (SECOND_NAME, "removed", 28, True, "removed, with all"),
    ]:
        for name, value in (("study", study), ("treatment", treatment)):
            page.select_option(f"select[name={name}]", value)
            setattr(figure, name, value)
        slider = page.locator("input[name=layer]")
        slider.fill(str(layer - 1))
        figure.layer = layer
        agree(page, figure)
        assert (hidden.count() == 0) == seen and why in words.text_content()
        split = page.locator(".sbn-falling").get_attribute("d")
        assert bool(split) == seen


@pytest.mark.pages
def test_curves_beside_the_present_one(opened, figure):
    page = opened(figure)
    rows = page.locator(".sbn-legend li")
    assert rows.all_text_contents()[1:] == [
        "no noise (3 seeds)",
        "dropout p = 0.2 (3 seeds)",
        "published: zeroed, vgg16, Batch Bridgeout",
    ]
    lines = page.locator(".sbn-beside[d]:not([d='']):is(path)")
    assert lines.count() == 2
    assert len(page.locator(".sbn-paper:is(path)").get_attribute("d").split("L")) == 8
    page.locator("input[name=overlay]").uncheck()
    page.wait_for_function("!document.querySelector('path.sbn-paper').getAttribute('d')")
    assert rows.count() == 3
    page.select_option("select[name=beside]", "other treatments")
    page.select_option("select[name=treatment]", "removed")
    page.wait_for_function("document.querySelectorAll('.sbn-legend li').length === 6")
    assert rows.all_text_contents() == [
        "removed",
        "zeroed",
        "zeroed, recalibrated",
        "removed, recalibrated",
        "removed, fine-tuned",
        "as small from the start, trained as long",
    ]
    at = page.locator(".sbn-scratch").evaluate_all("(all) => all.map((n) => +n.getAttribute('cy'))")
    assert len(at) == 2 and at == pytest.approx([166 * (1 - 0.71)] * 2, abs=0.06)
    page.locator("input[name=overlay]").check()
    page.wait_for_function("document.querySelector('path.sbn-paper').getAttribute('d')")


@pytest.mark.pages
def test_what_is_not_recorded_is_said(opened, figure):
    page = opened(figure)
    note = page.locator(".sbn-note")
    assert note.text_content() == ""
    page.select_option("select[name=treatment]", "removed, fine-tuned")
    page.wait_for_function("document.querySelector('.sbn-note').textContent")
    assert note.text_content() == "removed, fine-tuned is recorded at 50 %, 70 % only, not at 30 %."
    page.select_option("select[name=method]", "no noise")
    for name in ("p", "q"):
        assert page.locator(f"input[name={name}]").is_disabled()
    assert page.locator("select[name=target] option").evaluate_all("(all) => all.map((o) => o.disabled)") == [
        False,
        True,
    ]
    page.select_option("select[name=method]", "Batch Bridgeout")
    assert page.locator("input[name=p]").is_enabled()


@pytest.mark.pages
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.clear(), "it holds no recorded run"),
        (lambda s: s[FIRST_NAME].update(settings=[]), "its data do not fit together"),
        (lambda s: s[FIRST_NAME].pop("costs"), "its data do not fit together"),
        (lambda s: s[FIRST_NAME].pop("chosen"), "its data do not fit together"),
        (lambda s: s[FIRST_NAME]["layers"].pop(), "its data do not fit together"),
        (lambda s: s[FIRST_NAME]["costs"]["latency"].pop(), "its data do not fit together"),
        (lambda s: s[FIRST_NAME]["settings"][2].update(norms="§"), "its data are damaged"),
        (lambda s: s[FIRST_NAME]["settings"][2]["tops"].pop(), "its data do not fit together"),
        (lambda s: s[FIRST_NAME]["settings"][2]["curves"]["zeroed"]["test"].pop(), "its data do not fit together"),
        (
            lambda s: s[FIRST_NAME]["settings"][2]["curves"]["zeroed"]["test"][1].append(None),
            "a recorded number is missing",
        ),
        (lambda s: s[FIRST_NAME]["costs"].update(macs=[None] * 8), "a recorded number is missing"),
        (None, "its data are damaged"),
    ],
)
def test_spoilt_data_is_told_in_the_figures_place(browser, tmp_path, spoil, message):
    figure = explorer(WHOLE)
    if spoil is None:
        figure.packed = figure.packed[:500]
    else:
        studies = unpack(figure)
        spoil(studies)
        figure.packed = zlib.compress(json.dumps(studies).encode())
    text = told(browser, figure, tmp_path)
    assert message in text and "cannot be drawn" in text
