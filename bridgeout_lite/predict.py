"""Prediction locks: the reader commits to an answer before it, and what follows it, opens.

A lock is HTML: a question, then the answers with what speaks for each, folded away. So it reads without JavaScript.
``widgets/predict.js`` makes it ask: a page of the book loads that once; a notebook has it beside each lock, which
needs no kernel, and a chapter is stored without it.
"""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import as_number, check_choice

_WIDGETS = Path(__file__).parent / "widgets"
_MARKS = ((r"\*(.+?)\*", "em"), (r"`(.+?)`", "code"), (r"\^\{(.+?)\}", "sup"), (r"_\{(.+?)\}", "sub"))
_SIDES = {"low": "A lower guess", "high": "A higher guess"}


@dataclass(frozen=True)
class Lock:
    """What :func:`predict` returns; a notebook shows it."""

    markup: str
    text: str

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        style, script = (
            "".join((_WIDGETS / name).read_text(encoding="utf-8") for name in names)
            for names in (("toolkit.css", "predict.css"), ("predict.js",))
        )
        return {
            "text/html": f"{self.markup}<style>{style}</style><script>{script}</script>",
            "text/plain": self.text,
        }


def predict(
    name: str,
    question: str,
    answers: Mapping[str, str],
    *,
    right: str | None = None,
    number: Sequence[float] | None = None,
    answer: Any = None,
    within: float | None = None,
    unit: str = "",
    because: str = "",
    opens: bool = True,
) -> Lock:
    """A question that a reader answers before its answer opens: one of several choices, or a number on a slider.

    Texts may hold ``*emphasis*``, code in backticks, ``^{superscripts}`` and ``_{subscripts}``.

    Args:
        name: the lock's own, such as "02-corner"; under it the page remembers the reader's answer.
        answers: of a choice: each choice, and what to say to who took it (why a wrong one tempts). Of a number: the
            same for a guess that is too "low" and one that is too "high".
        right: the right choice.
        number: the slider's stops, or (low, high, step) of it if there are three and the last is the smallest step.
        answer: the number itself, computed. within: how far off still counts as right.
        because: what everyone is told once the answer is open.
        opens: on a page, also cover the outputs that follow, and the prose from "What happened" to the next cell or
            heading.

    Raises:
        ValueError: no such choice; a number that is not finite or not on the slider; nothing, or all of it, is right.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"name must be letters, digits and dashes, such as '02-corner', got {name!r}")
    if number is None:
        check_choice(right, answers, "right")
        if len(answers) < 2:
            raise ValueError(f"answers must hold at least two choices, got {len(answers)}: add what tempts")
        asked, told = _choices(answers, right)
        options = "; ".join(answers)
    else:
        stops = _stops(number)
        asked, told = _number(answers, stops, answer, within, unit)
        options = f"a number from {stops[0]:g} to {stops[-1]:g}{unit}"
    told += f'<p class="sbn-because">{_html(because)}</p>' if because else ""
    covers = " data-opens" if opens else ""
    markup = (
        f'<section class="sbn sbn-predict" data-name="{name}"{covers}>'
        f'<div class="sbn-ask"><p class="sbn-question"><b>Predict.</b> {_html(question)}</p>{asked}</div>'
        f'<details class="sbn-answer"><summary>The answer</summary>{told}</details></section>'
    )
    return Lock(markup, f"Predict. {question} ({options})")


def _choices(answers: Mapping[str, str], right: str | None) -> tuple[str, str]:
    asked = "".join(f"<li>{_html(choice)}</li>" for choice in answers)
    told = "".join(
        f"<li{' data-right' if choice == right else ''}><b>{_html(choice)}</b>"
        f"{' (right)' if choice == right else ''}: <span>{_html(words)}</span></li>"
        for choice, words in answers.items()
    )
    return f"<ul>{asked}</ul>", f"<ul>{told}</ul>"


def _number(
    answers: Mapping[str, str], stops: list[float], answer: Any, within: float | None, unit: str
) -> tuple[str, str]:
    if set(answers) != set(_SIDES):
        raise ValueError(f"answers of a number must be for 'low' and 'high', got {', '.join(map(repr, answers))}")
    truth, reach = as_number(answer), as_number(within)
    if truth is None or not math.isfinite(truth) or not stops[0] <= truth <= stops[-1]:
        raise ValueError(f"answer must be a number on the slider, from {stops[0]:g} to {stops[-1]:g}, got {answer!r}")
    if reach is None or not 0 < sum(abs(stop - truth) <= reach for stop in stops) < len(stops):
        raise ValueError(f"within must count some stops of the slider as right and some as wrong, got {within!r}")
    data = {"stops": stops, "answer": float(f"{truth:.6g}"), "within": reach, "unit": unit}
    shown = f"{truth:.3g}{unit}".replace("-", "−")
    told = "".join(
        f'<li data-side="{side}"><b>{_SIDES[side]}</b>: <span>{_html(answers[side])}</span></li>' for side in _SIDES
    )
    return (
        f'<p class="sbn-number" data-number="{html.escape(json.dumps(data))}">A number from {stops[0]:g} to '
        f"{stops[-1]:g}{html.escape(unit)}.</p>",
        f'<p class="sbn-truth">It is <b>{html.escape(shown)}</b>.</p><ul>{told}</ul>',
    )


def _stops(number: Sequence[float]) -> list[float]:
    """The stops of a slider: as listed, or from (low, high, step)."""
    values = [as_number(value) for value in number]
    if any(value is None or not math.isfinite(value) for value in values):
        raise ValueError(f"number must be (low, high, step) or a list of stops, got {number!r}")
    stops = [float(value) for value in values if value is not None]
    if len(stops) == 3 and not stops[0] < stops[1] < stops[2]:
        low, high, step = stops
        count = (high - low) / step if step > 0 else 0
        if not 1 <= count <= 1000:
            raise ValueError(f"number must be low < high and a step between them, got {number!r}")
        stops = [float(f"{low + k * step:.10g}") for k in range(math.floor(count + 1e-9) + 1)]
    if len(stops) < 2 or sorted(set(stops)) != stops:
        raise ValueError(f"the stops of a number must rise, got {number!r}")
    return stops


def _html(text: str) -> str:
    shown = html.escape(text, quote=False)
    for pattern, tag in _MARKS:
        shown = re.sub(pattern, rf"<{tag}>\1</{tag}>", shown)
    return shown
