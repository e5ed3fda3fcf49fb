"""Chapters and their outputs: keys, executing, rendering. A small book with a package of its own stands in for the real
one where something is executed or built.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "book"))

import chapters  # noqa: E402
import run  # noqa: E402

CHAPTERS = chapters.chapters()
KEYED = any("bridgeout" in chapters.read(path).metadata for path in CHAPTERS)


# --- the real book ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not KEYED, reason="no chapter has a key yet: `make run`"
)  # from the first key on, all must have one
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_stored_outputs_are_those_of_the_present_code(path):
    why = chapters.stale(chapters.read(path))
    assert not why, f"{why}: `make run CHAPTERS={path.stem[:2]}`"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_stored_figures_carry_the_present_script(path):
    stored, fresh = chapters.read(path), chapters.read(path)
    chapters.refresh_figures(fresh)
    assert stored == fresh, "the script or style of a figure has changed: `make run CHAPTERS=stale` stores it"


# --- what is in a key -------------------------------------------------------------------------------------------------

SOURCE = '''#!/usr/bin/env python
"""A module."""

import math  # for pi

SIZE = 3
"""How large."""


class Noise:
    """Noise, and a # that is no comment."""

    mark: str
    """What \\'quotes\\' it."""

    def draw(self, x, *, text="# kept"):
        """One line."""

        # why
        shown = """
        kept  # as it is

        """
        f"{x}"
        return (
            x,

            math.pi,  # a number
        ), shown, text
    def rest(self): r"""Several
        lines."""
'''
CODE = '''import math
SIZE = 3
class Noise:
    mark: str
    def draw(self, x, *, text="# kept"):
        shown = """
        kept  # as it is

        """
        f"{x}"
        return (
            x,
            math.pi,
        ), shown, text
    def rest(self): r"""Several
        lines."""'''


def test_comments_docstrings_and_blank_lines_are_no_code():
    assert chapters.code_only(SOURCE) == CODE  # to the letter, on every Python
    assert chapters.code_only(CODE) == CODE


def test_what_a_cell_shows_is_code():
    cell = '!echo yes  # a command\n"shown"\ndef f():\n    "a docstring"\n    return 1  # one'
    assert chapters.code_only(cell, cell=True) == '!echo yes\n"shown"\ndef f():\n    return 1'
    shell = "%%bash\necho 'an open quote"
    assert chapters.code_only(shell, cell=True) == shell
    assert chapters.code_only("# nothing", cell=True) == ""


# --- a small book -----------------------------------------------------------------------------------------------------

PACKAGE = {
    "__init__.py": "",
    "data.py": "import os, pathlib\ndef data_folder():\n    return pathlib.Path(os.environ['BRIDGEOUT_DATA'])\n",
    "noise.py": '"""Noise."""\n\n\ndef noise():\n    return 1\n',
    "sparsity.py": "from .noise import noise  # noqa: F401\n\n\ndef measure():\n    return 10\n",
    "widgets/figure.js": "// a figure\n",
}
MEET = """
import pathlib, time
pathlib.Path("{mine}.here").touch()
for _ in range(600):
    if pathlib.Path("{other}.here").exists():
        break
    time.sleep(0.1)
else:
    raise TimeoutError("the other chapter does not run at the same time")"""
READ = """# a comment
from bridgeout_lite import noise
open("../results/runs.jsonl").read()
open("../bridgeout_lite/widgets/figure.js").read()
print("noise", noise.noise())"""
MEASURE = """from bridgeout_lite import sparsity
print("measured", sparsity.measure())"""
CONFIG = """
title: A small book
only_build_toc_files: true
execute: {execute_notebooks: "off"}
latex: {use_jupyterbook_latex: false}
sphinx:
  local_extensions: {pages: book}
  config:
    extensions: [myst_nb, jupyter_book, sphinx_comments, sphinx_external_toc, sphinx_book_theme, pages]
    myst_enable_extensions: [colon_fence]
    html_theme_options: {}
"""


class Toy:
    """A small book in a folder, and its commands."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "book").mkdir(parents=True)
        for script in ("chapters", "execute", "run", "build", "pages"):
            shutil.copy(ROOT / "book" / f"{script}.py", root / "book")
        for name, text in PACKAGE.items():
            self.write(f"bridgeout_lite/{name}", text)
        self.write("results/runs.jsonl", "{}\n")
        self.write("_config.yml", CONFIG)
        self.write("book/intro.md", "# Intro\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def chapter(self, name: str, cells: list[str]) -> Path:
        """Add a chapter, or give it other cells; its outputs and metadata stay."""
        path = self.root / "notebooks" / f"{name}.ipynb"
        title = nbformat.v4.new_markdown_cell(f"# {name}\n\nIts text.", id="title")
        notebook = (
            chapters.read(path) if path.exists() else nbformat.v4.new_notebook(cells=[title], metadata=chapters.KERNEL)
        )
        for k, source in enumerate(cells):
            if k + 1 < len(notebook.cells):
                notebook.cells[k + 1].source = source
            else:
                notebook.cells.append(nbformat.v4.new_code_cell(source, id=f"cell-{k}"))
        chapters.write(path, notebook)
        names = sorted(file.stem for file in path.parent.glob("*.ipynb"))
        files = "".join(f"  - file: notebooks/{name}\n" for name in names)
        self.write("_toc.yml", f"format: jb-book\nroot: book/intro\nchapters:\n{files}")
        return path

    def start(self, script: str, *words: str, **environment: str) -> subprocess.Popen:
        environment = {"BRIDGEOUT_DATA": str(self.root / "nothing"), **environment}
        return subprocess.Popen(
            [sys.executable, str(self.root / "book" / f"{script}.py"), *words],
            cwd=self.root,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, script: str, *words: str, **environment: str) -> tuple[int, str]:
        """The exit status of one of the book's scripts, and what it said."""
        process = self.start(script, *words, **environment)
        said = process.communicate(timeout=1800)[0]
        return process.returncode, said

    def stale(self) -> dict[str, str]:
        found = {path.stem: chapters.stale(chapters.read(path), self.root) for path in chapters.chapters(self.root)}
        return {name: why for name, why in found.items() if why}

    def stored(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in chapters.chapters(self.root)}

    def page(self, name: str) -> str:
        """What a built page says."""
        html = (self.root / "_build" / "html" / "notebooks" / f"{name}.html").read_text()
        return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A small book with two chapters, executed at the same time: each waits for the other."""
    toy = Toy(tmp_path_factory.mktemp("books") / "book")
    toy.chapter("01_one", [READ, MEET.format(mine="one", other="two")])
    toy.chapter("02_two", [MEASURE, MEET.format(mine="two", other="one")])
    status, said = toy.call("run", "--jobs", "2")
    assert status == 0, said
    assert "[2/2] " in said and "01_one" in said and "02_two" in said
    return toy


@pytest.fixture
def toy(executed, tmp_path):
    """A copy of it to change."""
    copy = object.__new__(Toy)
    copy.root = tmp_path / "book"
    shutil.copytree(executed.root, copy.root)
    return copy


def test_a_chapter_stores_what_it_was_computed_from(executed):
    notebook = chapters.read(executed.root / "notebooks" / "01_one.ipynb")
    first, second = chapters.code_cells(notebook)
    assert first.outputs[0].text == "noise 1\n" and (first.execution_count, second.execution_count) == (1, 2)
    kept = notebook.metadata["bridgeout"]
    assert set(kept["inputs"]) == {"bridgeout_lite/__init__.py", "bridgeout_lite/noise.py", "results/runs.jsonl"}
    assert kept["data"] == [] and len(notebook.cells) == 3 and executed.stale() == {}


@pytest.mark.parametrize(
    ("name", "text", "reached"),
    [
        ("bridgeout_lite/noise.py", '"""Loud noise."""\n\n\ndef noise():\n    # one\n    return 1\n', []),
        ("bridgeout_lite/noise.py", '"""Noise."""\n\n\ndef noise():\n    return 2\n', ["01_one", "02_two"]),
        ("bridgeout_lite/sparsity.py", "def measure():\n    return 10\n", ["02_two"]),
        ("bridgeout_lite/widgets/figure.js", "// another\n", []),
        ("results/runs.jsonl", "{}\n{}\n", ["01_one"]),
    ],
)
def test_a_change_is_seen_by_the_chapters_that_it_reaches(toy, name, text, reached):
    toy.write(name, text)
    assert list(toy.stale()) == reached
    assert all(why == f"{name} has changed" for why in toy.stale().values())


def test_a_change_of_a_cell_is_seen_but_not_of_its_comment_or_tags(toy):
    path = toy.chapter("01_one", [READ.replace("a comment", "another")])
    notebook = chapters.read(path)
    notebook.cells[1].metadata["tags"] = ["hide-input"]
    chapters.write(path, notebook)
    assert toy.stale() == {}
    toy.chapter("01_one", [READ.replace('"noise"', '"sound"')])
    assert toy.stale() == {"01_one": "its code has changed"}


def test_a_chapter_that_fails_keeps_its_outputs_and_costs_no_other_page(toy):
    """Also: what is executed for a build stays out of notebooks/, is shown, and is not executed again."""
    toy.chapter("01_one", [READ + "\nassert noise.noise() > 1, 'mostly `bookkeeping`'"])
    toy.chapter("02_two", [MEASURE.replace("measured", "found"), "pass"])
    toy.chapter("03_new", ["1 / 0"])
    before = toy.stored()
    status, said = toy.call("build")
    assert status == 1 and toy.stored() == before
    last = said.split("\n\n")[-1].splitlines()
    why = "its code has changed, and executing it failed: code cell 1: AssertionError: mostly `bookkeeping`"
    assert last[0] == f"01_one shows its last outputs: {why}"
    assert "02_two" in last[1] and "make run" in last[1]
    assert last[2].endswith("failed: code cell 1: ZeroDivisionError: division by zero")
    assert len(last) == 4 and "index.html" in last[3]
    failed = toy.page("01_one")
    assert "noise 1" in failed and "from the last successful run, on 20" in failed
    assert "could not be executed ( code cell 1: AssertionError: mostly 'bookkeeping' )" in failed
    assert "found 10" in toy.page("02_two") and "successful run" not in toy.page("02_two")
    assert "last successful run" in toy.page("03_new")
    assert "AssertionError" in (toy.root / "_build" / "failed" / "01_one.ipynb").read_text()

    toy.chapter("01_one", [READ])
    toy.chapter("03_new", ["1 / 1"])
    status, said = toy.call("build")
    assert status == 0 and "executing 1 of the chapters" in said, said
    assert "successful run" not in toy.page("01_one") + toy.page("03_new") and "found 10" in toy.page("02_two")
    assert "executing" not in toy.call("build")[1]


def test_a_kernel_that_dies_is_told(toy):
    toy.chapter("03_dies", ["print('so far')", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"])
    before = toy.stored()
    status, said = toy.call("run", "3")
    assert (
        status == 1 and said.splitlines()[-1] == "03_dies keeps its outputs: its kernel died: killed, or out of memory"
    )
    assert toy.stored() == before


def test_an_assertion_without_words_is_shown(toy):
    toy.chapter("03_fails", ["x = 1", "y = 2\nassert x > y"])
    status, said = toy.call("run", "stale")
    assert (
        status == 1 and said.splitlines()[-1] == "03_fails keeps its outputs: code cell 2: AssertionError: assert x > y"
    )


def test_an_interrupt_ends_the_kernels(toy):
    toy.chapter(
        "03_slow", ["import os, pathlib, time\npathlib.Path('pid').write_text(f'{os.getpid()}\\n')\ntime.sleep(600)"]
    )
    # a shell that starts the tests in its background has them ignore it, and so what they start
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process, told = toy.start("run", "03"), toy.root / "notebooks" / "pid"
    signal.signal(signal.SIGINT, before)
    while not (told.exists() and told.read_text().endswith("\n")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and said.splitlines()[-1].startswith("interrupted: ")
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


def test_outputs_from_real_data_are_not_replaced_by_those_of_a_stand_in(toy):
    look = "import os, pathlib\npath = pathlib.Path(os.environ['BRIDGEOUT_DATA']) / 'photos' / 'all'\n"
    toy.chapter("03_data", [look + "print(path.read_text() if path.exists() else 'digits')"])
    toy.write("data/photos/all", "photographs")
    real, none = {"BRIDGEOUT_DATA": str(toy.root / "data")}, {"BRIDGEOUT_DATA": str(toy.root / "nothing")}
    assert toy.call("run", "03", **real)[0] == 0
    before = toy.stored()
    assert b"photographs" in before["03_data.ipynb"] and b'"photos"' in before["03_data.ipynb"]
    status, said = toy.call("run", "03", **none)
    assert status == 1 and toy.stored() == before and "executing" not in said
    assert said.splitlines()[-1].startswith(
        "03_data keeps its outputs, which were computed from photos: put that into "
    )
    assert toy.call("run", "03", "--stand-ins", **none)[0] == 0
    assert b"digits" in toy.stored()["03_data.ipynb"]
    assert json.loads(toy.stored()["03_data.ipynb"])["metadata"]["bridgeout"]["data"] == []


def test_a_chapter_that_is_not_there_is_told_in_one_line():
    assert [path.stem[:2] for path in run.chosen(["7", "04", "4"])] == ["04", "07"]
    with pytest.raises(SystemExit, match=r"^no chapter 99: name some of 01 02 .*, or `stale` for those that changed$"):
        run.chosen(["04", "99"])
