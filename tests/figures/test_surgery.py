"""Live surgery: what is stored fits its checksums and its code, the passes of the page are those of PyTorch, and the
page shows them."""

import copy
import hashlib
import json
import sys

import numpy as np
import pytest
import torch
from browser import ROOT, still_page, visit
from gallery import GALLERY
from test_engine import node
from test_figure_contract import declared
from torch import nn

from bridgeout_lite.widgets import Surgery, surgery

sys.path.append(str(ROOT / "book"))
import surgery_networks as data

NAMES = [*data.EXPERIMENTS]
SOME = (0.0, 0.1, 0.3, 0.5, 0.9)


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Asks the engine for the answers of pruned networks."""
    from PIL import Image

    about = data.stored_index()
    rgba = tmp_path_factory.mktemp("surgery") / "images.rgba"
    rgba.write_bytes(np.asarray(Image.open(data.HOME / about["images"]["file"]).convert("RGBA")).tobytes())
    stored = {
        name: {"file": str(data.HOME / one["file"]), "order": one["order"]} for name, one in about["networks"].items()
    }
    fixed = {"files": stored, "rgba": str(rgba), "columns": data.COLUMNS, "layout": about["layout"], "test": data.TEST}
    fixed |= {name: about["images"][name] for name in ("mean", "std")}
    return lambda **question: node("surgery", **(fixed | question))


def said_by(name, treatment, amount):
    """What PyTorch says, of what is stored."""
    model = data.operate(data.network(name), treatment, amount, data.images(), flip=False, crop=0)
    return model, data.answers(model, data.images())


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_every_file_is_the_one_that_the_index_names():
    about = data.stored_index()
    for one in (about["images"], about["answers"], *about["networks"].values()):
        assert hashlib.sha256((data.HOME / one["file"]).read_bytes()).hexdigest() == one["sha256"]
    for name, experiment in data.EXPERIMENTS.items():
        one = about["networks"][name]
        assert one["spec"] == json.loads(json.dumps(experiment.spec))
        assert one["provenance"]["commit"] and not one["provenance"]["dirty"], "made by committed code"
        assert abs(one["accuracy"]["trained"] - one["accuracy"]["in 8 bits"]) < 0.3, "points lost by rounding"
    assert sum(file.stat().st_size for file in data.HOME.iterdir()) < 1_750_000


def test_weights_survive_the_rounding_to_8_bits():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(7, 2))
    with torch.no_grad():
        model[0].weight[2] = 0  # a filter of zeros has no scale
    stored, layout = data.pack(model.state_dict())
    again = data.unpack(stored, layout)
    assert len(stored) == 4 * (5 + 5 + 4 * 5 + 2 + 2) + 5 * 27 + 14
    for name, value in model.state_dict().items():
        if value.dim() > 1:
            most = value.abs().flatten(1).amax(1)
            error = (again[name] - value).abs().flatten(1).amax(1)
            assert (error <= most / 254 + 1e-7).all() and (again[name][value == 0] == 0).all()
        elif value.dim() == 1:
            assert torch.equal(again[name], value)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_filters_is_that_of_pruning(name):
    one, model = data.stored_index()["networks"][name], data.network(name)
    pruned = data.prune(copy.deepcopy(model), 0.4)
    convs = [m for m in pruned.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == len(one["order"]) == 4
    for conv, order, norms in zip(convs, one["order"], one["norms"], strict=True):
        gone = (conv.weight.flatten(1) == 0).all(1).nonzero().flatten().tolist()
        assert gone == sorted(order[: int(len(order) * 0.4)]) and len(gone) == int(len(norms) * 0.4)
        assert norms[order[0]] == min(norms) and norms[order[-1]] == max(norms)


def test_the_stored_answers_are_those_of_the_stored_networks():
    """With recalibration to an image or two: the maker drew its images in float32 batches of another order."""
    stored = surgery.stored_answers()
    for n, name in enumerate(NAMES):
        for treatment, amount in (("zeroed", 0.2), ("removed", 0.5), ("removed, recalibrated", 0.4)):
            _, said = said_by(name, treatment, amount)
            kept = stored[n, surgery.STORED.index(treatment), data.AMOUNTS.index(amount)]
            assert (said != kept).sum() <= 2, (name, treatment, amount)


def test_the_images_are_the_first_of_the_test_set_and_those_of_recalibration():
    images = data.images()
    assert images.test.x.shape == (data.TEST, 3, 32, 32) and len(images.train) == data.BATCHES * data.BATCH
    assert np.bincount(images.test.y, minlength=10).min() > 0.06 * data.TEST
    try:
        real = next(iter(data.EXPERIMENTS.values())).load()
    except Exception:
        pytest.skip("no CIFAR-10 on this machine")
    if real.name != "cifar10":
        pytest.skip("no CIFAR-10 on this machine")
    x, drawn = data.drawn(real)
    again = images.train.x[torch.randperm(len(images.train), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(x, torch.cat([images.test.x, again])) and drawn == data.stored_index()["images"]["train"]
    assert torch.equal(real.test.y[: data.TEST], images.test.y)


# --- the engine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_those_of_torch(ask, name):
    """On 100 images, whole and pruned, within a thousandth of the logits' range; the fallback to 1e-4 of the kernel."""
    cases = [[name, "zeroed", 0.0], [name, "removed", 0.3]]
    answer, plain = (ask(cases=cases, logits=100, test=100, plain=plain) for plain in (False, True))
    assert (answer["kind"], plain["kind"]) == ("WebAssembly", "JavaScript")
    x = data.images().normalize(data.images().test.x[:100])
    for (_, treatment, amount), found, slow in zip(cases, answer["found"], plain["found"], strict=True):
        model, _ = said_by(name, treatment, amount)
        with torch.no_grad():
            expected = model(x)
        logits, fallback = (torch.tensor(one["logits"]).view(100, 10) for one in (found, slow))
        assert (logits - expected).abs().max() < 1e-3 * (expected.max() - expected.min())
        assert torch.equal(logits.argmax(1), expected.argmax(1))
        assert (logits - fallback).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name, treatment", [*zip(NAMES + NAMES[:2], surgery.TREATMENTS, strict=True)])
def test_the_accuracy_is_that_of_torch_to_within_one_image(ask, name, treatment):
    labels = data.images().test.y.numpy()
    answer = ask(cases=[[name, treatment, amount] for amount in SOME])
    for amount, found in zip(SOME, answer["found"], strict=True):
        _, expected = said_by(name, treatment, amount)
        said = np.array(found["answers"])
        assert abs(int((said == labels).sum()) - int((expected == labels).sum())) <= 1, amount
        assert (said != expected).sum() <= 2, amount
    milliseconds = sorted(found["milliseconds"] for found in answer["found"])
    print(f"\n{treatment}: {data.TEST} images in {milliseconds[2]:.0f} ms")


def test_the_workers_script_is_whole():
    code = surgery.worker("engine/surgery")
    found = declared(code)
    assert {"Machine", "Network", "Surgery", "serve"} <= set(found) and len(set(found)) == len(found)
    names = declared(Surgery._esm)
    assert len(set(names)) == len(names)


# --- the page ---------------------------------------------------------------------------------------------------------


def make(**values):
    return GALLERY["Surgery"].make(**values)


def shown(page, name):
    return page.locator(f'.sbn data[data-name="{name}"]').get_attribute("value")


def done(page, timeout=60_000):
    page.wait_for_function("document.querySelector('.sbn data[data-name=state]').value === 'done'", timeout=timeout)


def test_no_recorded_comparison_is_told():
    with pytest.raises(ValueError, match=r"no comparison: give bl\.studies\.pruning"):
        Surgery()


def test_the_recorded_curves_are_those_of_the_study():
    lines = make().index["recorded"]
    assert [*lines] == NAMES and all(
        {"zeroed", "silenced", "removed, recalibrated"} <= {*one} for one in lines.values()
    )
    amounts, accuracies = lines["weight decay only"]["zeroed"]
    assert amounts[0] == 0 and accuracies[0] > 80 > 40 > accuracies[2]


@pytest.mark.pages
def test_the_page_computes_what_is_stored_when_it_is_asked_to(opened):
    page = opened(make())
    page.wait_for_timeout(300)
    assert page.workers == [] and shown(page, "shown").startswith("stored answers")
    page.get_by_role("button", name="Compute here", exact=True).click()
    for treatment in ("zeroed", "removed, recalibrated"):
        page.locator('.sbn [name="treatment"]').select_option(treatment)
        page.wait_for_timeout(50)
        done(page)
        words = shown(page, "shown")
        assert words.startswith("computed in this page: none of 512 answers differ") or int(words.split()[4]) <= 2
        print(f"\nin the page, {treatment}: {data.TEST} images in {shown(page, 'milliseconds')}")
        assert shown(page, "milliseconds").endswith("(WebAssembly)")
    assert len(page.workers) == 1
    page.get_by_role("button", name="Stop", exact=True).click()
    page.wait_for_function("document.querySelector('.sbn data[data-name=state]').value.startsWith('not asked')")


@pytest.mark.pages
def test_a_whole_curve_is_computed_point_by_point(opened):
    page = opened(make(treatment="removed"))
    page.get_by_role("button", name="Whole curve", exact=True).click()
    page.wait_for_function("document.querySelectorAll('.sbn-dot.sbn-orange:not([r=\"0\"])').length > 3", timeout=60_000)
    page.locator('.sbn [name="network"]').select_option("Dropout")  # of another curve only what is shown
    done(page)
    assert page.locator(".sbn-dot.sbn-orange:not([r='0'])").count() == 1


@pytest.mark.pages
def test_changed_answers_are_seen_and_said(opened):
    page = opened(make())
    thumbs = page.locator(".sbn-thumb")
    assert thumbs.count() == 24
    assert "of the test set" in thumbs.first.get_attribute("aria-label")
    page.locator('.sbn [name="amount"]').press("Home")
    page.wait_for_function("document.querySelectorAll('.sbn-thumb').length === 0")
    assert float(shown(page, "changed")) == 0


@pytest.mark.pages
def test_a_page_without_workers_keeps_what_is_stored(opened):
    page = opened(make())
    page.evaluate("window.Worker = null")
    page.get_by_role("button", name="Compute here", exact=True).click()
    page.wait_for_function("document.querySelector('.sbn data[data-name=state]').value.includes('not a constructor')")
    assert shown(page, "shown").startswith("stored answers") and page.locator(".sbn-error").count() == 0


@pytest.mark.pages
def test_the_address_holds_the_state(browser, tmp_path):
    address = still_page(make(), folder=tmp_path)
    page, refused, complaints = visit(browser, f"{address}#surgery&network=Dropout&treatment=removed&amount=0.5")
    values = [page.locator(f'.sbn [name="{name}"]') for name in ("network", "treatment", "amount")]
    values[0].wait_for(state="attached")
    assert [values[0].input_value(), values[1].input_value()] == ["Dropout", "removed"]
    assert values[2].get_attribute("aria-valuetext") == "0.5"
    values[2].press("End")
    assert "amount=0.9" in page.url and refused == complaints == []
    page.context.close()
