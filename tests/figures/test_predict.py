"""Prediction locks: what Python takes and refuses, and a page of two in a browser, from disk and without network."""

import json
import shutil
import subprocess
import sys

import nbformat
import pytest
from browser import INK, PHONE, ROOT, findings, visit

from bridgeout_lite.notebook import predict

sys.path.append(str(ROOT / "book"))
from chapters import bare_locks

WIDGETS = ROOT / "bridgeout_lite" / "widgets"
CHOICES = {"none": "A *gradient step* never lands there.", "some, if p < 1/2": "Only a rounding does.", "all": "No."}
SIDES = {"low": "The `slope` is not zero.", "high": "x^{2} is flat at 0."}


def choice(**options):
    return predict("01-zeros", "How many *weights* are zero?", CHOICES, right="none", **options)


def number(**options):
    return predict(
        "01-share", "What share?", SIDES, **{"number": (0, 1, 0.1), "answer": 0.234, "within": 0.1} | options
    )


# --- Python -----------------------------------------------------------------------------------------------------------


def test_a_lock_is_a_question_and_its_answers():
    shown = choice()._repr_mimebundle_()
    assert shown["text/plain"] == "Predict. How many *weights* are zero? (none; some, if p < 1/2; all)"
    assert "<em>gradient step</em>" in shown["text/html"] and "<li>some, if p &lt; 1/2</li>" in shown["text/html"]
    assert "<b>none</b> (right)" in shown["text/html"] and choice().markup.count("(right)") == 1
    markup = number(unit=" %", because="At w_{0}.").markup
    assert "It is <b>0.234 %</b>" in markup and "<code>slope</code>" in markup and "x<sup>2</sup>" in markup
    assert "At w<sub>0</sub>." in markup and " data-opens" in markup and " data-opens" not in number(opens=False).markup


def test_a_slider_has_the_stops_that_were_asked_for():
    def stops(*values):
        text = number(number=values, answer=3, within=1.5).markup.split('data-number="')[1].split('"')[0]
        return json.loads(text.replace("&quot;", '"'))["stops"]

    assert stops(0, 5, 1) == [0, 1, 2, 3, 4, 5] and stops(0, 4, 1.5) == [0, 1.5, 3] and stops(1, 3, 10) == [1, 3, 10]
    assert stops(0, 9, 0.3)[7] == 2.1 and stops(1, 2, 4, 8) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "two words"}, "name must be letters, digits and dashes"),
        ({"right": "nonne"}, "right must be one of 'none', .* did you mean 'none'"),
        ({"answers": {"none": "Yes."}}, "at least two choices, got 1"),
        ({"number": (0, 1, 0.1), "answer": 0.5, "within": 0.1}, "must be for 'low' and 'high', got 'none'"),
        ({"answers": SIDES, "number": (0, 1, 0.1), "answer": 2.0, "within": 0.1}, "on the slider, from 0 to 1, got 2"),
        ({"answers": SIDES, "number": (0, 1, 0.1), "answer": float("nan"), "within": 0.1}, "on the slider"),
        ({"answers": SIDES, "number": (0, 1, 0.1), "answer": 0.5}, "within must count .* got None"),
        ({"answers": SIDES, "number": (0, 1, 0.1), "answer": 0.55, "within": 0.01}, "within must count some stops"),
        ({"answers": SIDES, "number": (0, 1, 0.1), "answer": 0.5, "within": 9}, "within must count some stops"),
        ({"answers": SIDES, "number": (0, 1, -1), "answer": 0.5, "within": 0.1}, "a step between them"),
        ({"answers": SIDES, "number": (1, 1, 2, 3), "answer": 1, "within": 0.1}, "must rise"),
        ({"answers": SIDES, "number": (0, "x"), "answer": 1, "within": 0.1}, "list of stops, got"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        predict(**{"name": "a", "question": "Which?", "answers": CHOICES, "right": "none"} | options)
    assert "\n" not in str(error.value)


def test_a_chapter_stores_a_lock_without_its_script():
    """A notebook that runs has it; where a chapter is compared with what it stored, it does not count."""
    shown = choice()._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", shown)
    other = nbformat.v4.new_output(
        "display_data", {"text/html": "<style>td {}</style><table></table><script></script>"}
    )
    cell = nbformat.v4.new_code_cell("predict()", outputs=[output, other])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    bare_locks(notebook)
    assert notebook.cells[0].outputs[0].data["text/html"] == choice().markup
    assert notebook.cells[0].outputs[1] == other
    from nbval.plugin import get_sanitize_patterns, re

    text = shown["text/html"]
    for pattern, replacement in get_sanitize_patterns((ROOT / "nbval_sanitize.cfg").read_text()):
        text = re.sub(pattern, replacement, text)
    assert text == choice().markup


@pytest.mark.skipif(not shutil.which("node"), reason="no Node")
def test_the_script_runs_where_there_is_no_lock():
    code = "globalThis.document = { readyState: 'complete', querySelectorAll: () => [] };\n"
    done = subprocess.run(["node", "-"], input=code + (WIDGETS / "predict.js").read_text(), text=True)
    assert done.returncode == 0


# --- in a page --------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Locks</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><style>{style}</style><script>{script}</script></head>
<body><main><h1>Locks</h1>
<div class="cell">{one}</div><p>We train.</p>
<div class="cell"><div class="cell_input">train()</div><div class="cell_output">no zero</div></div>
<p><strong>What happened.</strong> Not one zero.</p><p>There are two reasons.</p>
<div class="cell"><div class="cell_input">more()</div><div class="cell_output">The next question.</div></div>
<div class="cell">{two}</div><div class="cell"><div class="cell_output">a table</div></div>
<h2>Another section</h2><p><strong>What happened.</strong> Of another question.</p>
<div class="cell">{three}</div></main></body></html>"""


@pytest.fixture
def page(browser, tmp_path):
    """``page(**context)``: the two locks as the book has them; in the end nothing was refused or complained of."""
    style = "".join((WIDGETS / name).read_text() for name in ("toolkit.css", "predict.css"))
    text = PAGE.format(
        style=style,
        script=(WIDGETS / "predict.js").read_text(),
        one=choice(because="So *prune*.").markup,
        two=number().markup,
        three=predict("01-more", "More?", {"yes": "Y.", "not": "N."}, right="not").markup,
    )
    (tmp_path / "page.html").write_text(text)
    visits = []

    def opened(**context):
        visits.append(visit(browser, (tmp_path / "page.html").as_uri(), **context))
        visits[-1][0].set_default_timeout(5000)
        return visits[-1][0]

    yield opened
    for shown, refused, complaints in visits:
        shown.context.close()
        assert refused == [] and complaints == []


def lock(page, name):
    return page.locator(f'.sbn-predict[data-name="{name}"]')


def button(within, name):
    return within.get_by_role("button", name=name)


@pytest.mark.pages
def test_the_page_judges_as_python_does(page):
    page = page()
    one, two = lock(page, "01-zeros"), lock(page, "01-share")
    for asked, words in CHOICES.items():
        one.get_by_label(asked, exact=True).check()
        button(one, "Commit").click()
        said = one.locator(".sbn-verdict").inner_text()
        assert said.startswith("Right. It is: none." if asked == "none" else f"Not so. {words}") and "So prune." in said
        assert "It is: none. A gradient step never" in said
        button(one, "Ask me again").click()
    for k in range(11):
        two.get_by_role("slider").fill("5")  # so that 0 is a move, too
        two.get_by_role("slider").fill(str(k))
        button(two, "Commit").click()
        said, stop = two.locator(".sbn-verdict").inner_text(), round(0.1 * k, 1)
        if abs(stop - 0.234) <= 0.1:
            assert said == "Right. It is 0.234."
        else:
            side = "The slope is" if stop < 0.234 else "x2 is flat"
            assert said.startswith(f"Not so. You said {stop:g}. It is 0.234.\n\n{side}")
        button(two, "Ask me again").click()


@pytest.mark.pages
def test_the_answer_opens_what_follows_and_nothing_else(page):
    page = page()
    one, two = lock(page, "01-zeros"), lock(page, "01-share")
    covered, words = page.get_by_text("no zero"), page.get_by_text("There are two reasons.")
    # not what stands before the next lock, in another section, or is code and prose on the way
    seen = [page.get_by_text(text) for text in ("We train.", "train()", "The next question.", "a table", "Of another")]
    assert not covered.is_visible() and not words.is_visible() and all(node.is_visible() for node in seen)
    assert one.get_by_text("What follows opens").is_visible() and not two.get_by_text("What follows opens").is_visible()
    assert "never lands" not in page.locator("main").inner_text() and "0.234" not in page.locator("main").inner_text()
    button(one, "Commit").click()
    assert one.locator(".sbn-verdict").inner_text() == "Answer first, or have it shown." and not covered.is_visible()
    button(one, "Just show me").click()
    assert one.locator(".sbn-verdict").inner_text().startswith("It is: none.")
    assert covered.is_visible() and words.is_visible() and all(node.is_visible() for node in seen)
    one.get_by_text("All answers").click()
    assert one.get_by_text("Only a rounding does.").is_visible()
    button(one, "Ask me again").click()
    assert not covered.is_visible() and one.locator(".sbn-verdict").inner_text() == ""


@pytest.mark.pages
def test_it_remembers_until_it_is_asked_again(page):
    page = page()
    one, two = lock(page, "01-zeros"), lock(page, "01-share")
    one.get_by_label("all").check()
    lock(page, "01-more").get_by_label("not").check()  # each lock has its own answer
    assert one.get_by_label("all").is_checked()
    button(one, "Commit").click()
    button(two, "Just show me").click()
    page.reload()
    assert one.get_by_label("all").is_checked() and one.locator(".sbn-verdict").inner_text().startswith("Not so. No.")
    assert two.locator(".sbn-verdict").inner_text() == "It is 0.234." and page.get_by_text("Not one zero.").is_visible()
    button(one, "Ask me again").click()
    page.reload()
    assert button(one, "Commit").is_visible() and not page.get_by_text("Not one zero.").is_visible()
    page.evaluate("localStorage.setItem('sbn-predict:01-zeros', '99')")  # of another edition of the question
    page.reload()
    assert button(one, "Commit").is_visible()


@pytest.mark.pages
def test_it_works_where_nothing_can_be_remembered(browser, page):
    page = page()
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } });")
    page.reload()
    one = lock(page, "01-zeros")
    one.get_by_label("none").check()
    button(one, "Commit").click()
    assert one.locator(".sbn-verdict").inner_text().startswith("Right.")


@pytest.mark.pages
def test_keys_are_enough_and_the_focus_is_never_lost(page):
    page = page()
    focus = "document.activeElement.textContent || document.activeElement.value"

    def press(*keys):
        for key in keys:
            page.keyboard.press(key)
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        return page.evaluate(focus)

    assert press("Tab", "Space") == "0" and press("ArrowDown") == "1" and press("Tab") == "Commit"
    assert (
        press("Enter") == "Ask me again"
        and lock(page, "01-zeros").locator(".sbn-verdict").inner_text()[:7] == "Not so."
    )
    assert press("Enter") == "0"  # asked again: at the first choice
    assert press("ArrowDown", "Enter") == "Ask me again"  # Enter in a field commits
    assert press("Tab") == "All answers"
    assert press("Tab") == "0" and press("Enter") == "0"  # where the slider starts is no answer
    assert press("ArrowRight", "ArrowLeft", "Enter") == "Ask me again"
    assert "You said 0." in lock(page, "01-share").locator(".sbn-verdict").inner_text()


@pytest.mark.pages
def test_a_screen_reader_hears_question_and_verdict(page):
    page = page()
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    named = {
        (n["role"]["value"], n["name"]["value"]) for n in tree if not n["ignored"] and n.get("name", {}).get("value")
    }
    assert ("group", "Predict. How many weights are zero?") in named and ("radio", "some, if p < 1/2") in named
    slider = next(n for n in tree if not n["ignored"] and n["role"]["value"] == "slider")
    assert slider["name"]["value"].startswith("Your guess")
    field = lock(page, "01-share").get_by_role("slider")
    assert field.get_attribute("aria-valuetext") == "not set"
    field.press("ArrowRight")
    assert field.get_attribute("aria-valuetext") == "0.1"
    assert page.locator('[role="status"][aria-live="polite"]').count() == 3
    assert page.locator('output:not([aria-live="off"])').count() == 0


@pytest.mark.pages
def test_it_reads_without_javascript_and_on_paper(page):
    plain = page(java_script_enabled=False)
    assert plain.get_by_role("button").count() == plain.get_by_role("radio").count() == 0
    assert plain.get_by_text("Not one zero.").is_visible() and plain.get_by_text("A number from 0 to 1.").is_visible()
    assert not plain.get_by_text("Only a rounding does.").is_visible()
    plain.get_by_text("The answer").first.click()
    assert plain.get_by_text("Only a rounding does.").is_visible() and plain.get_by_text("So prune.").is_visible()
    paper = page()
    paper.evaluate("dispatchEvent(new Event('beforeprint'))")
    paper.emulate_media(media="print")
    for text in ("no zero", "Not one zero.", "Only a rounding does.", "It is 0.234."):
        assert paper.get_by_text(text).is_visible(), text
    assert not any(node.is_visible() for node in paper.get_by_role("button").all())


@pytest.mark.pages
@pytest.mark.parametrize("device", [{}, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious(page, axe, device):
    page = page(**device)
    for scheme, (ink, paper) in INK.items():
        page.evaluate("(scheme) => { document.documentElement.dataset.theme = scheme; }", scheme)
        names = f"--pst-color-text-base: {ink}; --pst-color-background: {paper}"
        page.add_style_tag(content=f"html {{ {names}; background: {paper}; color: {ink} }}")
        assert findings(page, axe) == [], scheme
        for one in (lock(page, "01-zeros"), lock(page, "01-share")):
            button(one, "Just show me").click()
        assert findings(page, axe) == [], f"{scheme}, open"
        for one in (lock(page, "01-zeros"), lock(page, "01-share")):
            button(one, "Ask me again").click()
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    small = page.evaluate(
        """[...document.querySelectorAll('.sbn :is(button, label, input[type=range])')]
            .filter((node) => node.checkVisibility() && Math.min(node.offsetWidth, node.offsetHeight) < 24).length"""
    )
    assert wide <= 0 and small == 0
