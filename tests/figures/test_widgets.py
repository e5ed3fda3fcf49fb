"""The in-page figures: JavaScript against Python, the plain stand-in, what a notebook stores."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import in_fresh_python, module

from bridgeout_lite import theory
from bridgeout_lite.noise import _Perturb
from bridgeout_lite.widgets.base import uniforms

P = (0.0, 0.05, 0.3, 0.5, 0.9)
Q = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
X = (-2.0, -0.7, -1e-3, 0.0, 1e-8, 0.02, 0.5, 1.0, 1.9)
TABLE = [(p, q, x) for p in P for q in Q for x in X]  # 360 points


@pytest.fixture
def page(browser):
    page = browser.new_context().new_page()
    yield page
    page.context.close()


def close(ours, theirs, tolerance=1e-6):
    """Equal to a relative difference of at most 1e-6; not a number only where the other is."""
    return math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=1e-300) or (math.isnan(ours) and math.isnan(theirs))


# --- the mathematics --------------------------------------------------------------------------------------------------


@pytest.mark.pages
@pytest.mark.parametrize("form", ["odd", "even"])
def test_the_page_computes_what_the_package_computes(page, form):
    module(page, "noise_penalty")
    rows = page.evaluate(
        """([table, form]) => table.map(([p, q, x]) => {
            const pair = figure.law(x, p, q, form).map((v) => v.value);
            const slopes = figure.noise(p).map(({xi}) => figure.slope(x, q, form, xi));
            const spread = [figure.variance, figure.penalty, figure.relativeNoise].map((f) => f(x, p, q));
            return [...pair, ...slopes, ...spread];
        })""",
        [TABLE, form],
    )
    assert len(rows) == len(TABLE) == 360
    for (p, q, x), row in zip(TABLE, rows, strict=True):
        expected = []
        for keep in (0, 1):
            one = torch.tensor([x], dtype=torch.float64, requires_grad=True)
            noisy = _Perturb.apply(one, torch.tensor([keep], dtype=torch.uint8), None, p, q, form, "exact")
            noisy.sum().backward()
            expected.append((noisy.item(), one.grad.item()))
        values, slopes = zip(*expected, strict=True)
        one = torch.tensor([[x]], dtype=torch.float64)
        penalty = theory.lq_penalty(one, torch.ones(1, dtype=torch.float64), p, q).item()
        ours = [*values, *slopes, 2 * penalty, penalty, theory.relative_noise(one, p, q).item()]
        assert all(map(close, row, ours)), (p, q, x, row, ours)


@pytest.mark.pages
def test_the_page_shrinks_as_the_package_shrinks(page):
    module(page, "noise_penalty")
    table = [
        (z, c, q) for z in (-2.0, -0.4, 0.0, 0.03, 0.6, 1.0, 3.0) for c in (0.0, 0.1, 0.5, 2.0) for q in Q if q > 0
    ]
    rows = page.evaluate("(table) => table.map(([z, c, q]) => figure.bridgeProx(z, c, q))", table)
    for row, (z, penalty, q) in zip(rows, table, strict=True):
        ours = theory.bridge_prox(z, penalty, q)
        assert close(row, ours) and (row == 0) == (ours == 0), (z, penalty, q)


@pytest.mark.pages
@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1])
def test_the_page_draws_the_same_numbers(page, seed):
    module(page, "noise_penalty")
    drawn = page.evaluate(
        "(seed) => { const next = figure.uniforms(seed); return Array.from({length: 1000}, next); }", seed
    )
    assert drawn == uniforms(seed, 1000)


def test_the_draws_are_uniform():
    # 20,000 draws in 16 equal bins: chi-square with 15 degrees of freedom exceeds 57.4 with probability 7e-7
    counts = np.histogram(uniforms(3, 20_000), bins=16, range=(0, 1))[0]
    assert ((counts - 1250) ** 2 / 1250).sum() < 57.4


# --- the stand-in, and what a notebook stores -------------------------------------------------------------------------


STAND_IN = """
import sys, json
sys.modules["anywidget"] = None
from bridgeout_lite import widgets
import ipywidgets
print(json.dumps(isinstance(widgets.NoisePenalty(), ipywidgets.VBox)))
"""


def test_without_anywidget_the_figures_are_plain():
    """As by choice, which the figures' contract tests."""
    assert in_fresh_python(STAND_IN)


def test_a_notebook_stores_no_address_and_no_random_name(tmp_path):
    import nbformat

    sys.path.append(str(Path(__file__).parents[2] / "book"))
    import chapters
    import execute

    texts = []
    for _ in range(2):
        notebook = nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell("from bridgeout_lite import widgets\nwidgets.NoisePenalty()", id="one"),
                nbformat.v4.new_code_cell("widgets.NoisePenalty(q=3.0)", id="two"),
            ]
        )
        path = tmp_path / "notebook.ipynb"
        nbformat.write(notebook, path)
        (outcome,) = execute.run_all([path], 1)
        del outcome.notebook.metadata["bridgeout"]["seconds"]  # it is what a clock says
        chapters.write(path, outcome.notebook)
        texts.append(path.read_text())
    assert texts[0] == texts[1]
    stored = json.loads(texts[0])
    views = [c["outputs"][0]["data"]["application/vnd.jupyter.widget-view+json"]["model_id"] for c in stored["cells"]]
    states = stored["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert set(views) <= set(states) and [states[v]["state"]["q"] for v in views] == [1.0, 3.0]
    assert "0x" not in json.dumps([c["outputs"] for c in stored["cells"]])
