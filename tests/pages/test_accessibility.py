"""The in-page figures for readers without a mouse, without sight, with little contrast, on a phone, on paper.

axe-core looks at them in light and dark and at phone width, alone and in the built pages; the rest is our own: what axe
does not see (text in SVG) and what it cannot know (focus order, live regions, motion, paper).
"""

import pytest
from browser import INK, PHONE, ROOT, findings, still_page, visit
from gallery import GALLERY

from bridgeout_lite import widgets

pytestmark = pytest.mark.pages

DEVICES = {"desktop": {}, "phone": PHONE}
HTML = ROOT / "_build" / "html"
WITH_FIGURES = sorted(
    path.relative_to(HTML).as_posix()
    for folder in ("book", "notebooks")
    for path in (HTML / folder).glob("*.html")
    if "jupyter.widget-view+json" in path.read_text(encoding="utf-8")
)


@pytest.fixture(params=GALLERY)
def address(request, tmp_path):
    """A page with one figure and nothing behind it."""
    return still_page(GALLERY[request.param].make(), folder=tmp_path)


def dress(page, scheme="light"):
    """Give the page the theme's colours, as its button does."""
    page.evaluate("(scheme) => { document.documentElement.dataset.theme = scheme; }", scheme)
    if not page.locator("body.bd-body, .bd-main").count():
        ink, paper = INK[scheme]
        page.add_style_tag(
            content=f"html {{ --pst-color-text-base: {ink}; --pst-color-background: {paper};"
            f" background: {paper}; color: {ink} }}"
        )
    page.locator(".sbn data").first.wait_for(state="attached")
    page.add_style_tag(content="*, *::before { transition: none !important }")  # colours arrive at once


# Texts in SVG that stand out too little: their colour against their own halo, or against what is painted under them
# (fills and HTML backgrounds, blended; a line that crosses a text is not counted).
FAINT = """() => {
    const probe = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = (colour) => {
        probe.clearRect(0, 0, 1, 1);
        probe.fillStyle = colour;
        probe.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = probe.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, alpha, below) => below.map((v, k) => alpha * top[k] + (1 - alpha) * v);
    const luminance = (colour) => {
        const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = colour.map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (one, other) => {
        const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const paint = (node) => {
        const style = getComputedStyle(node);
        if (node.tagName === "svg" || !(node instanceof SVGElement)) return [style.backgroundColor, 1];
        const filled = /^(rect|circle|path|polygon|ellipse)$/.test(node.tagName) && style.fill !== "none";
        return filled ? [style.fill, style.fillOpacity * style.opacity] : ["transparent", 0];
    };
    const under = (text, x, y) => {
        const stack = document.elementsFromPoint(x, y).filter((node) => !node.closest("text"));
        return stack.reverse().reduce((below, node) => {
            const [colour, opacity] = paint(node), [r, g, b, a] = rgba(colour);
            return over([r, g, b], a * opacity, below);
        }, [255, 255, 255]);
    };
    const faint = [];
    let seen = 0;
    for (const text of document.querySelectorAll(".sbn svg text")) {
        const style = getComputedStyle(text), box = text.getBoundingClientRect();
        if (!text.textContent.trim() || !box.width || style.visibility !== "visible") continue;
        text.scrollIntoView({block: "center"});
        seen++;
        const {left, right, top, bottom} = text.getBoundingClientRect(), [r, g, b, a] = rgba(style.fill);
        const haloed = style.paintOrder.startsWith("stroke") && parseFloat(style.strokeWidth) > 1;
        const grounds = haloed
            ? [rgba(style.stroke).slice(0, 3)]
            : [0.1, 0.5, 0.9].map((share) => under(text, left + share * (right - left), (top + bottom) / 2));
        const ink = (ground) => over([r, g, b], a * style.fillOpacity * style.opacity, ground);
        const worst = Math.min(...grounds.map((ground) => contrast(ink(ground), ground)));
        if (worst < 4.5) faint.push(`${text.textContent}: ${worst.toFixed(2)}`);
    }
    return [seen, faint];
}"""


def test_every_figure_stands_in_the_gallery():
    assert set(GALLERY) == set(widgets.__all__)


@pytest.mark.parametrize("device", DEVICES)
def test_axe_finds_nothing_serious(browser, axe, address, device):
    page, _, _ = visit(browser, address, **DEVICES[device])
    for scheme in INK:
        dress(page, scheme)
        assert findings(page, axe, "main") == [], scheme
    page.context.close()


@pytest.mark.parametrize("name", WITH_FIGURES or ["the built book"])
def test_axe_finds_nothing_serious_in_the_book(browser, axe, name):
    if not WITH_FIGURES:
        pytest.skip("no built page with a figure: run `make book` first")
    # the figures in the theme's own frame; without the formulas, through which axe would wade for half a minute
    page, _, _ = visit(browser, (HTML / name).as_uri(), formulas=False)
    page.evaluate(
        "(article) => article.replaceChildren(...article.querySelectorAll('.sbn'))", page.query_selector("article")
    )
    for scheme, size in (("light", {"width": 1280, "height": 720}), ("dark", PHONE["viewport"])):
        page.set_viewport_size(size)
        dress(page, scheme)
        assert findings(page, axe) == [], scheme
        seen, faint = page.evaluate(FAINT)
        assert seen and faint == [], scheme
    page.context.close()


@pytest.mark.parametrize("name", GALLERY)
def test_text_in_the_panels_is_readable(browser, tmp_path, name):
    page, _, _ = visit(browser, still_page(GALLERY[name].make(), folder=tmp_path), reduced_motion="reduce")
    for moves in ([], GALLERY[name].moves):  # as it opens, and after the reader's moves
        GALLERY[name].move(page, moves)
        for scheme in INK:
            dress(page, scheme)
            seen, faint = page.evaluate(FAINT)
            assert seen >= 8 and faint == [], (moves, scheme)
    page.context.close()


def test_faint_text_is_seen(browser, tmp_path):
    """The check above, checked."""
    page, _, _ = visit(browser, still_page(widgets.NoisePenalty(), folder=tmp_path))
    dress(page)
    seen, faint = page.evaluate(FAINT)
    page.add_style_tag(content=".sbn-panel .sbn-title { fill: #999 }")
    assert len(page.evaluate(FAINT)[1]) == 4  # the four titles: 2.8 on white
    page.add_style_tag(content=".sbn-panel .sbn-title { fill: #000 } .sbn-panel { background: #555 }")
    assert faint == [] and len(page.evaluate(FAINT)[1]) > seen / 2
    page.context.close()


def test_controls_have_names_and_come_in_order(browser, address):
    page, _, _ = visit(browser, address)
    dress(page)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    names = [
        (node["role"]["value"], node["name"]["value"])
        for node in tree
        if not node["ignored"] and node["role"]["value"] in ("slider", "combobox", "button", "checkbox", "spinbutton")
    ]
    assert names and all(name.strip() for _, name in names) and len(set(names)) == len(names)
    groups = [node for node in tree if node.get("role", {}).get("value") == "group" and not node["ignored"]]
    assert any(node["name"]["value"] for node in groups), "the figure itself is named"
    # Tab goes through what can have the focus in the order of the document, and shows where it is; of radio buttons
    # it finds the one that is on, the arrows the others
    expected = page.evaluate(
        """[...document.querySelectorAll('.sbn :is(button, input, select, a[href], [tabindex="0"])')]
            .filter((node) => !node.disabled && node.checkVisibility() && (node.type !== "radio" || node.checked))
            .map((node, k) => { node.dataset.place = k; return k; })"""
    )
    reached = []
    for _ in expected:
        page.keyboard.press("Tab")
        place, outline = page.evaluate(
            "[document.activeElement.dataset.place, getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline != "none"
        reached.append(int(place))
    assert reached == expected
    page.context.close()


@pytest.mark.parametrize("name", GALLERY)
def test_a_move_is_told_to_a_screen_reader(browser, tmp_path, name):
    page, _, _ = visit(browser, still_page(GALLERY[name].make(), folder=tmp_path), reduced_motion="reduce")
    live = page.locator('.sbn [aria-live="polite"]')
    assert live.count() == 1, "one voice a figure"
    assert page.locator('.sbn output:not([aria-live="off"])').count() == 0, "an <output> speaks unless told not to"
    page.wait_for_function("(node) => node.textContent.length > 20", arg=live.element_handle())
    before = live.inner_text()
    GALLERY[name].move(page)
    page.wait_for_function("([node, old]) => node.textContent !== old", arg=[live.element_handle(), before])
    assert len(live.inner_text()) > 20
    page.context.close()


def test_nothing_moves_by_itself_for_who_wants_it_calm(browser, address):
    page, _, _ = visit(browser, address, reduced_motion="reduce")
    dress(page)
    figure = page.locator(".sbn")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    before = figure.screenshot()
    page.wait_for_timeout(500)
    assert figure.screenshot() == before
    page.context.close()


def test_a_finger_finds_every_control(browser, address):
    page, _, _ = visit(browser, address, **PHONE)
    dress(page)
    small = page.evaluate(
        """[...document.querySelectorAll('.sbn :is(button, input, select, [tabindex="0"])')]
            .map((node) => [node.textContent || node.name, node.offsetWidth, node.offsetHeight])
            .filter(([, width, height]) => Math.min(width, height) < 24)"""
    )
    assert small == []
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{wide} px too wide"
    page.context.close()


def test_on_paper_it_is_a_picture(browser, address):
    page, _, _ = visit(browser, address)
    dress(page)
    page.emulate_media(media="print")
    for shown in (".sbn-name", ".sbn-panel", ".sbn-readout data"):
        assert page.locator(shown).count() and all(node.is_visible() for node in page.locator(shown).all()), shown
    for hidden in ("button", "input", "select"):
        assert not any(node.is_visible() for node in page.locator(f".sbn {hidden}").all()), hidden
    page.context.close()
