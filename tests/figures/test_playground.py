"""The noise playground: its twin in torch, its payload, and the network that trains in the page."""

import re

import numpy as np
import pytest
import torch
from browser import still_page, visit
from test_engine import node
from test_figure_contract import declared

from bridgeout_lite import noise, sparsity
from bridgeout_lite.widgets import Playground, playground

CHANCE = 10.0  # per cent


# --- Python -----------------------------------------------------------------------------------------------------------


def test_the_payload_is_the_digits():
    from sklearn.datasets import load_digits

    figure, raw = Playground(), load_digits()
    packed = np.frombuffer(figure.pixels, np.uint8)
    pixels = np.stack([packed >> 4, packed & 15], 1).reshape(-1, 64)
    assert np.array_equal(pixels, playground.digits()[0]) and len(pixels) == len(figure.labels) == 1200
    known = {tuple(row): label for row, label in zip(np.rint(raw.data * 15 / 16).astype(int), raw.target, strict=True)}
    assert [known[tuple(row)] for row in pixels] == [*map(int, figure.labels)]
    for part in (figure.labels[: figure.train], figure.labels[figure.train :]):
        assert min(part.count(str(digit)) for digit in range(10)) > len(part) / 20, "every digit is there"


@pytest.mark.parametrize("method", ["Bridgeout", "Batch Bridgeout"])
def test_a_mask_for_every_image_is_one_for_the_batch_where_all_are_alike(monkeypatch, method):
    """The noise on the weights in torch: with everything kept, each image has w + |w|^(q/2) p/(1-p)."""
    monkeypatch.setattr(noise, "keep_mask", lambda x, *_: torch.ones(x.numel(), dtype=torch.uint8))
    net = playground.Network(method, 0.3, 1.0, 0)
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy, _ = net.forward(x, True)
    with torch.no_grad():
        for w in net.weights[:3]:
            w.add_(w.abs().sqrt() * 0.3 / 0.7)
    net.method = "none"
    assert torch.allclose(noisy, net.forward(x, True)[0], atol=1e-4)


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
def test_the_penalty_in_torch_is_that_of_the_page(q):
    w = torch.tensor([-1.3, -0.2, 0.0, 0.004, 0.7], dtype=torch.float64)
    page = node("penalty", w=w.tolist(), rate=0.1, penalty={"q": q, "strength": 0.3})["after"]
    playground.shrink(w, 0.1 * 0.3, q)
    assert np.allclose(w, page, rtol=1e-12, atol=0)


def test_the_stored_run_learns_and_says_what_it_is():
    stored = Playground().stored
    assert stored["accuracy"][-1] > 0.6 > 0.3 > stored["accuracy"][0] and stored["steps"][-1] == playground.STEPS
    assert (stored["method"], stored["p"], stored["q"]) == ("Batch Bridgeout", 0.2, 1.0)
    assert len(stored["histogram"]) == playground.BINS and abs(sum(stored["histogram"]) - 1) < 0.02


def test_what_the_page_reports_is_what_python_measures():
    pixels, labels = playground.digits()
    settings = {"method": "L_q penalty", "p": 0.3, "q": 1.0, "strength": 0.01, "rate": 0.02}
    question = {"pixels": pixels.ravel().tolist(), "labels": labels.tolist(), "train": 800, "seed": 3}
    report = node("report", **question, steps=40, settings=settings)
    w = torch.tensor(np.concatenate(report["weights"]))
    assert (w == 0).sum() > 100 and report["steps"] == 40, "the penalty at q = 1 sets weights to zero"
    near = playground.NEAR_ZERO * w.square().mean().sqrt().item()
    assert report["hoyer"] == pytest.approx(sparsity.hoyer(w).item(), abs=1e-6)
    assert report["gini"] == pytest.approx(sparsity.gini(w).item(), abs=1e-6)
    assert report["near_zero"] == pytest.approx(sparsity.zero_fraction(w, threshold=near).item(), abs=1e-6)
    edges = np.linspace(0, playground.WIDEST, playground.BINS + 1)
    counts, _ = np.histogram(np.minimum(w.abs().numpy(), playground.WIDEST - 1e-6), edges)
    assert np.allclose(report["histogram"], counts / len(w), atol=1e-3)
    assert [len(units) for units in report["active"]] == [8, 16, 32] and report["accuracy"] > 0.5
    assert node("sparsity", arrays=[[0, 0], [0]])["near_zero"] == 1


def test_the_workers_script_is_whole():
    code = playground.worker()
    assert not re.search(r"^(import|export)\b", code, re.M)
    found = declared(code)
    assert {"Machine", "Network", "Trainer", "serve", "KERNEL"} <= set(found) and len(set(found)) == len(found)
    assert Playground._esm.startswith("const WORKER = ") and "serve(self)" in Playground._esm
    names = declared(Playground._esm)
    assert len(set(names)) == len(names)


# --- the page ---------------------------------------------------------------------------------------------------------


def shown(page, name):
    return float(page.locator(f'.sbn data[data-name="{name}"]').get_attribute("value"))


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def reach(page, steps, timeout=60_000):
    """Wait until the readout shows so many steps."""
    query = "(n) => +document.querySelector('.sbn data[data-name=steps]').value >= n"
    page.wait_for_function(query, arg=steps, timeout=timeout)


def fifty(page):
    """Restart and train 50 steps; the losses and the sparsity that are then shown."""
    press(page, "Restart")
    page.wait_for_function("document.querySelector('.sbn data[data-name=state]').value.startsWith('not begun')")
    press(page, "50 steps")
    page.wait_for_function("document.querySelector('.sbn data[data-name=shown]').value.startsWith('trained here')")
    reach(page, 50)
    return [shown(page, name) for name in ("steps", "train_loss", "loss", "hoyer")]


@pytest.mark.pages
def test_nothing_trains_before_the_reader_asks_and_then_it_learns(opened):
    page = opened(Playground(p=0.1))
    page.wait_for_timeout(300)
    assert page.workers == [] and shown(page, "steps") == playground.STEPS
    assert page.locator('data[data-name="shown"]').get_attribute("value").startswith("stored run (PyTorch")
    press(page, "Train")
    page.wait_for_function("document.querySelector('.sbn data[data-name=shown]').value.startsWith('trained here')")
    assert len(page.workers) == 1
    reach(page, 400)
    press(page, "Pause")
    assert shown(page, "accuracy") > 6 * CHANCE
    assert shown(page, "train_loss") < 1.2
    speed = page.locator('data[data-name="speed"]').get_attribute("value")
    print(f"\ndigit images trained per second in the page: {speed}")
    assert speed.endswith("(WebAssembly)")
    page.wait_for_function("document.querySelector('.sbn data[data-name=state]').value === 'paused'")
    page.wait_for_timeout(400)  # what was under way comes to its end
    steps = shown(page, "steps")
    page.wait_for_timeout(400)
    assert shown(page, "steps") == steps
    press(page, "Restart")
    page.wait_for_function("document.querySelector('.sbn data[data-name=shown]').value.startsWith('stored run')")
    assert page.workers == []


@pytest.mark.pages
def test_a_slider_changes_what_is_trained_and_nothing_else_does(opened):
    page = opened(Playground(p=0.1))
    first = fifty(page)
    assert first == fifty(page) and first[0] == 50, "the same seed and settings: the same run"
    page.locator('.sbn [name="q"]').press("Home")
    low = fifty(page)
    assert low[3] > first[3] + 0.02, "at q = 1/2 the few largest weights grow away from the rest"
    page.locator('.sbn [name="method"]').select_option("Sparseout")
    assert fifty(page)[1:] != low[1:]
    page.locator('.sbn [name="method"]').select_option("none")
    plain = fifty(page)
    assert plain[2] < first[2], "noise slows learning down"
    page.locator('.sbn [name="seed"]').press("ArrowRight")
    assert fifty(page)[1:] != plain[1:]


@pytest.mark.pages
def test_settings_change_while_it_trains(opened):
    page = opened(Playground(method="none"))
    press(page, "Train")
    reach(page, 201)
    page.locator('.sbn [name="method"]').select_option("Batch Bridgeout")
    page.locator('.sbn [name="q"]').press("Home")
    page.locator('.sbn [name="p"]').press("End")
    steps = shown(page, "steps")
    reach(page, steps + 100)
    press(page, "Pause")
    rule = page.locator(".sbn-panel .sbn-rule").first
    assert float(rule.get_attribute("x1")) > 10, "a line stands where the settings changed"
    assert "Batch Bridgeout, p 0.7, q 0.5" in page.locator('data[data-name="shown"]').get_attribute("value")
    press(page, "Compare with this")
    page.wait_for_function("document.querySelector('.sbn data[data-name=compared]').value.startsWith('Batch')")


@pytest.mark.pages
def test_it_rests_out_of_sight(opened):
    page = opened(Playground())
    page.evaluate("document.body.style.paddingBottom = '4000px'")
    press(page, "Train")
    reach(page, 20)
    page.evaluate("scrollTo(0, 4000)")
    page.wait_for_timeout(1500)
    steps = shown(page, "steps")
    page.wait_for_timeout(500)
    assert shown(page, "steps") == steps
    page.evaluate("scrollTo(0, 0)")
    reach(page, steps + 10)


@pytest.mark.pages
def test_only_what_matters_can_be_moved(opened):
    page = opened(Playground())
    expected = {"none": [], "Dropout": ["p"], "Sparseout": ["p", "q"], "L_q penalty": ["p", "q"]}
    for method, free in expected.items():
        page.locator('.sbn [name="method"]').select_option(method)
        page.evaluate("new Promise(requestAnimationFrame)")
        assert [name for name in ("p", "q") if page.locator(f'.sbn [name="{name}"]').is_enabled()] == free


@pytest.mark.pages
def test_the_address_holds_the_state(browser, tmp_path):
    address = still_page(Playground(), folder=tmp_path)
    page, refused, complaints = visit(browser, address)
    page.locator(".sbn data").first.wait_for(state="attached")
    assert "#" not in page.url
    page.locator('.sbn [name="q"]').press("End")
    page.locator('.sbn [name="seed"]').press("End")
    page.locator('.sbn [name="method"]').select_option("Sparseout")
    link = page.url
    assert "#playground&" in link and "q=3" in link and "seed=9" in link
    page.context.close()
    page, *_ = visit(browser, link)
    values = [page.locator(f'.sbn [name="{name}"]').input_value() for name in ("method", "p", "q", "seed")]
    assert values == ["Sparseout", "0.2", "3", "9"]
    page.context.close()
    for spoilt in ("#playground&q=99&method=magic&p=&seed=x", "#q=3&method=Sparseout", "#a-heading"):
        page, _, complaints = visit(browser, address + spoilt)
        values = [page.locator(f'.sbn [name="{name}"]').input_value() for name in ("method", "p", "q", "seed")]
        assert values == ["Batch Bridgeout", "0.2", "1", "0"] and complaints == []
        page.context.close()
    assert refused == []
