"""Exercises that take an answer: the book's solutions are right, near misses are not, and what is wrong is told."""

import math
import re
from pathlib import Path

import nbformat
import pytest
import torch
from refusals import refused

from bridgeout_lite.exercises import Choice, Number, exercise, seal, verdict
from bridgeout_lite.notebook import check

CHAPTERS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))


def growth(a, p):
    return p * torch.exp(-a) + (1 - p) * torch.exp(a * p / (1 - p))


def ridge(X, y, p, q):
    strength = p / (1 - p) * X.abs().pow(q).mean(0)
    return torch.linalg.solve(X.T @ X / len(X) + torch.diag(strength), X.T @ y / len(X))


RIGHT = {
    "ex-01-a": 0.25 / math.expm1(0.25),
    "ex-01-b": growth,
    "ex-02-b": 0.1,
    "ex-02-c": ridge,
    "ex-03-b": "q = 2 only",
    "ex-03-c": 0.53979,
}
WRONG = {
    "ex-01-a": [(1.0, "too high, by about 10 %"), (-0.88, "wrong sign"), (torch.tensor(0.5), "too low, by about 40 %")],
    "ex-01-b": [(lambda a, p: 1 + a**2 * p / (1 - p) / 2, "at a = -1.2, p = 0.1 it is off by -4 %")],
    "ex-02-b": [(10.0, "too high, by over 100 %"), (0.01, "too low, by about 90 %")],
    "ex-02-c": [
        (lambda X, y, p, q: torch.linalg.lstsq(X, y[:, None]).solution[:, 0], "at p = 0.5, q = 2.0 the expected loss"),
        (lambda X, y, p, q: ridge(X, y, p, 2.0), "at p = 0.3, q = 1.0 the expected loss still has a slope"),
        (lambda X, y, p, q: ridge(X, y, p, q)[:, None], "4 weights for 4 features, and gives shape (4, 1)"),
    ],
    "ex-03-b": [("no q", "not this one"), ("every q", "not this one")],
    "ex-03-c": [(0.586, "too high, by about 9 %"), (0.5, "too low, by about 7 %")],
}
BAD = {
    "ex-01-a": [("takes one finite number", "a lot"), ("takes one finite number", float("nan"))],
    "ex-01-b": [("takes a function M(a, p)", 3), ("ZeroDivisionError", lambda a, p: 1 / 0)],
    "ex-02-c": [("takes a function best(X, y, p, q)", lambda X: X)],
    "ex-03-b": [("did you mean 'q = 2 only'?", "q = 2")],
}


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
    assert seal("ex-01-a", "yes") != seal("ex-01-b", "yes") and isinstance(exercise("ex-03-b"), Choice)
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
