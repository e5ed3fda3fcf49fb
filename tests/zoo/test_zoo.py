"""The layers and the pruning on other people's models: what book/zoo.md says of each."""

import os

import pytest
import zoo

pytestmark = pytest.mark.zoo
ROWS = {}


@pytest.mark.parametrize("name", zoo.MODELS)
def test_the_page_says_what_happens(name):
    package = zoo.lacking(name)
    if package:
        pytest.skip(f"{package} is not here: pip install {package}")
    ROWS[name] = row = zoo.row(name)
    if os.environ.get("ZOO") != "write":
        page = zoo.PAGE.read_text(encoding="utf-8").splitlines()
        missing = [line for line in (zoo.line(row), *zoo.refusals(row)) if line not in page]
        assert not missing, "make zoo ZOO=write"


def test_the_page_has_every_model():
    if os.environ.get("ZOO") == "write":
        assert list(ROWS) == list(zoo.MODELS), "the page is written when all models could be built"
        zoo.PAGE.write_text(zoo.page(list(ROWS.values())), encoding="utf-8")
    lines = zoo.PAGE.read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[0][2:] for line in lines if line.startswith("| ")][2:] == list(zoo.MODELS)
