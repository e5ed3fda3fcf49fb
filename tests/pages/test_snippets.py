"""The Python of README.md and book/api.md runs, from top to bottom, with what a reader has at hand.

``<!-- skip: next -->`` before a snippet leaves it out: for one that needs real data, or hours.
"""

from pathlib import Path

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import bridgeout_lite as bl

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "book/api.md"])
def test_snippets_run(page, digits, offline):
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
    )
    snippets = [*document.examples()]
    assert snippets, "the page has no Python"
    for snippet in snippets:
        snippet.evaluate()
