"""Learn while you drag: the gradient against the package, the page against Python, the controls, bad data."""

import base64

import numpy as np
import pytest
import torch
import traitlets
from browser import still_page, told, visit
from gallery import GALLERY, agree

import bridgeout_lite as bl
from bridgeout_lite import noise
from bridgeout_lite.widgets import learn
from bridgeout_lite.widgets.learn import METHODS, LearnWhileYouDrag

BRIDGEOUT, SPARSEOUT = METHODS
SETTINGS = [(m, p, q) for m in METHODS for p in (0.05, 0.2, 0.6) for q in (0.5, 0.8, 1.0, 1.5, 2.0, 2.3, 3.0)]
names = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def page(browser):
    """A page with the figure's functions in ``figure`` and its rows in ``data``."""
    page, figure = browser.new_context().new_page(), LearnWhileYouDrag()
    page.evaluate(
        """async ([code, table, features, train]) => {
            const blob = new Blob([code], {type: "text/javascript"});
            window.figure = await import(URL.createObjectURL(blob));
            const bytes = Uint8Array.from(atob(table), (c) => c.charCodeAt(0));
            window.data = figure.unpack(new DataView(bytes.buffer), features, train);
        }""",
        [figure._esm, base64.b64encode(figure.table).decode(), figure.features, figure.train],
    )
    yield page
    page.context.close()


# --- Python -----------------------------------------------------------------------------------------------------------


def test_the_table_is_the_bundled_data_standardised_on_the_training_rows():
    from sklearn.datasets import load_diabetes

    figure, raw = LearnWhileYouDrag(), load_diabetes()
    x, y, more_x, more_y = figure.rows()
    assert x.shape == (100, 19) and more_x.shape == (342, 19) and len(figure.features) == 19
    for column in (*x.T, y):
        assert abs(column.mean()) < 1e-6 and abs(column.std() - 1) < 1e-6
    bmi, all_bmi = raw.data[:, 2], np.concatenate([x, more_x])[:, figure.features.index("bmi")]
    assert np.allclose(
        np.sort(all_bmi), np.sort((bmi - bmi.mean()) / bmi.std()) * all_bmi.std() + all_bmi.mean(), atol=1e-5
    )
    square = x[:, figure.features.index("bmi²")]
    assert np.allclose(square, (x[:, 2] ** 2 - 1) / (x[:, 2] ** 2).std(), atol=1e-5)
    targets = np.concatenate([y, more_y])
    assert np.allclose(
        np.sort(targets),
        np.sort((raw.target - raw.target.mean()) / raw.target.std()) * targets.std() + targets.mean(),
        atol=1e-5,
    )


@names
@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_the_gradient_is_that_of_the_package(monkeypatch, method, q):
    rng, p = np.random.default_rng(0), 0.3
    x, y, w = rng.normal(size=(16, 19)), rng.normal(size=16), rng.normal(size=19)
    w[:3] = 0.0, 1e-9, -1e-9  # at zero, and below the floor of the slope
    keep = rng.random(x.shape if method == SPARSEOUT else w.shape) >= p
    monkeypatch.setattr(noise, "keep_mask", lambda *_: torch.tensor(keep.ravel(), dtype=torch.uint8))
    weights = torch.tensor(w, requires_grad=True)
    if method == SPARSEOUT:
        prediction = bl.sparseout(torch.tensor(x), p, q) @ weights
    else:
        prediction = torch.tensor(x) @ bl.bridgeout(weights, p, q)
    ((prediction - torch.tensor(y)).square().mean() / 2).backward()
    assert np.allclose(learn.noisy_gradient(x, y, w, keep, method, p, q), weights.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method, p, q", SETTINGS)
def test_the_solution_is_stationary_for_the_loss_plus_the_penalty(method, p, q):
    figure = LearnWhileYouDrag(method=method, p=p, q=q)
    x, y, _, _ = map(torch.tensor, figure.rows())
    w = torch.tensor(figure.ghost(), requires_grad=True)
    place = "features" if method == SPARSEOUT else "weights"
    loss = (x @ w - y).square().mean() / 2
    (data,) = torch.autograd.grad(loss, w)
    (penalty,) = torch.autograd.grad(bl.theory.lq_penalty(x, w, p, q, noise_on=place), w)
    off = w.detach().abs() > 1e-6  # below, the slope of |w|^q changes within the rounding of w
    assert (data + penalty)[off].abs().max().item() < 1e-6 if off.any() else q <= 1
    if q == 1 and method == BRIDGEOUT:  # a weight rests at zero while the data pull no harder than the penalty
        assert (data[~off].abs() <= p / (1 - p) / 2 * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    "table, message",
    [
        (b"", "0 bytes"),
        (b"\0\0", "2 bytes"),
        (np.full((442, 20), np.nan, "<f4").tobytes(), "finite"),
    ],
)
def test_python_refuses_a_table_that_it_cannot_show(table, message):
    figure = LearnWhileYouDrag()
    before = figure.table
    with pytest.raises((ValueError, traitlets.TraitError), match=message):
        figure.table = table
    assert figure.table == before


def test_the_stand_in_shows_learning_beside_the_solution():
    import matplotlib.pyplot as plt

    figure = LearnWhileYouDrag(p=0.3, q=2.0)
    picture = figure.picture()
    bars = [bar.get_height() for bar in picture.axes[0].patches]
    plt.close(picture)
    assert np.allclose(bars[19:], figure.ghost()) and np.abs(np.subtract(bars[:19], figure.ghost())).max() < 0.1


# --- the page against Python ------------------------------------------------------------------------------------------

TRAIN = """([method, p, q, rate, seed, steps]) => {
    const learner = new figure.Learner(data, seed);
    for (let k = 0; k < steps; k++) learner.step(method, p, q, rate);
    return [[...learner.w], [...learner.average]];
}"""


@pytest.mark.pages
def test_the_page_trains_as_python_trains(page):
    """100 steps, within 1e-4. Bridgeout below q = 2 is chaotic near zero: the last bit of a power grows from step to
    step, the faster the larger p is. The worst of these settings are left to the next test."""
    settings = [s for s in SETTINGS if s[0] == SPARSEOUT or s[2] >= 1.5 or s[1] == 0.05 or (s[1] == 0.2 and s[2] == 1)]
    assert any(m == BRIDGEOUT and q < 1 for m, _, q in settings)
    for method, p, q in settings:
        for seed in (0, 1):
            figure = LearnWhileYouDrag(method=method, p=p, q=q, seed=seed)
            there = page.evaluate(TRAIN, [method, p, q, figure.rate, seed, 100])
            for here, ours in zip(there, figure.run(100), strict=True):
                assert np.abs(np.subtract(here, ours)).max() < 1e-4, (method, p, q, seed)
            assert np.abs(ours).max() > 0.005  # it moved


@pytest.mark.pages
@pytest.mark.parametrize("p, q", [(0.2, 0.5), (0.6, 0.5), (0.7, 0.7), (0.6, 1.0), (0.7, 1.2)])
def test_every_step_of_the_page_is_the_step_of_python(page, p, q):
    """100 steps, each from Python's weights, so that chaos has one step to grow: relative difference below 1e-8."""
    figure = LearnWhileYouDrag(p=p, q=q)
    path = [figure.run(k)[0] for k in range(101)]
    there = page.evaluate(
        """([path, p, q, rate]) => {
            const learner = new figure.Learner(data, 0);
            return path.map((w) => {
                learner.w.set(w);
                learner.step(figure.WEIGHTS, p, q, rate);
                return [...learner.w];
            });
        }""",
        [[w.tolist() for w in path[:-1]], p, q, figure.rate],
    )
    assert np.allclose(there, path[1:], rtol=1e-8, atol=1e-10)


@pytest.mark.pages
def test_the_page_solves_as_python_solves(page):
    there = page.evaluate(
        "(settings) => settings.map(([m, p, q]) => [...figure.ghost(data, m, p, q)])", [list(s) for s in SETTINGS]
    )
    for w, (method, p, q) in zip(there, SETTINGS, strict=True):
        ours = LearnWhileYouDrag(method=method, p=p, q=q).ghost()
        assert np.abs(w - ours).max() < 1e-6, (method, p, q)
        assert q > 1 or ((np.array(w) == 0) == (ours == 0)).all(), (method, p, q)


@pytest.mark.pages
@pytest.mark.parametrize(
    "method, p, q, band",
    # The largest of 40 seeds was below 0.014. At q = 1 the largest of 100 was 0.064, but a rare hard kick near zero can
    # throw a run to 0.2, and which run it is may change with the last bit of a power: hence the median of seven.
    [
        (SPARSEOUT, 0.3, 1.0, 0.05),
        (SPARSEOUT, 0.3, 3.0, 0.05),
        (BRIDGEOUT, 0.3, 2.0, 0.05),
        (BRIDGEOUT, 0.3, 1.5, 0.05),
        (BRIDGEOUT, 0.2, 1.0, 0.12),
    ],
)
def test_learning_ends_near_the_solution(page, method, p, q, band):
    figure = LearnWhileYouDrag(method=method, p=p, q=q)
    runs = [page.evaluate(TRAIN, [method, p, q, figure.rate, seed, 20_000])[1] for seed in range(7)]
    distance = np.median(np.linalg.norm(np.array(runs) - figure.ghost(), axis=1))
    assert distance < band < 0.3 < np.linalg.norm(figure.ghost())


# --- in the page ------------------------------------------------------------------------------------------------------


def readout(page, name):
    return float(page.locator(f'.sbn data[data-name="{name}"]').get_attribute("value"))


def press(page, name, key="Enter"):
    page.get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press(key)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def agrees(page, figure):
    """The readout is that of Python for these controls, and the outlines stand where its weights are."""
    agree(page, figure, GALLERY["LearnWhileYouDrag"].live)
    heights = page.locator(".sbn-ghost").evaluate_all("(list) => list.map((box) => +box.getAttribute('height'))")
    scale = 166 / 0.95  # units of the picture in one unit of weight
    assert np.abs(np.array(heights) / scale - np.abs(figure.ghost())).max() < 0.001


@pytest.mark.pages
def test_it_learns_by_itself_and_the_keyboard_holds_it(browser, tmp_path):
    figure = LearnWhileYouDrag(p=0.3, q=2.0)
    page, refused, complaints = visit(browser, still_page(figure, folder=tmp_path))
    start = np.linalg.norm(figure.ghost())
    page.wait_for_function("+document.querySelector('.sbn data[data-name=distance]').value < 0.1", timeout=120_000)
    assert start > 0.3 and readout(page, "steps") > 0
    assert abs(readout(page, "train") - figure.numbers()["ghost_train"]) < 0.05

    press(page, "Pause")
    held = readout(page, "steps")
    page.wait_for_timeout(200)
    assert readout(page, "steps") == held
    press(page, "100 steps", " ")
    assert readout(page, "steps") == held + 100
    press(page, "Restart")
    assert readout(page, "steps") == 0 and np.isclose(readout(page, "distance"), start)
    press(page, "Run")
    page.wait_for_function("+document.querySelector('.sbn data[data-name=steps]').value > 0")
    assert refused == [] and complaints == []
    page.context.close()


@pytest.mark.pages
def test_with_reduced_motion_it_waits_and_follows_the_python_run(browser, tmp_path):
    figure = LearnWhileYouDrag(p=0.3, q=1.5)
    page, refused, complaints = visit(browser, still_page(figure, folder=tmp_path), reduced_motion="reduce")
    page.wait_for_timeout(200)
    assert readout(page, "steps") == 0
    assert "Run or steps move it" in page.locator(".sbn-readout").inner_text()
    page.wait_for_function("document.querySelector('.sbn-live').textContent.includes('paused')")

    def agrees_after(steps):
        weights, average = figure.run(steps)
        assert readout(page, "steps") == steps
        assert np.isclose(readout(page, "distance"), np.linalg.norm(average - figure.ghost()), atol=1e-4)
        x, y, more_x, more_y = figure.rows()
        for name, a, b in (("train", x, y), ("held_out", more_x, more_y)):
            assert np.isclose(readout(page, name), ((a @ average - b) ** 2).mean() / 2, atol=1e-4)
        dots = page.locator(".sbn-now").evaluate_all("(list) => list.map((dot) => +dot.getAttribute('cy'))")
        assert np.abs(0.5 - np.array(dots) * 0.95 / 166 - weights).max() < 0.001

    agrees(page, figure)
    agrees_after(0)
    for steps in (100, 200):
        press(page, "100 steps")
        agrees_after(steps)
    page.locator("input[name=seed]").focus()
    page.keyboard.press("ArrowRight")  # another seed starts again
    figure.seed = 1
    agrees(page, figure)
    agrees_after(0)
    press(page, "100 steps")
    agrees_after(100)

    press(page, "Below one")
    for key, value in figure.presets["Below one"].items():
        setattr(figure, key, value)
    agrees(page, figure)
    assert readout(page, "steps") == 100  # the controls move the aim; learning goes on from where it is
    assert refused == [] and complaints == []
    page.context.close()


# --- bad data ---------------------------------------------------------------------------------------------------------


@pytest.mark.pages
@pytest.mark.parametrize(
    "table, message",
    [
        (b"", "table of patients is missing"),
        (LearnWhileYouDrag().table[:-4], "does not divide into rows of 19 features"),
        (np.full((442, 20), np.nan, "<f4").tobytes(), "not finite"),
        (np.ones((442, 20), "<f4").tobytes(), "linearly dependent"),
    ],
)
def test_a_spoilt_table_is_told_in_one_line(browser, tmp_path, table, message):
    figure = LearnWhileYouDrag()
    figure._trait_values["table"] = table  # past the checks of Python
    text = told(browser, figure, tmp_path)
    assert message in text and "cannot be drawn" in text and "\n" not in text
