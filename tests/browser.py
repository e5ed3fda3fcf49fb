"""A browser for the tests: headless Chromium that refuses every request to another host, and pages to open in it."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bridgeout_lite.widgets.base import script

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
# the theme's ink and paper; a page of the book has them from the theme itself
INK = {"light": ("#222832", "#ffffff"), "dark": ("#ced6dd", "#14181e")}


@contextlib.contextmanager
def chromium():
    """A running browser; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium: `apt-get install chromium`, or install Google Chrome")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@contextlib.contextmanager
def serving(folder: Path):
    """The address of a server of ``folder``."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def visit(browser, address, formulas=True, **context):
    """Open a page with every request to another host refused: (page, refused, complaints). Without its ``formulas`` it
    is there in half the time."""
    page = browser.new_context(**context).new_page()
    refused, complaints = [], []

    def route(request):
        url = request.request.url
        if not formulas and "/mathjax/" in url:
            request.fulfill(body="", content_type="text/javascript")
        elif url.startswith(("http://127.0.0.1", "file:", "data:", "blob:")):
            request.continue_()
        else:
            refused.append(url)
            request.abort()

    page.route("**/*", route)
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(address, wait_until="load")
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise", timeout=20_000)
    page.evaluate("window.MathJax && MathJax.startup && MathJax.startup.promise")
    return page, refused, complaints


def still_page(*figures, folder: Path, change=lambda state: None) -> str:
    """Write a page with these figures and no kernel behind it, as the book has them; returns its address.

    ``change(state)`` may spoil each figure's state first.
    """
    from ipywidgets.embed import embed_data

    data = embed_data(views=figures, drop_defaults=False)
    models = data["manager_state"]["state"]
    for view in data["view_specs"]:
        change(models[view["model_id"]]["state"])
    # keys are sorted, as they are in a stored notebook; a closing tag inside the JSON would end the script early
    state = json.dumps(data["manager_state"], allow_nan=True, sort_keys=True).replace("</", "<\\/")
    views = "".join(
        f'<script type="application/vnd.jupyter.widget-view+json">{json.dumps(view)}</script>'
        for view in data["view_specs"]
    )
    loader = (ROOT / "book" / "static" / "figures.js").read_text()
    page = folder / "page.html"
    page.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Figures</title>'
        '<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">'
        f"<script>{loader}</script></head><body><main><h1>Figures</h1>{views}</main>"
        f'<script type="application/vnd.jupyter.widget-state+json">{state}</script></body></html>'
    )
    return page.as_uri()


@contextlib.contextmanager
def opening(browser, folder: Path):
    """Gives ``open_page(figure) -> page``; in the end nothing may have been refused or complained of."""
    visits = []

    def open_page(figure, **options):
        visits.append(visit(browser, still_page(figure, folder=folder, **options)))
        page = visits[-1][0]
        page.locator(".sbn data, [role=alert]").first.wait_for(state="attached")
        return page

    yield open_page
    for page, refused, complaints in visits:
        page.context.close()
        assert refused == [] and complaints == []


def told(browser, figure, folder: Path, change=lambda state: None) -> str:
    """What stands in the place of a figure that cannot be drawn."""
    page, _, _ = visit(browser, still_page(figure, folder=folder, change=change))
    alert = page.get_by_role("alert")
    alert.wait_for(timeout=5000)
    text = alert.inner_text()
    page.context.close()
    return text


def module(page, name: str) -> None:
    """Import a figure's JavaScript in a page, as ``window.figure``."""
    page.evaluate(
        "async (code) => { const blob = new Blob([code], {type: 'text/javascript'});"
        "window.figure = await import(URL.createObjectURL(blob)); }",
        script(name),
    )


def weight(figure) -> int:
    """Bytes of a figure in a page's widget state: script, style and data."""
    from ipywidgets.embed import embed_data

    data = embed_data(views=[figure], drop_defaults=False)
    return len(json.dumps(data["manager_state"]["state"][data["view_specs"][0]["model_id"]]))


def in_fresh_python(code: str, **environment: str):
    """What ``code`` prints last, as JSON, in a Python of its own with these environment variables."""
    tests = ROOT / "tests"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests / "figures")])} | environment
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=variables, cwd=tests, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def findings(page, axe, within=".sbn"):
    """axe's serious and critical findings: [(rule, help, the elements)]."""
    page.evaluate(axe)
    violations = page.evaluate("(within) => axe.run(within, {resultTypes: ['violations']})", within)["violations"]
    return [
        (found["id"], found["impact"], found["help"], [node["html"][:100] for node in found["nodes"]])
        for found in violations
        if found["impact"] in ("serious", "critical")
    ]
