"""The built pages as a reader meets them: headless Chromium, every request to another host refused.

Needs the built book (``make book``) and Chromium: ``apt-get install chromium`` or Google Chrome. Skipped, and said so,
where one of them is missing.
"""

import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import chromium, serving, visit

pytestmark = pytest.mark.pages

HTML = Path(__file__).parents[1] / "_build" / "html"
PAGES = sorted(
    p.relative_to(HTML).as_posix() for folder in ("book", "notebooks") for p in (HTML / folder).glob("*.html")
)
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]


@pytest.fixture(scope="module", autouse=True)
def _built():
    if not PAGES:
        pytest.skip("no built book: run `make book` first")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server():
    with serving(HTML) as address:
        yield address


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_without_a_network(browser, server, name, scheme):
    address = f"{server}/{name}" if scheme == "http" else (HTML / name).as_uri()
    page, refused, complaints = visit(browser, address)
    try:
        assert refused == [] and complaints == []
        assert page.locator("article h1").count() == 1
        assert page.locator("mjx-merror, .problematic, .system-message").count() == 0
        if "$" in name or page.locator(".math").count():
            assert page.locator("mjx-container").count() > 0
        broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert broken == []
    finally:
        page.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_phone(browser, server, name):
    page, _, _ = visit(browser, f"{server}/{name}", viewport={"width": 390, "height": 844})
    try:
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, f"{wide} px too wide"
    finally:
        page.context.close()


@pytest.mark.parametrize("name", CHAPTERS)
def test_solutions_open_and_figures_speak(browser, server, name):
    page, _, _ = visit(browser, f"{server}/{name}", color_scheme="dark")
    try:
        silent = page.evaluate("[...document.querySelectorAll('article img')].filter(i => !i.alt).map(i => i.src)")
        assert silent == []
        solution = page.locator(".solution .toggle-button, .solution details summary, .solution.dropdown button").first
        assert solution.count() == 1
        solution.scroll_into_view_if_needed()
        solution.focus()
        page.keyboard.press("Enter")
        page.wait_for_timeout(100)
        assert page.locator(".solution p:visible, .solution section:visible").count() > 0
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
