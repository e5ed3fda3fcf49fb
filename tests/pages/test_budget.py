"""What a chapter may ask of its reader: words, lines of visible code, assertions; and what it must ask: predictions and
exercises. ``python tests/pages/test_budget.py`` prints a table."""

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

CHAPTERS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))

WORDS = range(2000, 3001)  # of a chapter, displayed formulas left out
BOOK = 42_000
LINES, COLUMNS = 20, 84  # of a visible cell; longer lines are cut off on the page
LOCKS = 3
EXERCISES = 2  # that take an answer
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}

# The last chapter sums up, and the appendix is looked up: neither asks as much.
UNASKED = {"15", "16"}


class Count(NamedTuple):
    """Of one chapter: words, lines of its longest visible cell, columns of its widest, most assertions in a visible
    cell, all visible assertions, locks, exercises that take an answer, predictions asked without a lock."""

    words: int
    lines: int
    columns: int
    most: int
    assertions: int
    locks: int
    exercises: int
    loose: int


def count(path: Path) -> Count:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    prose = re.sub(r"\$\$.*?\$\$|```\{math\}.*?```|<!--.*?-->", "", text, flags=re.S)
    code = [cell for cell in cells if cell.cell_type == "code"]
    visible = [cell.source for cell in code if not HIDDEN & set(cell.metadata.get("tags", []))]
    asserted = [len(re.findall(r"^\s*assert\b", source, re.M)) for source in visible]
    everything = "\n".join(cell.source for cell in code)
    return Count(
        words=len(prose.split()),
        lines=max(sum(bool(line.strip()) for line in source.splitlines()) for source in visible),
        columns=max(len(line) for source in visible for line in source.splitlines()),
        most=max(asserted),
        assertions=sum(asserted),
        locks=len(re.findall(r"notebook\.predict\(", everything)),
        exercises=len(set(re.findall(r'notebook\.check\(\s*"(ex-[\w-]+)"', everything))),
        loose=len(re.findall(r"\*\*Predict", text)),
    )


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_keeps_to_its_budget(path):
    found = count(path)
    unasked = path.stem[:2] in UNASKED
    assert found.words in WORDS or (unasked and found.words < WORDS.start), found
    assert found.lines <= LINES and found.columns <= COLUMNS, found
    assert found.most <= 1 and not found.loose, found  # one claim per cell, and one assertion for it
    if not unasked:
        assert found.locks >= LOCKS and found.exercises >= EXERCISES, found


def test_the_book_is_no_longer_than_a_student_reads():
    assert sum(count(path).words for path in CHAPTERS) <= BOOK


if __name__ == "__main__":
    print(f"{'chapter':32}", *(f"{name:>11}" for name in Count._fields))
    for path in CHAPTERS:
        print(f"{path.stem:32}", *(f"{number:11}" for number in count(path)))
    print(f"{'the book':32} {sum(count(path).words for path in CHAPTERS):11}")
