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
            if not name.startswith(("notebooks/15", "notebooks/16")):  # the last and the appendix ask nothing
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


def test_the_ledger_is_filtered_and_linked_to(browser):
    """From disk: the choice stands in the address, rows and section heads follow it, and a row's name opens it."""
    address = (HTML / "book" / "ledger.html").as_uri()
    with visiting(browser, address, formulas=False) as page:
        rows = page.locator("#ledger tbody[id]")
        shown = page.locator("#ledger tbody[id]:not([hidden])")
        total = rows.count()
        assert (
            shown.count() == total and page.locator("#ledger-filter output").inner_text() == f"{total} of {total} rows"
        )
        page.get_by_label("verdict").select_option("contradicted")
        few = shown.count()
        assert 0 < few < total and set(shown.evaluate_all("rows => rows.map(r => r.dataset.verdict)")) == {
            "contradicted"
        }
        assert page.url.endswith("#verdict=contradicted")
        heads = page.locator("#ledger tbody.section:not([hidden])")
        assert 0 < heads.count() < page.locator("#ledger tbody.section").count()
        page.get_by_label("words").fill("nothing of this kind")
        assert shown.count() == heads.count() == 0
        page.get_by_role("button", name="show all").press("Enter")
        assert shown.count() == total and "#" not in page.url
        page.goto(f"{address}#kind=mathematics&words=dropout")
        assert 0 < shown.count() < total and page.get_by_label("words").input_value() == "dropout"
        page.goto(f"{address}#batch-bridgeout-price")
        assert shown.count() == total and page.locator("#batch-bridgeout-price details[open]").is_visible()
    with visiting(browser, address, formulas=False, java_script_enabled=False) as page:
        assert page.locator("#ledger tbody[id]").count() == total and page.locator("#ledger-filter").is_hidden()


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
    """Each figure below 150 kB with its data, or what it may weigh; all of a page with their loader below 1.5 MB, or
    2.5 MB where there are photographs."""
    text = (HTML / name).read_text(encoding="utf-8")
    states = re.findall(rf'<script type="{re.escape(STATE)}">(.*?)</script>', text, re.S)
    models = [model for state in states for model in json.loads(state)["state"].values()]
    named = [(model["state"].get("_anywidget_id", "").rpartition(".")[2], model) for model in models]
    allowed = {name: GALLERY[name].weight if name in GALLERY else 150_000 for name, _ in named}
    assert all(len(json.dumps(model)) < allowed[name] for name, model in named)
    most = 2_500_000 if any(weight > 150_000 for weight in allowed.values()) else 1_500_000
    assert sum(map(len, states)) + (HTML / "_static" / "figures.js").stat().st_size < most


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
