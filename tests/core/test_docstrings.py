"""Docstrings are rendered as reStructuredText with LaTeX, and shown as they are by Shift-Tab."""

import ast
import doctest
import importlib
import inspect
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


CORE = "noise layers theory sparsity data text models training cost pruning channels stats".split()  # noqa: SIM905

# What a reader has no use for alone: parts of the functions that have examples, and what chapters print.
INSIDE = """
check_noise keep_mask smallest_mask is_activation is_3x3_convolution noise_aside put_on_weight take_off_weight
kept_images data_folder put_in_place explained split smallcnn vgg resnet wide_resnet airnet pick_precision prepare
augment autocast make_scheduler export_onnx apply_masks check_model trace black_image group_of is_importance names_of
tied_channels silencing_masks check_pairs plain_copy paired_difference advantage
"""


@pytest.mark.parametrize("name", [*CORE, "rivals.proximal"])
def test_examples_run_and_show_every_public_function(name):
    module = importlib.import_module(f"bridgeout_lite.{name}")
    examples = [e for test in doctest.DocTestFinder().find(module) for e in test.examples]
    outcome = doctest.testmod(module)
    assert outcome.attempted == len(examples) > 0 and outcome.failed == 0
    shown = set(re.findall(r"\w+", " ".join(e.source for e in examples)))
    functions = {n for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__}
    if name in CORE:
        assert {n for n in functions if not n.startswith("_")} - set(INSIDE.split()) <= shown
