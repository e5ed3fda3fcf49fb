"""The in-page figure of the arena: what it gets and says against the frame, and the figure in a browser."""

import math

import gallery
import numpy as np
import pandas as pd
import pytest
from browser import module, still_page, visit, weight
from scipy import stats

import bridgeout_lite as bl
from bridgeout_lite.stats import pareto_front
from bridgeout_lite.studies import arena
from bridgeout_lite.studies.arena import LABELS, TREATMENTS
from bridgeout_lite.widgets.arena import STYLES, Arena

METHODS = ("none", "dropout", "dropconnect", "sparseout", "bridgeout", "targeted", "l0-gates", "l1", "group-lasso")
METHODS += ("sgl-l1", "sgl-l0", "sgl-tl1", "sgl-l1l2", "sgl-scad", "oicsr", "feature-flow", "l1-norm", "random")
METHODS += ("scratch",)
AMOUNTS = (0.0, 0.3, 0.5, 0.7)
FAILED = {("resnet14", "l0-gates"): "every gate of a layer closed", "evolved": "no network of this kind"}


def made_up(seeds=3, amounts=AMOUNTS):
    """Runs of nineteen methods on two networks, made up. "scratch" is fine-tuned alone, the unpruned network is not
    fine-tuned, L0 gates fail on one network, "random" has one seed, two controls no latency."""
    rows = []
    for n, (network, macs) in enumerate((("vgg11", 9_880_832), ("resnet14", 7_300_000))):
        for m, method in enumerate(METHODS):
            for t, treatment in enumerate(TREATMENTS):
                if (network, method) in FAILED or (method, t) == ("scratch", 0):
                    continue
                for amount in amounts[t:]:
                    for seed in range(1 if method == "random" else seeds):
                        draws = np.random.default_rng([n, m, t, int(100 * amount), seed])
                        keep = (1 - amount) ** (1.7 if method == "oicsr" else 2)
                        rows.append(
                            {"network": network, "method": method, "label": f"the {method}", "treatment": treatment}
                            | {"amount": amount, "seed": seed, "setting": "-", "split": "test"}
                            | {"accuracy": 85 - 3 * n - 50 * amount ** (2 + 2 * t) + draws.normal(0, 2)}
                            | {"macs": round(macs * keep * (1 + 0.003 * draws.integers(6) * (amount > 0)))}
                            | {"parameters": round(580_000 * keep + draws.integers(9))}
                            | {"latency_share": math.nan if method in ("l1-norm", "scratch") else draws.uniform(0.2, 1)}
                        )
    return pd.DataFrame(rows)


FRAME = made_up()


@pytest.fixture
def figure():
    return Arena(FRAME, failures=FAILED, timed="batches of 128 on one thread")


def everywhere(figure):
    """Go through all networks, treatments and budgets."""
    for network in figure.controls["network"]["options"]:
        for treatment in figure.controls["treatment"]["options"]:
            for budget in figure.controls["budget"]["values"]:
                figure.network, figure.treatment, figure.budget = network, treatment, budget
                yield


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_ranking_is_of_the_frames_numbers(figure):
    whole = FRAME[FRAME["amount"] == 0].groupby("network")["macs"].max()
    for _ in everywhere(figure):
        rows = FRAME[(FRAME["network"] == figure.network) & (FRAME["treatment"] == figure.treatment)]
        ranking = figure.ranking().set_index("method")
        assert ranking["accuracy"].is_monotonic_decreasing
        for method, own in rows.groupby("method"):
            shares = 100 * own.groupby("amount")["macs"].mean() / whole[figure.network]
            within = shares[shares <= figure.budget]
            assert (method in ranking.index) == bool(len(within))
            if not len(within):
                continue
            row, runs = ranking.loc[method], own[own["amount"] == within.idxmax()]
            assert (row["amount"], row["n"], row["label"]) == (within.idxmax(), len(runs), f"the {method}")
            expected = [within.max(), runs["accuracy"].mean(), runs["macs"].mean(), runs["parameters"].mean()]
            found = row[["share", "accuracy", "macs", "parameters"]].tolist()
            assert found == pytest.approx(expected, rel=1e-6)
            latency = 100 * runs["latency_share"].median()
            assert row["latency"] == pytest.approx(latency, rel=1e-6, nan_ok=True)
            assert math.isnan(latency) == (method in ("l1-norm", "scratch"))
            if len(runs) > 1:
                sem = stats.sem(runs["accuracy"])
                interval = stats.t.interval(0.95, len(runs) - 1, runs["accuracy"].mean(), sem)
                assert (row["low"], row["high"]) == pytest.approx(interval, rel=1e-6)
            else:
                assert method == "random" and math.isnan(row["low"]) and math.isnan(row["high"])


def test_the_numbers_are_those_of_the_first(figure):
    first = figure.ranking().iloc[0]
    numbers = figure.numbers()
    assert numbers["methods"] == len(figure.ranking()) == 19 and numbers["front"] == len(figure.front())
    assert [numbers[k] for k in ("accuracy", "low", "high")] == [first[k] for k in ("accuracy", "low", "high")]
    figure.network, figure.budget = "resnet14", min(figure.controls["budget"]["values"])
    assert figure.numbers()["methods"] == len(figure.ranking()) < 19
    alone = Arena(FRAME[FRAME["method"] == "random"]).numbers()  # one seed
    assert alone.keys() == {"methods", "accuracy", "front"}


NOTHING = FRAME[(FRAME["network"] == "vgg11") | (FRAME["amount"] == 0)]
"""The ResNet as it was trained alone, so that small budgets leave nothing of it."""


def test_a_budget_may_leave_nothing():
    figure = Arena(NOTHING, network="resnet14", treatment=TREATMENTS[0])
    figure.budget = figure.controls["budget"]["values"][0]
    assert figure.numbers() == {"methods": 0, "front": len(figure.front())} and len(figure.front()) == 1
    assert len(figure.picture().axes) == 2
    figure.treatment = TREATMENTS[1]  # of which nothing is recorded
    assert figure.numbers() == {"methods": 0, "front": 0} and figure.picture() is not None


def test_the_front_is_of_what_is_shown(figure):
    rows = figure._points[(figure._points["network"] == "vgg11") & (figure._points["treatment"] == "fine-tuned")]

    def beaten(row, among):
        better = (among["share"] <= row["share"]) & (among["accuracy"] >= row["accuracy"])
        return (better & ((among["share"] < row["share"]) | (among["accuracy"] > row["accuracy"]))).any()

    for alone in (False, True):
        figure.alone = alone
        among = rows[rows["method"].isin(figure.chosen)] if alone else rows
        expected = among[[not beaten(row, among) for _, row in among.iterrows()]]
        assert set(figure.front().index) == set(expected.index) and 1 < len(expected) < len(among)
        assert figure.front()["share"].is_monotonic_increasing


def test_every_point_has_a_stop_just_above_it(figure):
    stops = np.array(figure.controls["budget"]["values"])
    assert figure.budget in stops and len(stops) < 12
    for share in figure._points["share"]:
        nearest = stops[stops >= share].min()
        assert nearest <= max(1.05 * share, share + 0.1) + 0.1


def test_the_order_of_methods_is_that_of_the_frame(figure):
    assert [key for key, _ in figure.methods] == [*METHODS, "evolved"]
    assert figure.failures == [[1, 6, FAILED["resnet14", "l0-gates"]]] + [
        [k, 19, "no network of this kind"] for k in (0, 1)
    ]
    assert dict(figure.methods)["evolved"] == "evolved"
    assert figure.chosen == ["bridgeout", "sparseout", "none", "scratch", "random"]
    assert Arena(FRAME.to_dict("records"), failures=FAILED).points == figure.points  # in any order of the rows
    alone = Arena(FRAME[FRAME["method"] == "oicsr"], failures={"l1": "it diverged"})
    assert alone.chosen == [] and alone.methods == [["oicsr", "the oicsr"], ["l1", LABELS["l1"]]]


def test_one_treatment_of_one_network_is_enough():
    figure = Arena(FRAME[(FRAME["network"] == "vgg11") & (FRAME["treatment"] == TREATMENTS[0])])
    assert figure.treatment == TREATMENTS[0] and figure.numbers()["methods"] == 18
    other = Arena(FRAME[FRAME["network"] == "vgg11"].assign(network="wrn-10-2"))
    assert other.networks == [["wrn-10-2", "wrn-10-2"]]


@pytest.mark.parametrize("alone", [False, True])
def test_the_picture_is_drawn(figure, alone):
    figure.alone, figure.treatment = alone, TREATMENTS[0]
    curves, ranks = figure.picture().axes
    assert curves.get_title() == "VGG: removed, recalibrated" and len(ranks.get_yticks()) == len(figure.ranking())
    assert len(curves.containers) == 4  # of the chosen five "scratch" is fine-tuned alone
    assert figure.picture() is not None


def test_five_seeds_at_eight_points_weigh_less_than_150_kb():
    assert weight(Arena(made_up(seeds=5, amounts=(0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)))) < 150_000


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "failures", "message"),
    [
        ([], None, "no column network, method, treatment, amount, seed, label, latency_share, accuracy"),
        (FRAME.iloc[:0], None, "the table has no row: give bridgeout_lite.studies.arena.standings"),
        (FRAME.drop(columns="macs"), None, "the table has no column macs: give bridgeout_lite.studies.arena.standings"),
        (
            FRAME[FRAME["treatment"] == "fine-tuned"].assign(treatment="zeroed"),
            None,
            "treatment must be one of 'removed, .*; the frame has 'zeroed'",
        ),
        (pd.concat([FRAME, FRAME.iloc[[7]]]), None, r"two rows are of one run \(vgg11, none, .*\): give each once"),
        (
            FRAME.assign(accuracy=math.nan),
            None,
            "accuracy is not a finite number at vgg11, none, .*: leave the run out",
        ),
        (
            FRAME.assign(macs=math.inf),
            None,
            "macs is not a finite number at vgg11, none, removed, recalibrated, 0.0, 0",
        ),
        (FRAME[FRAME["amount"] > 0], None, "no row of (vgg11|resnet14) has amount 0.0, the whole network"),
        (FRAME, {("vgg16", "l1"): "why"}, "a failure is of network 'vgg16'; the frame has vgg11, resnet14"),
    ],
)
def test_a_frame_that_cannot_be_shown_is_refused(frame, failures, message):
    with pytest.raises(ValueError, match=message) as error:
        Arena(frame, failures=failures)
    assert "\n" not in str(error.value)


# --- in the page ------------------------------------------------------------------------------------------------------


@pytest.mark.pages
def test_the_page_finds_the_front_and_the_order_that_python_finds(browser, figure):
    page = browser.new_context().new_page()
    module(page, "arena")
    for seed in range(20):
        draws = np.random.default_rng(seed)
        costs, scores = draws.integers(1, 9, (2, seed)).tolist()  # many of them equal
        assert page.evaluate("([c, s]) => figure.paretoFront(c, s)", [costs, scores]) == pareto_front(costs, scores)
    keys = [key for key, _ in figure.methods]
    for _ in everywhere(figure):
        network, treatment = (["vgg11", "resnet14"].index(figure.network), TREATMENTS.index(figure.treatment))
        own = [point for point in figure.points if (point[0], point[2]) == (network, treatment)]
        found = page.evaluate("([points, budget]) => figure.ranking(points, budget)", [own, figure.budget])
        ranking = figure.ranking()
        assert [keys[point[1]] for point in found] == ranking["method"].tolist()
        assert [point[3] for point in found] == ranking["amount"].tolist()
        assert [point[5] for point in found] == ranking["accuracy"].tolist()
    page.context.close()


ROWS = """() => {
    const value = (node) => (node ? (node.dataset.value === "null" ? NaN : +node.dataset.value) : null);
    return [...document.querySelectorAll(".sbn-ranks tbody tr")].map((row) => {
        const find = (selector) => row.querySelector(selector), check = find("input");
        return {
            name: find(".sbn-name").textContent,
            rank: find(".sbn-rank").textContent,
            cells: ["mean", "macs", "size", "time"].map((name) => value(find(`.sbn-${name}`))),
            ringed: !find(".sbn-ring").hidden,
            ticked: check.checked && check.name.slice(5),
        };
    });
}"""


def agree(page, figure):
    """The page's controls, numbers and table are those of Python."""
    gallery.agree(page, figure)
    rows = page.evaluate(ROWS)
    ranking = figure.ranking()
    assert len(rows) == len(figure.methods)
    front = figure.front()
    points = set(zip(front["method"], front["amount"], strict=True))
    for k, row in enumerate(ranking.to_dict("records")):
        seen = rows[k]
        numbers = [row[column] for column in ("accuracy", "macs", "parameters", "latency")]
        assert (seen["name"], seen["rank"]) == (row["label"], str(k + 1))
        assert seen["cells"] == pytest.approx(numbers, nan_ok=True)
        assert seen["ringed"] == ((row["method"], row["amount"]) in points)
    for seen in rows[len(ranking) :]:
        assert (seen["rank"], seen["cells"], seen["ringed"]) == ("–", [None] * 4, False)
    assert {seen["ticked"] for seen in rows} - {False} == {key for key in figure.chosen if key}


@pytest.mark.pages
def test_the_page_says_what_python_says(opened, figure):
    page = opened(figure)
    agree(page, figure)
    slider, stops = page.locator("input[name=budget]"), figure.controls["budget"]["values"]
    for network, name in figure.networks:
        page.get_by_label(name).check()
        for treatment in TREATMENTS:
            page.get_by_label(treatment, exact=True).check()
            slider.press("Home")
            figure.network, figure.treatment = network, treatment
            for place, budget in enumerate(stops):
                if place:
                    page.keyboard.press("ArrowRight")
                figure.budget = budget
                agree(page, figure)
    page.get_by_role("button", name="Reset").click()
    agree(page, Arena(FRAME, failures=FAILED))
    page.wait_for_function("document.querySelector('.sbn-live').textContent.startsWith('VGG, fine-tuned, budget ')")


@pytest.mark.pages
def test_a_budget_that_leaves_nothing_says_so(opened):
    figure = Arena(NOTHING, network="resnet14", treatment=TREATMENTS[0])
    page = opened(figure)
    page.locator("input[name=budget]").press("Home")
    figure.budget = figure.controls["budget"]["values"][0]
    agree(page, figure)
    assert (
        page.locator(".sbn-ranks caption").text_content()
        == f"No network is within {figure.budget} % of the multiply-adds."
    )
    page.get_by_label("fine-tuned", exact=True).check()
    figure.treatment = TREATMENTS[1]
    agree(page, figure)
    assert page.get_by_text("nothing is recorded here").count() == 1


@pytest.mark.pages
def test_radio_buttons_are_moved_by_arrows(opened, figure):
    page = opened(figure)
    page.locator("[name=network]:checked").focus()
    page.keyboard.press("ArrowRight")
    figure.network = "resnet14"
    agree(page, figure)
    page.locator("[name=treatment]:checked").focus()
    page.keyboard.press("ArrowLeft")
    figure.treatment = TREATMENTS[0]
    agree(page, figure)


def slots(page):
    """The colours that are given, by method."""
    find = "(all) => all.map((g) => [g.firstChild.textContent, +g.dataset.slot])"
    lines = page.locator(".sbn-method").evaluate_all(find)
    return {label.removeprefix("the "): slot for label, slot in lines if slot >= 0}


@pytest.mark.pages
def test_a_tick_gives_a_colour_and_takes_it_away(opened, figure):
    page = opened(figure)
    assert slots(page) == {"bridgeout": 0, "sparseout": 1, "none": 2, "scratch": 3, "random": 4}

    def press(key):
        page.locator(f'[name="show {key}"]').focus()
        page.keyboard.press("Space")
        assert page.evaluate("document.activeElement.name") == f"show {key}"

    press("none")
    figure.chosen = ["bridgeout", "sparseout", "", "scratch", "random"]
    agree(page, figure)
    press("oicsr")  # the colour that is free
    figure.chosen = ["bridgeout", "sparseout", "oicsr", "scratch", "random"]
    agree(page, figure)
    for key in ("l1", "targeted", "dropout"):
        press(key)
    figure.chosen = [*figure.chosen, "l1", "targeted", "dropout"]
    agree(page, figure)
    assert slots(page) == {key: k for k, key in enumerate(figure.chosen)} and len(slots(page)) == len(STYLES)
    assert page.locator(".sbn-ranks input:disabled").count() == len(figure.methods) - len(STYLES)
    # the coloured lines stand before the grey ones
    order = page.locator(".sbn-method").evaluate_all("(all) => all.map((g) => +g.dataset.slot >= 0)")
    assert order == sorted(order)
    page.locator(".sbn-methods li").get_by_text("the l1", exact=True).wait_for()
    point, taken = page.evaluate(
        """() => {
            const path = document.querySelector(".sbn-method[data-slot='0'] .sbn-hit");
            path.scrollIntoView({block: "center"});
            const at = path.getPointAtLength(0.4 * path.getTotalLength());
            const {x, y} = at.matrixTransform(path.getScreenCTM());
            return [[x, y], document.elementFromPoint(x, y).closest(".sbn-method").firstChild.textContent];
        }"""
    )
    page.mouse.click(*point)  # a click on a line is a tick
    figure.chosen = ["" if key == taken.removeprefix("the ") else key for key in figure.chosen]
    assert figure.chosen.count("") == 1
    agree(page, figure)


@pytest.mark.pages
def test_the_others_can_be_hidden(opened, figure):
    page = opened(figure)
    shown = "document.querySelectorAll('.sbn-method .sbn-way[d]:not([d=\"\"])').length"
    assert page.evaluate(shown) == 19
    page.get_by_role("button", name="Hide the others").click()
    figure.alone = True
    agree(page, figure)  # the front is that of those
    assert page.evaluate(shown) == 5
    assert page.get_by_role("button", name="Hide the others").get_attribute("aria-pressed") == "true"
    assert "the others" not in page.locator(".sbn-methods").text_content()
    for key in figure.chosen:
        page.locator(f'[name="show {key}"]').click()
    figure.chosen = [""] * 5
    agree(page, figure)
    assert page.get_by_text("choose a method in the table").count() == 1
    page.get_by_role("button", name="Reset").click()
    agree(page, Arena(FRAME, failures=FAILED))
    page.get_by_role("button", name="Colour the front").click()
    figure = Arena(FRAME, failures=FAILED)
    figure.chosen = list(dict.fromkeys(figure.front()["method"]))[-len(STYLES) :]
    agree(page, figure)


@pytest.mark.pages
def test_a_method_without_a_network_says_why(opened, figure):
    page = opened(figure)

    def why(label):
        row = page.locator(".sbn-ranks tr", has=page.get_by_text(f"{label}", exact=True))
        return row.locator(".sbn-why").text_content()

    assert why("evolved") == "failed: no network of this kind"
    page.get_by_label("removed, recalibrated").check()
    assert why("the scratch") == "not recorded: removed, recalibrated"
    page.get_by_label("ResNet").check()
    assert why("the l0-gates") == "failed: every gate of a layer closed"
    page.get_by_label("fine-tuned").check()
    page.locator("input[name=budget]").press("Home")
    shares = figure._points[(figure._points["network"] == "resnet14") & (figure._points["method"] == "oicsr")]["share"]
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert why("the oicsr") == f"smallest network: {shares.min():.3g} %"


@pytest.mark.pages
def test_seeds_and_intervals_are_told(opened, figure):
    page = opened(figure)
    caption = page.locator(".sbn-ranks caption")
    assert "95 % interval, 1 to 3 seeds" in caption.text_content()
    assert "Where intervals overlap, the order may be chance." in caption.text_content()
    row = page.locator(".sbn-ranks tr", has=page.get_by_text("the random", exact=True))
    assert row.locator("small").first.text_content() == "one seed"
    assert page.locator(".sbn-timed").text_content().endswith("of their shape; batches of 128 on one thread.")
    count = "(all) => all.map((n) => (n.getAttribute('d') || '').split('V').length - 1)"
    bars = page.locator(".sbn-interval").evaluate_all(count)
    assert sorted(bars)[-4:] == [3, 3, 3, 3] and sum(bars) == 12  # of the chosen; one seed has none
    few = opened(Arena(FRAME[FRAME["seed"] == 0]))
    assert "interval, one seed)" in few.locator(".sbn-ranks caption").text_content()


@pytest.mark.pages
@pytest.mark.parametrize("width", [320, 375, 700, 1280])
def test_the_table_fits_its_column(browser, tmp_path, figure, width):
    page, _, _ = visit(browser, still_page(figure, folder=tmp_path), viewport={"width": width, "height": 800})
    page.locator(".sbn data").first.wait_for(state="attached")
    sizes = "(s) => { const n = document.querySelector(s); return [n.scrollWidth, n.clientWidth]; }"
    for place in (".sbn-ranks", ".sbn", "html"):
        inside, room = page.evaluate(sizes, place)
        assert inside <= room, place
    page.context.close()


def test_recorded_rows_are_complete():
    rows = arena.standings(bl.notebook.results("arena"))
    figure = Arena(rows)
    for _ in everywhere(figure):
        ranking = figure.ranking()
        assert (ranking["n"] >= 3).all() and ranking[["accuracy", "macs", "parameters", "latency"]].notna().all().all()
    assert set(rows["network"]) == set(arena.NETWORKS) and set(rows["method"]) == set(arena.LABELS)
