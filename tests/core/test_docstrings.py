"""Docstrings are rendered as reStructuredText with LaTeX, and shown as they are by Shift-Tab."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "bridgeout_lite"
FILES = sorted(PACKAGE.rglob("*.py"))


def docstrings(path):
    """(line, text) of every docstring in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            yield node.body[0].lineno, ast.get_docstring(node, clean=False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_maths_is_what_was_typed(path):
    r"""A doubled backslash in a raw docstring is a line break in LaTeX, meant only at the end of a row; a single one in
    an ordinary docstring may be a control character: "\t" of \theta, "\b" of \beta."""
    for line, text in docstrings(path):
        if ":math:" in text or ".. math::" in text:
            assert not re.search(r"\\\\(?!\n)", text), f"{path.name}, line {line}: a doubled backslash"
            assert not re.search(r"[\a\b\f\r\t\v]", text), f"{path.name}, line {line}: make the docstring raw"


def test_the_search_finds_them(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text('def f():\n    r""":math:`|x|^q\\\\,p`"""\n\n\ndef g():\n    """:math:`\\theta`"""\n')
    for text in dict(docstrings(bad)).values():
        assert re.search(r"\\\\(?!\n)|[\a\b\f\r\t\v]", text)
