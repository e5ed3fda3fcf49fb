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

    def make(self) -> widgets.base.Figure:
        return eval(self.code, {"bl": bl, "widgets": widgets})

    def move(self, page) -> None:
        """Press the keys, in a page that shows this figure alone."""
        for name, key, times in self.moves:
            control = page.locator(f'.sbn [name="{name}"]')
            (control if control.count() else page.get_by_role("button", name=name, exact=True)).focus()
            for _ in range(times):
                page.keyboard.press(key)


GALLERY = {
    "NoisePenalty": Shown("widgets.NoisePenalty()", [("q", "ArrowRight", 40)], {"q": 3.0}),
    "LearnWhileYouDrag": Shown("widgets.LearnWhileYouDrag()", [("q", "ArrowRight", 20)], {"q": 2.0}),
    "BridgeGeometry": Shown("widgets.BridgeGeometry()", [("q", "ArrowLeft", 30)], {"q": 1.0}),
    "ActivationExplorer": Shown(
        'widgets.ActivationExplorer(bl.notebook.results("activation-grid"))', [("q", "ArrowRight", 4)], {"q": 3.0}
    ),
}
