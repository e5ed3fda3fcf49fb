"""The in-page figures as the book shows them, one line each: for the tests, the screenshots and the benchmark."""

from typing import NamedTuple

import bridgeout_lite as bl
from bridgeout_lite import widgets


class Shown(NamedTuple):
    """A figure: the code that makes it, the keys that a reader presses to see its point, what a notebook may set."""

    code: str
    moves: list[tuple[str, str, int]]
    """A control's name or a button's text, the key, how often it is pressed."""
    sets: dict[str, float | str]
    opening: tuple[tuple[str, str, int], ...] = ()
    """What is pressed before the first screenshot."""

    def make(self) -> widgets.base.Figure:
        return eval(self.code, {"bl": bl, "widgets": widgets})

    def move(self, page, presses=None) -> None:
        """Press the keys of the moves (or of ``presses``), in a page that shows this figure alone."""
        for name, key, times in self.moves if presses is None else presses:
            control = page.locator(f'.sbn [name="{name}"]')
            (control if control.count() else page.get_by_role("button", name=name, exact=True)).focus()
            for _ in range(times):
                page.keyboard.press(key)
                page.evaluate("new Promise(requestAnimationFrame)")  # a drawing a press, so that every run is the same


GALLERY = {
    "NoisePenalty": Shown("widgets.NoisePenalty()", [("q", "ArrowRight", 40)], {"q": 3.0}),
    "LearnWhileYouDrag": Shown(
        "widgets.LearnWhileYouDrag()",
        [("q", "ArrowRight", 20), ("100 steps", "Enter", 100)],
        {"q": 2.0},
        opening=(("100 steps", "Enter", 100),),
    ),
    "BridgeGeometry": Shown("widgets.BridgeGeometry()", [("q", "ArrowLeft", 30)], {"q": 1.0}),
    "ActivationExplorer": Shown(
        'widgets.ActivationExplorer(bl.studies.activations.grid(bl.notebook.results("activation-grid")))',
        [("q", "ArrowRight", 4)],
        {"q": 3.0},
    ),
    "PruningExplorer": Shown(
        'widgets.PruningExplorer(bl.studies.pruning.comparisons(bl.notebook.results("pruning-cifar10")))',
        [("amount", "ArrowRight", 1), ("Recalibrated", "Enter", 1)],
        {"amount": 0.5},
    ),
    "Headline": Shown(
        'widgets.Headline(bl.studies.activations.grid(bl.notebook.results("activation-grid")), '
        'bl.studies.language.grid(bl.notebook.results("language-model")))',
        [("q", "ArrowLeft", 1), ("Transformer", "Enter", 1)],
        {"q": 1.0},
    ),
    "Arena": Shown(
        'widgets.Arena(bl.studies.arena.standings(bl.notebook.results("arena")))',
        [("budget", "ArrowLeft", 1), ("Colour the front", "Enter", 1)],
        {"treatment": "removed, recalibrated"},
    ),
}
