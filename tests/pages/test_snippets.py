"""The Python of README.md, book/api.md and book/use_it.md runs, from top to bottom, with what a reader has at hand.

``<!-- skip: next -->`` before a snippet leaves it out: for one that needs real data, or hours.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import bridgeout_lite as bl
from bridgeout_lite.tv_compat import import_torchvision

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("timm", "lightning", "transformers")


@pytest.mark.parametrize("page", ["README.md", "book/api.md", "book/use_it.md"])
def test_snippets_run(page, digits, offline, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import_torchvision()  # timm and others import it
    torch.manual_seed(0)
    document = Sybil([PythonCodeBlockParser(), SkipParser()]).parse(ROOT / page)
    document.namespace.update(
        torch=torch,
        F=torch.nn.functional,
        model=bl.build_model("smallcnn", width=0.25),
        images=digits,
        image=digits.normalize(digits.valid.x[:1]),
        x=digits.normalize(digits.train.x[:8]),
        y=digits.train.y[:8],
        lr=0.1,
        folder=str(tmp_path),
    )
    snippets = [*document.examples()]
    assert snippets, "the page has no Python"
    for snippet in snippets:
        lacking = [name for name in FRAMEWORKS if f"import {name}\n" in snippet.parsed and not find_spec(name)]
        if not lacking:  # these are not among the book's requirements
            snippet.evaluate()
