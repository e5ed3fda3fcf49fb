"""The built pages as a reader meets them: headless Chromium, every request to another host refused.

Needs the built book (``make book``) and Chromium: ``apt-get install chromium`` or Google Chrome. Skipped, and said so,
where one of them is missing.
"""

import contextlib
import functools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import serving, visit
from gallery import GALLERY

from bridgeout_lite import widgets

pytestmark = pytest.mark.pages

HTML = Path(__file__).parents[2] / "_build" / "html"
PAGES = sorted(
    p.relative_to(HTML).as_posix() for folder in ("book", "notebooks") for p in (HTML / folder).glob("*.html")
)
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]


@pytest.fixture(scope="module", autouse=True)
def _built():
    if not PAGES:
        pytest.skip("no built book: run `make book` first")


@pytest.fixture(scope="module")
def server():
    with serving(HTML) as address:
        yield address


# Each page is opened twice in full, since typesetting its formulas is what takes the time: over http, in light, then as
# on a phone; and from disk, in dark and calm, where its figures are moved and its solutions opened.


@pytest.mark.parametrize("name", PAGES)
def test_page_over_http(browser, server, name):
    with visiting(browser, f"{server}/{name}") as page:
        is_whole(page)
        fits_a_phone(page)


@pytest.mark.parametrize("name", PAGES)
def test_page_from_disk(browser, name):
    # calm: a figure that learns by itself would move without a slider
    with visiting(browser, (HTML / name).as_uri(), color_scheme="dark", reduced_motion="reduce") as page:
        is_whole(page)
        if name in CHAPTERS:
            figures_speak(page)
            solutions_open(page)
        if name in WITH_FIGURES:
            every_slider_moves_its_figure_to_what_python_computes(page, name)


@contextlib.contextmanager
def visiting(browser, address, **options):
    """A page, on which in the end nothing may have been refused or complained of."""
    page, refused, complaints = visit(browser, address, **options)
    try:
        yield page
        assert refused == [] and complaints == []
    finally:
        page.context.close()


def is_whole(page):
    assert page.locator("article h1").count() == 1
    assert page.get_by_text("This figure cannot be drawn").count() == 0
    assert page.locator("mjx-merror, .problematic, .system-message").count() == 0
    if page.locator(".math").count():
        assert page.locator("mjx-container").count() > 0
    broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
    assert broken == []


def fits_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 1, f"{wide} px too wide"


def figures_speak(page):
    silent = page.evaluate("[...document.querySelectorAll('article img')].filter(i => !i.alt).map(i => i.src)")
    assert silent == []


def solutions_open(page):
    solution = page.locator(".solution .toggle-button, .solution details summary, .solution.dropdown button").first
    assert solution.count() == 1
    solution.scroll_into_view_if_needed()
    solution.focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(100)
    assert page.locator(".solution p:visible, .solution section:visible").count() > 0


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_works_without_a_network(browser, server, scheme):
    address = f"{server}/search.html" if scheme == "http" else (HTML / "search.html").as_uri()
    page, refused, complaints = visit(browser, f"{address}?q=dropout")
    try:
        page.locator("#search-results li").first.wait_for(timeout=10_000)
        assert refused == []
        # Sphinx fetches each hit for a line of context, which a browser does not allow on pages opened from disk
        assert scheme == "file" or complaints == []
    finally:
        page.context.close()


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.ids = [], set()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.update(filter(None, (attrs.get("id"), attrs.get("name"))))
        target = attrs.get("href") if tag in ("a", "link") else attrs.get("src")
        if target:
            self.links.append((tag, target))


@functools.cache
def _parsed(path: Path) -> _Links:
    parser = _Links()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


@pytest.mark.parametrize("name", [*PAGES, "index.html", "genindex.html", "search.html"])
def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(name):
    path = HTML / name
    for tag, link in _parsed(path).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            assert tag == "a" or parts.scheme == "data" or "canonical" in link, f"{name} loads {link}"
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        assert target.exists(), f"{name}: {link}"
        if parts.fragment and target.suffix == ".html" and tag == "a":
            assert unquote(parts.fragment) in _parsed(target).ids, f"{name}: {link}"


@pytest.mark.parametrize("name", PAGES)
def test_text_has_no_leftovers(name):
    text = re.sub(r"<(script|style).*?</\1>", "", (HTML / name).read_text(encoding="utf-8"), flags=re.S)
    text = re.sub(r"<[^>]+>", " ", text)
    for leftover in ("{eq}", "{cite", "{ref}", "```", "[?]", "CellExecutionError", "Traceback"):
        assert leftover not in text, leftover


# --- in-page figures --------------------------------------------------------------------------------------------------

STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"


@functools.cache
def figures_of(name: str) -> list[dict]:
    """The states of the figures that a built page shows, in order."""
    text = (HTML / name).read_text(encoding="utf-8")
    states, shown = {}, []
    for kind, body in re.findall(rf'<script type="({re.escape(STATE)}|{re.escape(VIEW)})">(.*?)</script>', text, re.S):
        if kind == STATE:
            states |= json.loads(body)["state"]
        else:
            shown.append(json.loads(body)["model_id"])
    return [states[model]["state"] for model in shown]


WITH_FIGURES = [page for page in PAGES if figures_of(page)]


def test_every_figure_of_the_package_is_in_the_book():
    shown = {state["_anywidget_id"].rpartition(".")[2] for page in WITH_FIGURES for state in figures_of(page)}
    assert shown == set(widgets.__all__)
    assert "book/intro.html" in WITH_FIGURES


@pytest.mark.parametrize("name", WITH_FIGURES)
def test_figures_weigh_little(name):
    """Each figure below 150 kB with its data, all of a page with their loader below 1.5 MB."""
    text = (HTML / name).read_text(encoding="utf-8")
    states = re.findall(rf'<script type="{re.escape(STATE)}">(.*?)</script>', text, re.S)
    models = [model for state in states for model in json.loads(state)["state"].values()]
    assert all(len(json.dumps(model)) < 150_000 for model in models)
    assert sum(map(len, states)) + (HTML / "_static" / "figures.js").stat().st_size < 1_500_000


# These act on the steps that learning will take, and here it rests.
LATER = {(figure, key) for figure in ("LearnWhileYouDrag", "Playground") for key in ("rate", "seed")}


def readout(section):
    return section.evaluate(
        "(s) => Object.fromEntries([...s.querySelectorAll('data')].map((d) => [d.dataset.name, +d.value]))"
    )


def picture(section):
    return section.locator(".sbn-panels").inner_html()


@pytest.mark.parametrize("name", WITH_FIGURES)
def test_figures_move_over_http(browser, server, name):
    with visiting(browser, f"{server}/{name}", formulas=False, reduced_motion="reduce") as page:
        every_slider_moves_its_figure_to_what_python_computes(page, name)


def every_slider_moves_its_figure_to_what_python_computes(page, name):
    """By key and by pointer; numbers agree to a relative difference of 1e-5 (1e-7 absolute)."""
    for lock in page.get_by_role("button", name="Just show me").all()[::-1]:
        lock.click()  # a figure may wait behind a prediction
    sections = page.locator(".sbn:not(.sbn-predict)")
    page.wait_for_function(f"document.querySelectorAll('.sbn .sbn-readout data').length >= {len(figures_of(name))}")
    assert sections.count() == len(figures_of(name)) and page.locator(".sbn-error").count() == 0
    for section, state in zip(sections.all(), figures_of(name), strict=True):
        python = GALLERY[state["_anywidget_id"].rpartition(".")[2]].make()
        for key in python.controls:
            setattr(python, key, state[key])
        sliders = section.locator("input[type=range]")
        assert sliders.count() == len([c for c in python.controls.values() if "options" not in c])
        for slider in sliders.all():
            key = slider.get_attribute("name")
            section.get_by_role("button", name="Reset").click()  # without noise, say, q would move nothing
            for name, control in python.controls.items():
                setattr(python, name, control["value"])
            page.wait_for_timeout(80)
            for move in ("key", "pointer"):
                before = picture(section), readout(section), slider.input_value()
                if move == "key":
                    slider.focus()
                    at_end = slider.evaluate("(s) => +s.value >= +s.max")
                    page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
                else:
                    at, box = slider.evaluate("(s) => (s.value - s.min) / (s.max - s.min)"), slider.bounding_box()
                    slider.click(position={"x": (0.1 if at > 0.5 else 0.9) * box["width"], "y": box["height"] / 2})
                page.wait_for_timeout(80)
                assert slider.input_value() != before[2], (key, move)
                value = float(slider.input_value())
                stops = python.controls[key].get("values")
                value = stops[int(value)] if stops else value
                setattr(python, key, int(value) if isinstance(getattr(python, key), int) else value)
                if (type(python).__name__, key) not in LATER:
                    assert (picture(section), readout(section)) != before[:2], (key, move)
                shown = readout(section)
                for number, expected in python.numbers().items():
                    assert shown[number] == pytest.approx(expected, rel=1e-5, abs=1e-7), (key, move, number)
