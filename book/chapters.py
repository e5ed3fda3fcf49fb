"""The chapters as files: what their stored outputs were computed from, and whether that is still what is here.

With its outputs a chapter stores, in its metadata under "bridgeout", what they were computed from: the files of the
package and of results/ that its kernel reached, each with a digest, and a key over these and its own code cells. Its
outputs are fresh while the key is what it would be today. Comments, docstrings and blank lines are in no key, nor are
the .js and .css of the in-page figures and locks, which a page takes from the package when it is rendered.
"""

import copy
import functools
import hashlib
import importlib
import io
import json
import os
import re
import sys
import tokenize
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the book's own package, whatever is installed
EMBEDDED = "scikit-learn: "  # data that every machine has
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"


def chapters(root: Path = ROOT) -> list[Path]:
    """The notebooks of the book, in order."""
    return sorted((root / "notebooks").glob("[0-9]*.ipynb"))


def read(path: Path) -> NotebookNode:
    """The notebook at ``path``."""
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    return notebook


def write(path: Path, notebook: NotebookNode) -> None:
    """Store a notebook at ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(number_widgets(nbformat.writes(notebook)) + "\n", encoding="utf-8")
    os.replace(partial, path)


# --- keys -------------------------------------------------------------------------------------------------------------


def code_only(source: str, *, cell: bool = False) -> str:
    """A source without comments, docstrings and blank lines; every Python version gives the same.

    A statement that is nothing but a string counts as a docstring, wherever it stands: executing it does nothing. Only
    at the margin of a ``cell`` it stays, since the cell may show it.
    """
    lines = source.split("\n")
    dropped: set[int] = set()
    inside: set[int] = set()
    statement: list[tokenize.TokenInfo] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            row, column = token.start
            inside.update(range(row, token.end[0] + 1) if token.end[0] > row else ())
            if token.type == tokenize.COMMENT:
                lines[row - 1] = lines[row - 1][:column].rstrip()
            elif token.type == tokenize.NEWLINE:
                margin = cell and statement and statement[0].start[1] == 0
                if statement and not margin and all(map(_is_plain_string, statement)):
                    dropped.update(range(statement[0].start[0], statement[-1].end[0] + 1))
                statement = []
            elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
                statement.append(token)
    except (tokenize.TokenError, SyntaxError):
        return source  # not Python, or not all of it: a shell command in a cell, say
    kept = (k for k, line in enumerate(lines, 1) if k not in dropped and (line.strip() or k in inside))
    return "\n".join(lines[k - 1] for k in kept)


def _is_plain_string(token: tokenize.TokenInfo) -> bool:
    return token.type == tokenize.STRING and "f" not in re.split("['\"]", token.string.lower())[0]


def digest(path: Path) -> str:
    """12 hex digits that name what a file says; "" for a file that is not there."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return _digest(path, status.st_mtime_ns, status.st_size)


@functools.cache
def _digest(path: Path, *version: int) -> str:
    if path.suffix == ".py":
        text = code_only(path.read_text(encoding="utf-8")).encode()
    else:
        text = path.read_bytes().replace(b"\r\n", b"\n")  # as git may check a text out on Windows
    return hashlib.sha256(text).hexdigest()[:12]


def key(notebook: NotebookNode, inputs: dict[str, str]) -> str:
    """16 hex digits over the code cells and the digests of ``inputs``."""
    code = [code_only(cell.source, cell=True) for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps([code, sorted(inputs.items())]).encode()).hexdigest()[:16]


def possible_inputs(root: Path = ROOT) -> dict[str, str]:
    """All that a chapter can be computed from, named from the root of the book, with its digest."""
    files = [file for name in ("bridgeout_lite", "results") for file in sorted((root / name).rglob("*"))]
    known = (file for file in files if file.is_file() and file.suffix not in {".js", ".css", ".pyc", ".lock"})
    return {file.relative_to(root).as_posix(): digest(file) for file in known}


def stale(notebook: NotebookNode, root: Path = ROOT) -> str:
    """Why the outputs of a notebook are not those of what is here, in a few words; "" if they are."""
    stored = notebook.metadata.get("bridgeout")
    if not stored:
        return "it was never executed by `make run`"
    now = {name: digest(root / name) for name in stored["inputs"]}
    changed = [name for name, known in stored["inputs"].items() if known != now[name]]
    if changed:
        return f"{changed[0]} has changed" + (f", and {len(changed) - 1} other files" if changed[1:] else "")
    return "" if key(notebook, now) == stored["key"] else "its code has changed"


def real_data(notebook: NotebookNode) -> list[str]:
    """The data that the outputs of a notebook were computed from, the embedded left aside."""
    data = notebook.metadata.get("bridgeout", {}).get("data", [])
    return [name for name in data if not name.startswith(EMBEDDED)]


def lost(before: NotebookNode, after: NotebookNode) -> list[str]:
    """The real data that ``before`` was computed from and ``after`` was not."""
    return [name for name in real_data(before) if name not in real_data(after)]


# --- outputs ----------------------------------------------------------------------------------------------------------


def current(path: Path) -> tuple[NotebookNode, str]:
    """The chapter with the best outputs there are, and why they are not those of what is here ("" if they are): the
    stored ones, or else those that an earlier build made in _build/executed, if they fit."""
    stored, root = read(path), path.parents[1]
    why = stale(stored, root)
    made = root / "_build" / "executed" / path.name
    if why and made.exists():
        executed = read(made)
        if not stale(NotebookNode(cells=stored.cells, metadata=executed.metadata), root):
            return with_outputs(stored, executed), ""
    return stored, why


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def with_outputs(notebook: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The text of ``notebook`` with the outputs and the metadata of ``executed``, which has the same code cells."""
    shown = copy.deepcopy(notebook)
    for cell, done in zip(code_cells(shown), code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    shown.metadata = executed.metadata
    return shown


def refresh_figures(notebook: NotebookNode) -> None:
    """Give the in-page figures that a notebook stores the package's present script and style."""
    models = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    for model in models.values():
        name = model["state"].get("_anywidget_id", "").rpartition(".")[2]
        figure = name and getattr(importlib.import_module("bridgeout_lite.widgets"), name, None)
        if figure:
            model["state"] |= {"_esm": figure._esm, "_css": figure._css}


def bare_locks(notebook: NotebookNode) -> None:
    """Take style and script from the prediction locks in a notebook's outputs: a page loads them once, from its own."""
    for output in (output for cell in code_cells(notebook) for output in cell.outputs):
        shown = output.get("data", {}).get("text/html", "")
        if "sbn-predict" in shown[:80]:
            output.data["text/html"] = re.sub(r"(?s)<style>.*</script>$", "", shown)


def number_widgets(text: str) -> str:
    """The notebook's text with every shown widget model's random id replaced by ``widget-00``, ``widget-01`` ...: first
    come, first numbered, each before the models that it refers to. Models that nothing shows are left out."""
    notebook = json.loads(text)
    saved = notebook["metadata"].get("widgets", {}).get(STATE)
    if not saved:
        return text
    order: dict[str, str] = {}

    def number(name: str) -> None:
        if name not in order:
            order[name] = f"widget-{len(order):02}"
            for other in re.findall(r"IPY_MODEL_([\w-]+)", json.dumps(saved["state"][name], sort_keys=True)):
                number(other)

    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).get(VIEW)
            if view and view["model_id"] in saved["state"]:
                number(view["model_id"])
    saved["state"] = {name: saved["state"][name] for name in order}
    text = json.dumps(notebook, ensure_ascii=False, indent=1)
    for name, short in order.items():
        text = text.replace(name, short)
    return text
