"""The in-page figures in a live notebook: a real JupyterLab with a real kernel, seen in headless Chromium.

Needs JupyterLab (requirements.txt) and Chromium; skipped, and said so, where one of them is missing.
"""

import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from browser import visit
from gallery import GALLERY

pytestmark = [pytest.mark.pages, pytest.mark.xdist_group("lab")]  # one server for all

SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # every cell stays in the page
}
FLAGS = ("--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--IdentityProvider.token=")
FLAGS += ("--LabApp.extension_manager=readonly", "--LabApp.news_url=None")
FLAGS += ("--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",)

# Read by every Python that the server starts, itself included: whoever calls another host is refused and written down.
GUARD = """
import sys
def watch(event, args):
    host = args[0] if event == "socket.getaddrinfo" else None
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    if host not in (None, "", "127.0.0.1", "::1", "localhost"):
        open({log!r}, "a").write(f"{{event}} {{host}}\\n")
        raise OSError("no network in this test")
sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of this environment: its address and its folder. No process of it may call another host."""
    if find_spec("jupyterlab") is None:
        pytest.skip("no JupyterLab: `pip install -r requirements.txt`")
    home, calls = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("guard") / "calls.txt"
    (home / "work").mkdir()
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    (calls.parent / "sitecustomize.py").write_text(GUARD.format(log=str(calls)))
    folders = {f"JUPYTER_{name.upper()}_DIR": str(home / name) for name in ("config", "data", "runtime")}
    environment = os.environ | folders | {"PYTHONPATH": str(calls.parent), "IPYTHONDIR": str(home / "ipython")}
    environment |= {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}
    with open(home / "log.txt", "wb") as log:
        command = [sys.executable, "-m", "jupyterlab", *FLAGS, f"--ServerApp.root_dir={home / 'work'}"]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not (said := "".join(path.read_text() for path in (home / "runtime").glob("jpserver-*.json"))).endswith(
            "}"
        ):
            assert server.poll() is None and time.monotonic() < deadline, (home / "log.txt").read_text()
            time.sleep(0.05)
        yield json.loads(said)["url"], home / "work"
        assert not calls.exists(), calls.read_text()
    finally:
        server.terminate()
        server.wait(20)


class Notebook:
    """A notebook open in JupyterLab, with a kernel of its own."""

    def __init__(self, browser, lab, name, cells):
        import nbformat

        address, folder = lab
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        book = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells], metadata={"kernelspec": spec}
        )
        nbformat.write(book, folder / name)
        # nothing moves by itself, so that the page and the printed numbers speak of the same moment
        options = {"viewport": {"width": 1200, "height": 1400}, "reduced_motion": "reduce"}
        self.page, self.refused, _ = visit(browser, f"{address}lab/tree/{name}?reset", **options)
        self.page.get_by_text(re.compile(r"Python 3 \(ipykernel\) \| Idle")).wait_for(timeout=60_000)
        self.runs = 0

    def cell(self, k):
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(k)

    def run(self, k):
        """Run a cell as a reader does; returns what it printed."""
        self.cell(k).locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")
        self.runs += 1
        self.cell(k).locator(".jp-InputPrompt", has_text=f"[{self.runs}]:").wait_for(timeout=60_000)
        printed = self.cell(k).locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stdout'] pre")
        assert self.cell(k).locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        return json.loads(printed.inner_text()) if printed.count() else None

    def close(self):
        self.page.context.close()
        assert self.refused == []


IMPORTS = "import json, os, sys\nos.environ['BRIDGEOUT_WIDGETS'] = {base!r}\nimport bridgeout_lite as bl\n"
IMPORTS += "from bridgeout_lite import widgets\nprint(json.dumps(sys.prefix))"
STATE = "print(json.dumps([{key: getattr(fig, key) for key in fig.controls}, fig.numbers()]))"

AGREE = """([section, numbers]) => {
    const shown = Object.fromEntries([...section.querySelectorAll("data")].map((d) => [d.dataset.name, +d.value]));
    return Object.entries(numbers).every(([name, value]) => Math.abs(shown[name] - value) <= 1e-6 * Math.abs(value));
}"""


def test_sliders_reach_python_and_python_moves_the_picture(browser, lab):
    cells = [IMPORTS.format(base="")]
    for shown in GALLERY.values():
        assign = "\n".join(f"fig.{name} = {value!r}" for name, value in shown.sets.items())
        cells += [f"fig = {shown.code}\nfig", STATE, assign, STATE]
    notebook = Notebook(browser, lab, "figures.ipynb", cells)
    assert notebook.run(0) == sys.prefix  # the kernel is this environment's
    for k, (name, shown) in enumerate(GALLERY.items()):
        first = 1 + 4 * k
        notebook.run(first)
        section = notebook.cell(first).locator(".sbn")
        section.locator("data").first.wait_for(state="attached", timeout=30_000)
        start, _ = notebook.run(first + 1)

        def follows(numbers, section=section):
            notebook.page.wait_for_function(AGREE, arg=[section.element_handle(), numbers], timeout=10_000)

        picture = section.locator(".sbn-panels").inner_html()
        key, press, _ = shown.moves[0]
        section.locator(f'[name="{key}"]').focus()
        notebook.page.keyboard.press(press)
        state, numbers = notebook.run(first + 1)
        assert state[key] != start[key] and state == start | {key: state[key]}, name
        follows(numbers)
        assert section.locator(".sbn-panels").inner_html() != picture, name

        picture = section.locator(".sbn-panels").inner_html()
        notebook.run(first + 2)
        after, expected = notebook.run(first + 3)
        assert after == state | shown.sets and expected != numbers, name
        follows(expected)
        assert section.locator(".sbn-panels").inner_html() != picture, name
    notebook.close()


def test_the_plain_stand_in_is_alive(browser, lab):
    notebook = Notebook(
        browser, lab, "plain.ipynb", [IMPORTS.format(base="plain"), "fig = widgets.NoisePenalty()\nfig", STATE]
    )
    notebook.run(0)
    notebook.run(1)
    output = notebook.cell(1).locator(".jp-OutputArea-output")
    sliders, picture = output.get_by_role("slider"), output.locator("img")
    picture.wait_for(timeout=30_000)
    assert sliders.count() == 4 and output.locator("select").count() == 1 and output.locator(".sbn").count() == 0
    before = picture.get_attribute("src")
    sliders.nth(1).focus()
    notebook.page.keyboard.press("ArrowRight")
    notebook.page.wait_for_function("([img, src]) => img.src !== src", arg=[picture.element_handle(), before])
    state, _ = notebook.run(2)
    assert state["q"] == 1.05
    notebook.close()


def test_a_prediction_lock_asks_without_the_kernel_and_remembers(browser, lab):
    ask = "bl.notebook.predict('99-live', 'Which?', {'*one*': 'Just so.', 'two': 'Too many.'}, right='*one*')"
    notebook = Notebook(browser, lab, "lock.ipynb", [IMPORTS.format(base=""), ask, "1 + 1"])
    notebook.run(0)
    notebook.run(1)
    lock = notebook.cell(1).locator(".sbn-predict")
    lock.get_by_label("one").focus()
    for key in ("ArrowDown", "Enter"):  # which JupyterLab leaves to the lock
        notebook.page.keyboard.press(key)
    assert lock.locator(".sbn-verdict").inner_text() == "Not so. Too many.\n\nIt is: one. Just so."
    notebook.run(2)
    assert "2" in notebook.cell(2).locator(".jp-OutputArea-output").inner_text()
    notebook.run(1)
    assert lock.locator(".sbn-verdict").inner_text().startswith("Not so.")
    notebook.close()
