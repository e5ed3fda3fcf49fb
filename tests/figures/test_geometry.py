"""Bridge geometry: the constrained solution in Python against brute force, the page against Python, exact zeros."""

import math

import numpy as np
import pytest
from browser import module, still_page, visit
from gallery import agree

from bridgeout_lite import theory
from bridgeout_lite.widgets.geometry import BridgeGeometry, constrained

Q = (0.5, 0.7, 0.95, 1.0, 1.05, 1.5, 2.0, 4.0)
R = (0.1, 0.45, 0.7, 1.0, 1.3)
# correlation and least squares: weak and strong, both signs, on an axis, on the diagonal (where two solutions tie)
PLACES = (
    *[(0.4, 1.2, 0.35), (0.4, 1.2, 0.9), (-0.6, 1.2, 0.35), (0.9, 1.2, -0.3), (-0.9, 0.3, 1.3), (0.0, -1.6, 0.8)],
    *[(0.0, 1.0, 0.0), (0.25, 0.0, -1.2), (0.4, 0.8, 0.8), (-0.3, -1.1, 1.1), (0.85, -0.5, -1.25), (0.1, 0.2, 0.05)],
)
TABLE = [(q, r, *place) for q in Q for r in R for place in PLACES]  # 480 points


def loss(w1, w2, rho, a1, a2):
    return ((w1 - a1) ** 2 + (w2 - a2) ** 2) / 2 + rho * (w1 - a1) * (w2 - a2)


# --- the solution -----------------------------------------------------------------------------------------------------


def test_no_point_of_the_ball_is_better():
    angles = np.linspace(0, 2 * np.pi, 40001)
    inside = np.linspace(0, 1, 21)[1:, None]
    for q, r, rho, a1, a2 in TABLE[::3]:
        best = constrained(q, r, rho, a1, a2)
        assert abs(best.w1) ** q + abs(best.w2) ** q <= r**q * (1 + 1e-9)
        w1, w2 = (r * np.sign(f) * np.abs(f) ** (2 / q) for f in (np.cos(angles), np.sin(angles)))
        others = loss(inside * w1[::10], inside * w2[::10], rho, a1, a2).min(), loss(w1, w2, rho, a1, a2).min()
        assert best.loss <= min(others) + 1e-12, (q, r, rho, a1, a2)
        assert best.loss == pytest.approx(loss(best.w1, best.w2, rho, a1, a2), abs=1e-12)


@pytest.mark.parametrize("q", [q for q in Q if q >= 1])
def test_the_penalised_problem_has_the_same_solution(q):
    """Each weight solves its own one-dimensional problem with that penalty, which makes it the minimum for q >= 1."""
    for r in R:
        for rho, a1, a2 in PLACES:
            w1, w2, _, penalty = constrained(q, r, rho, a1, a2)
            z = a1 - rho * (w2 - a2), a2 - rho * (w1 - a1)
            assert penalty >= 0
            for weight, one in zip((w1, w2), z, strict=True):
                assert theory.bridge_prox(one, penalty, q) == pytest.approx(weight, abs=2e-7), (r, rho, a1, a2)


def test_the_drop_probability_is_that_of_ridge():
    """q = 2 has a closed form: w = (G + 2 lambda)^-1 G a with lambda = p/(1-p)/2."""
    figure = BridgeGeometry(q=2.0)
    shown = figure.numbers()
    odds = shown["drop_probability"] / (1 - shown["drop_probability"])
    gram = np.array([[1, figure.rho], [figure.rho, 1]])
    w = np.linalg.solve(gram + odds * np.eye(2), gram @ [figure.a1, figure.a2])
    assert np.allclose(w, [shown["w1"], shown["w2"]], atol=1e-10)
    assert "drop_probability" not in BridgeGeometry(q=0.5).numbers()
    inside = BridgeGeometry(q=2.0, a1=0.1, a2=0.1).numbers()
    assert list(inside.values()) == [0.1, 0.1, 0, 0, 0]


def test_a_weight_is_exactly_zero_up_to_q_1_and_never_above():
    qs = np.linspace(0.5, 4, 71)
    w2 = np.array([BridgeGeometry(q=q).numbers()["w2"] for q in qs])
    assert (w2[qs <= 1] == 0).all() and (w2[qs > 1] > 0).all()
    generic = [place for place in PLACES if 0 not in place]
    for q, r, rho, a1, a2 in TABLE:
        if q > 1 and (rho, a1, a2) in generic:
            solution = constrained(q, r, rho, a1, a2)
            assert solution.w1 != 0 and solution.w2 != 0, (q, r, rho, a1, a2)
    # lasso: w2 = 0 as long as its pull |G(a - w)|_2 at the corner (r, 0) is at most that of w1
    for r in R:
        for rho, a1, a2 in PLACES:
            pull = a1 - r + rho * a2, a2 + rho * (a1 - r)
            if abs(pull[0] - abs(pull[1])) > 1e-9 and abs(a1) + abs(a2) > r:
                solution = constrained(1.0, r, rho, a1, a2)
                assert (solution[:2] == (r, 0)) == (pull[0] > abs(pull[1])), (r, rho, a1, a2)


def test_below_q_1_the_solution_jumps():
    w2 = np.array([BridgeGeometry(q=q, r=1.0, a2=0.9).numbers()["w2"] for q in np.linspace(0.5, 1, 51)])
    (k,) = np.flatnonzero(np.abs(np.diff(w2)) > 0.1)
    assert (w2[: k + 1] == 0).all() and (w2[k + 1 :] > 0.1).all()


# --- the page computes what the package computes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(browser):
    page = browser.new_context().new_page()
    module(page, "geometry")
    yield page
    page.context.close()


@pytest.mark.pages
def test_the_page_finds_the_same_solution(bundle):
    rows = bundle.evaluate(
        """(table) => table.map(([q, r, rho, a1, a2]) => {
            const { w1, w2, loss, lambda } = figure.constrained({ q, r, rho, a1, a2 });
            return [w1, w2, loss, lambda];
        })""",
        TABLE,
    )
    assert len(rows) == len(TABLE) == 480
    for place, row in zip(TABLE, rows, strict=True):
        ours = constrained(*place)
        assert all(math.isclose(*pair, rel_tol=1e-7, abs_tol=1e-14) for pair in zip(row, ours, strict=True)), place
        assert [w == 0 for w in row[:2]] == [w == 0 for w in ours[:2]], place


@pytest.mark.pages
@pytest.mark.parametrize("q, rho", [(0.5, 0.4), (0.8, -0.6), (1.0, 0.4), (1.0, -0.9)])
def test_shaded_are_the_least_squares_that_lead_to_a_zero(bundle, q, rho):
    r, reach = 0.7, 1.5
    box = [[-reach, -reach], [reach, -reach], [reach, reach], [-reach, reach]]
    points = np.random.default_rng(0).uniform(-reach, reach, (200, 2))
    for k, corner in enumerate(([r, 0], [0, r])):
        zone = bundle.evaluate(
            "([c, q, r, rho, box]) => figure.cell(c, figure.ball(q, r), rho, box)", [corner, q, r, rho, box]
        )
        # the zone is convex and runs anticlockwise: a point is inside if it is on the left of every side
        sides = np.roll(zone, -1, axis=0) - zone
        length = np.hypot(*sides.T)
        away = points[:, None] - np.array(zone)
        left = (sides[:, 0] * away[..., 1] - sides[:, 1] * away[..., 0]) / np.maximum(length, 1e-9)
        depth = left[:, length > 1e-6].min(1)
        clear = np.abs(depth) > 2e-3  # a fraction of a pixel
        exact = [tuple(constrained(q, r, rho, *point)[:2]) == tuple(corner) for point in points]
        assert clear.sum() > 180 and 10 < sum(exact) < 190, k
        assert ((depth > 0) == exact)[clear].all(), k


# --- in the page ------------------------------------------------------------------------------------------------------


@pytest.mark.pages
def test_a_click_moves_least_squares_there(opened):
    figure = BridgeGeometry()
    page = opened(figure)
    page.get_by_role("button", name="Lasso, q = 1").click()
    page.wait_for_function("document.querySelector('[aria-live=polite]').textContent.includes('w2 is exactly zero')")
    # in the middle of the plane, three quarters up: least squares at 0 and 0.7
    box = page.locator(".sbn-sheet").nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    figure.q, figure.a1, figure.a2 = 1.0, 0.0, 0.7
    agree(page, figure)
    assert [float(page.locator(f"input[name={key}]").input_value()) for key in ("a1", "a2")] == [0.0, 0.7]


@pytest.mark.pages
def test_both_axes_have_one_scale(browser, tmp_path):
    page, _, _ = visit(browser, still_page(BridgeGeometry(), folder=tmp_path))  # q = 2: the ball is a circle
    box = page.evaluate("(({width, height}) => [width, height])(document.querySelector('.sbn-ball').getBBox())")
    assert box[0] == pytest.approx(box[1], rel=0.005) and box[0] > 100
    page.context.close()


@pytest.mark.pages
def test_play_walks_down_and_stops_and_a_calm_reader_steps(browser, tmp_path):
    address = still_page(BridgeGeometry(), folder=tmp_path)
    page, _, complaints = visit(browser, address)
    slider = page.locator("input[name=q]")
    page.wait_for_timeout(300)
    assert slider.input_value() == "2"  # nothing moves by itself
    page.get_by_role("button", name="Play q down").click()
    page.wait_for_function("+document.querySelector('input[name=q]').value <= 1.8")
    page.get_by_role("button", name="Pause").click()
    held = slider.input_value()
    page.wait_for_timeout(300)
    assert slider.input_value() == held and 0.5 < float(held) < 2
    page.get_by_role("button", name="Play q down").click()
    page.get_by_role("button", name="Lasso, q = 1").click()  # whoever takes the slider stops the play
    page.get_by_role("button", name="Play q down").wait_for()
    page.wait_for_timeout(200)
    assert slider.input_value() == "1"
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Play q down").click()
    page.wait_for_function("+document.querySelector('input[name=q]').value === 0.5")
    page.get_by_role("button", name="Play q down").wait_for()  # it has stopped
    page.wait_for_timeout(200)
    assert slider.input_value() == "0.5" and complaints == []
    page.context.close()

    page, _, complaints = visit(browser, address, reduced_motion="reduce")
    stops = []
    for _ in range(5):
        page.get_by_role("button", name="Step q down").click()
        page.wait_for_timeout(100)
        stops.append(float(page.locator("input[name=q]").input_value()))
    assert stops == [1.5, 1.0, 0.5, 4.0, 2.0] and complaints == []
    page.context.close()


def test_the_stand_in_shows_the_solution():
    figure = BridgeGeometry(q=0.5)
    plan, path = figure.picture().axes
    marked = [tuple(line.get_xydata()[0]) for line in plan.lines if line.get_label() == "solution"]
    assert marked == [(figure.r, 0.0)] and plan.get_aspect() == 1
    assert path.get_xlabel() == "exponent q"
    assert repr(figure).startswith("BridgeGeometry(q=0.5, r=0.7, rho=0.4, a1=1.2, a2=0.35)")
