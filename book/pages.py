"""What Sphinx reads: chapters with the outputs that are here, a note on those that are not of today, and the in-page
figures of pages that are no notebook. A Sphinx extension; nothing is executed.
"""

import functools
import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import chapters
import nbformat
from docutils import nodes
from ipywidgets.embed import embed_data
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

LOG = logging.getLogger(__name__)


@functools.cache
def page_of(path: Path, failure: str) -> str:
    """The text of a chapter as its page shows it; ``failure`` says why it could not be executed again."""
    stored = chapters.read(path)
    shown, why = chapters.current(path)
    missing = chapters.lost(stored, shown)
    try:
        chapters.refresh_figures(shown)
    except Exception as error:  # a package that does not import must not cost the book
        LOG.warning("figures keep their stored script: the package does not import (%s)", error, location=str(path))
    shown.metadata.pop("bridgeout", None)
    if failure:
        when = stored.metadata.get("bridgeout", {}).get("executed")
        words = f"This chapter could not be executed (`{failure.replace('`', chr(39))}`), and {why}."
        words += f" Its outputs are from the last successful run{f', on {when}' if when else ''}."
        _note(shown, "warning", words)
    elif missing:
        words = f"The outputs on this page were computed without {', '.join(missing)}, from what stands in for it:"
        _note(shown, "note", f"{words} the numbers are others than in the text.")
    text: str = nbformat.writes(shown)
    return text


def _note(notebook: NotebookNode, kind: str, text: str) -> None:
    """Put a note under the title of a notebook."""
    title, newline, rest = notebook.cells[0].source.partition("\n")
    notebook.cells[0].source = f"{title}\n\n:::{{{kind}}}\n{text}\n:::\n{newline}{rest}"


def read_chapter(app: Sphinx, name: str, source: list[str]) -> None:
    """Let Sphinx read the page in place of the file."""
    path = Path(app.env.doc2path(name))
    if path in chapters.chapters(Path(app.srcdir)):
        source[0] = page_of(path, app.config.chapter_failures.get(path.stem, ""))


def changed_chapters(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """The chapters whose page has another text than when Sphinx last read it."""
    known = getattr(env, "bridgeout_pages", {})
    env.bridgeout_pages = {}
    for path in chapters.chapters(Path(app.srcdir)):
        text = page_of(path, app.config.chapter_failures.get(path.stem, ""))
        env.bridgeout_pages[env.path2doc(path)] = hashlib.sha256(text.encode()).hexdigest()
    return [name for name, text in env.bridgeout_pages.items() if known.get(name) != text]


class InPageFigure(SphinxDirective):
    """``{in-page-figure} NAME``: a figure of bridgeout_lite.widgets with its starting values."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        try:
            widgets = importlib.import_module("bridgeout_lite.widgets")
            figure = getattr(widgets, self.arguments[0])()
        except Exception as error:
            raise self.error(f"no figure {self.arguments[0]}: {error}") from error
        for file in Path(str(widgets.__file__)).parent.iterdir():
            self.env.note_dependency(str(file))
        model = embed_data(views=[figure], drop_defaults=False)["manager_state"]["state"][figure.model_id]
        del model["state"]["layout"]  # the one thing in it that is another each time
        name = f"figure-{self.env.new_serialno('in-page-figure'):02}"
        self.env.metadata[self.env.docname]["in-page-figures"] = True
        tags = {chapters.VIEW: {"model_id": name}, chapters.STATE: {"state": {name: model}}}
        # a closing tag inside the JSON would end the script early
        texts = {kind: json.dumps(data, sort_keys=True).replace("</", "<\\/") for kind, data in tags.items()}
        html = "".join(f'<script type="{kind}">{text}</script>' for kind, text in texts.items())
        return [nodes.raw("", html, format="html")]


def load_figures(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give a page with in-page figures their loader; MyST-NB does it for notebooks."""
    if "in-page-figures" in app.env.metadata[name]:
        app.add_js_file("figures.js")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("chapter_failures", {}, "")  # why chapters could not be executed, by the name of their file
    app.connect("source-read", read_chapter)
    app.connect("env-get-outdated", changed_chapters)
    app.connect("html-page-context", load_figures)
    app.add_directive("in-page-figure", InPageFigure)
    # It numbers sections once all is read, in the main process, but does not say that reading may be parallel.
    if "sphinx_multitoc_numbering" in app.extensions:
        app.extensions["sphinx_multitoc_numbering"].parallel_read_safe = True
    return {"parallel_read_safe": True, "parallel_write_safe": True}
