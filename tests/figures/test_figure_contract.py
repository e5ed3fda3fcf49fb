"""What every in-page figure keeps, for each of the gallery: the page shows what Python computes at every stop of its
controls, spoilt data is told in its place, a control takes what is there, the stand-in has the same controls, and the
figure is small. A figure's own mathematics and panels are tested in its own file.
"""

import itertools
import math
import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import pytest
import traitlets
from browser import in_fresh_python, told, weight
from gallery import GALLERY, agree, tour

from bridgeout_lite.widgets.base import script

names = pytest.mark.parametrize("name", GALLERY)


@pytest.mark.pages
@names
def test_the_page_is_python_at_every_stop(opened, name):
    shown = GALLERY[name]
    figure = shown.make()
    page = opened(figure)
    agree(page, figure, shown.live)

    def walk(control, *others):
        for _ in tour(page, figure, control):
            agree(page, figure, shown.live)
            if others:
                walk(*others)

    crossed = {*itertools.chain(*shown.stops)}
    for group in (*shown.stops, *((control,) for control in figure.controls if control not in crossed)):
        walk(*group)
    for preset, values in figure.presets.items():
        page.get_by_role("button", name=preset, exact=True).click()
        for control, value in values.items():
            setattr(figure, control, value)
        agree(page, figure, shown.live)
    page.get_by_role("button", name="Reset").click()
    agree(page, shown.make(), shown.live)


def spoilers(name):
    """Those of the gallery, and three for every figure: a number that is none, one that is missing, no controls."""
    number = next(key for key, control in GALLERY[name].make().controls.items() if "options" not in control)
    yield lambda state: state.update({number: math.nan}), "its data is damaged"
    yield lambda state: state.update({number: None}), f"{number} is not a "
    yield lambda state: state.pop("controls"), ""
    yield from GALLERY[name].spoil


@pytest.mark.pages
@names
def test_spoilt_state_is_told_in_one_line_in_the_figures_place(browser, tmp_path, name):
    for change, message in spoilers(name):
        text = told(browser, GALLERY[name].make(), tmp_path, change)
        assert message in text and "cannot be drawn" in text and "\n" not in text


@names
def test_a_control_takes_what_is_there(name):
    shown = GALLERY[name]
    figure = shown.make()
    for control, value, message in shown.refuses:
        before = getattr(figure, control)
        for attempt in (lambda c, v: setattr(figure, c, v), lambda c, v: shown.make(**{c: v})):
            with pytest.raises((ValueError, traitlets.TraitError), match=message) as error:
                attempt(control, value)
            assert "\n" not in str(error.value)
        assert getattr(figure, control) == before, control


@names
def test_it_weighs_no_more_than_it_may(name):
    assert weight(GALLERY[name].make()) < GALLERY[name].weight


@names
def test_its_picture_is_labelled(name):
    figure = GALLERY[name].make()
    for key, value in GALLERY[name].sets.items():
        setattr(figure, key, value)
    picture = figure.picture()
    assert picture.axes and all(ax.get_xlabel() or ax.get_title() or ax.get_title("left") for ax in picture.axes)
    plt.close(picture)


STAND_IN = """
import json
import ipywidgets
from gallery import GALLERY

found = {}
for name, shown in GALLERY.items():
    figure = shown.make()
    rows = [child for child in figure.children if getattr(child, "description", "")]
    view = next(child for child in figure.children if isinstance(child, ipywidgets.Image))
    assert isinstance(figure, ipywidgets.VBox), "asked for"
    assert "_esm" in figure.get_state(), "a static page draws the in-page figure from the stand-in's state"
    assert [row.description for row in rows] == [control["label"] for control in figure.controls.values()]
    assert view.value[:4] == bytes.fromhex("89504e47") and "0x" not in figure._repr_mimebundle_()["text/plain"]
    pictures = {view.value}
    for key, value in shown.sets.items():
        rows[[*figure.controls].index(key)].value = value
        assert getattr(figure, key) == value
        pictures.add(view.value)
    found[name] = len(pictures) - len(shown.sets)
print(json.dumps(found))
"""


def test_the_stand_in_has_the_same_controls_and_is_alive():
    assert in_fresh_python(STAND_IN, BRIDGEOUT_WIDGETS="plain") == dict.fromkeys(GALLERY, 1)


# --- the bundle -------------------------------------------------------------------------------------------------------


def declared(code):
    """The names that a script declares at its top level."""
    found = re.findall(r"^(?:export )?(?:async )?(?:function\*?|class) (\w+)", code, re.M)
    for line in re.findall(r"^(?:export )?(?:const|let|var) (.*)", code, re.M):
        line = re.sub(r"([\"'`])(?:\\.|(?!\1).)*\1|/(?![/ ])(?:\\.|[^/\n])+/|//.*", "", line)
        while line != (line := re.sub(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}", "", line)):
            pass
        found += re.findall(r"(?:^|, )(\w+) =(?![=>])", re.split(r"[(\[{;]", line)[0])
    return found


@names
def test_a_bundle_declares_no_name_twice(name):
    """The shared files and the figure's own are joined to one module: it would not load."""
    code = script(GALLERY[name].make().file)
    found = declared(code)
    assert len(found) > 30 and len(set(found)) == len(found), sorted(n for n in found if found.count(n) > 1)
    twice = f"{code}\nexport const {found[-1]} = 1, {found[0]} = 2;\n"
    assert declared(twice)[-2:] == [found[-1], found[0]]
    if shutil.which("node"):  # which knows for certain
        for text, status in ((code, 0), (twice, 1)):
            command = ["node", "--input-type=module", "--check"]
            assert subprocess.run(command, input=text.encode(), capture_output=True).returncode == status
