"""Exercises that take an answer: the book's solutions are right, near misses are not, and what is wrong is told."""

import re
import runpy
from pathlib import Path

import nbformat
import pytest
from refusals import refused

from bridgeout_lite.exercises import Choice, Number, exercise, seal, verdict
from bridgeout_lite.notebook import check

CHAPTERS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))


# For each exercise a right answer, wrong ones with what is said of them, and what is no answer at all.
ANSWERS = [runpy.run_path(str(path)) for path in sorted((Path(__file__).parent / "answers").glob("ch*.py"))]
RIGHT, WRONG, BAD = (
    {name: answer for chapter in ANSWERS for name, answer in chapter[kind].items()}
    for kind in ("RIGHT", "WRONG", "BAD")
)


@pytest.mark.parametrize("name", RIGHT)
def test_the_solution_is_right_and_a_near_miss_is_not(name, capsys):
    assert verdict(name, RIGHT[name]) == "right"
    for answer, words in WRONG[name]:
        said = verdict(name, answer)
        assert words in said and "\n" not in said and said != "right"
    check(name, RIGHT[name])
    assert capsys.readouterr().out == f"{name}: right\n"


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_no_mistake(name):
    """A chapter runs from top to bottom before its reader has answered anything."""
    empty = [None, ...] + ([lambda *values: None, lambda *values: ...] if callable(RIGHT[name]) else [])
    assert {verdict(name, answer) for answer in empty} == {"no answer yet"}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_of_another_kind_is_told_in_one_line(name):
    for words, answer in BAD[name]:
        refused(lambda answer=answer: verdict(name, answer), name, words)


@pytest.mark.parametrize("name", ["ex-02-z", "ex-99-a", "02-c", "", 3, "ex-01-a.b"])
def test_an_unknown_exercise_is_told_in_one_line(name):
    refused(lambda: check(name, 1.0), f"no exercise {name!r} takes an answer")


def test_a_number_says_how_far_off_it_is_and_not_what_it_is():
    asked = Number(lambda: 0.123456, within=0.01)
    assert asked.judge("ex", 0.1239) == "" and asked.judge("ex", 0.1) == "not yet: too low, by about 20 %"
    assert "123" not in asked.judge("ex", 5.0)


def test_a_choice_keeps_a_digest_of_its_own():
    assert seal("ex-01-a", "yes") != seal("ex-01-b", "yes") and isinstance(exercise("ex-02-a"), Choice)
    assert Choice(("yes", "no"), seal("ex-01-a", "yes")).judge("ex-01-a", "yes") == ""


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_chapters_ask_what_is_here_and_solve_it(path):
    """Of each exercise that takes an answer: a cell to answer in, and a hidden one that checks the solution."""
    asked, solved, locks = set(), set(), []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            hidden = "hide-cell" in cell.metadata.get("tags", [])
            (solved if hidden else asked).update(re.findall(r'\bcheck\(\s*"(ex-[\w-]+)"', cell.source))
            locks += re.findall(r'\bpredict\(\s*"([\w-]+)"', cell.source)
    chapter = path.stem[:2]
    assert asked == solved == {name for name in RIGHT if name.startswith(f"ex-{chapter}-")}
    assert len(set(locks)) == len(locks) and all(name.startswith(f"{chapter}-") for name in locks)
