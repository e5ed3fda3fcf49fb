"""What every in-page figure shares: one anywidget whose picture is computed in the browser, and its plain stand-in.

A figure's traits are its controls and its data; its JavaScript draws from them alone, so a page that holds them needs
no kernel. With a kernel the same traits are synchronised both ways. Where the anywidget package is missing (or
``BRIDGEOUT_WIDGETS=plain`` is set) the same class is a column of ipywidgets with a matplotlib picture; it still
carries the JavaScript, and the loader of the built book draws the in-page figure from it.
"""

import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import traitlets
from matplotlib.figure import Figure as Picture

_HERE = Path(__file__).parent
_SHARED = ("maths", "toolkit")


def _base() -> Any:
    if os.environ.get("BRIDGEOUT_WIDGETS") == "plain":
        return ipywidgets.VBox
    try:
        import anywidget
    except ImportError:
        return ipywidgets.VBox
    return anywidget.AnyWidget


_BASE = _base()


def script(name: str) -> str:
    """The ES module of a figure: the shared files and its own, joined, without the imports between them."""
    parts = [(_HERE / f"{part}.js").read_text(encoding="utf-8") for part in (*_SHARED, name)]
    return re.sub(r'^import [^;]*? from "\./\w+\.js";\n', "", "\n".join(parts), flags=re.M)


def style(name: str) -> str:
    """The style sheet of a figure: the shared one and its own."""
    return "".join((_HERE / f"{part}.css").read_text(encoding="utf-8") for part in ("toolkit", name))


class Figure(_BASE):  # type: ignore[misc, valid-type]
    """An in-page figure. A subclass names its files, declares a trait for each control, and says in Python what its
    JavaScript says in the page: :meth:`numbers` (the readout) and :meth:`picture` (the stand-in).

    Attributes:
        title: the heading. controls: for each control its ``label``, starting ``value`` and either ``min``, ``max``,
            ``step``, or ``values`` (a slider's stops), or ``options`` (a menu). presets: values by button.
    """

    file: str
    """Name of the figure's .js and .css."""

    data: tuple[str, ...] = ()
    """Names of the traits, beside the controls, that the picture depends on and that may change."""

    title = traitlets.Unicode().tag(sync=True)
    controls = traitlets.Dict().tag(sync=True)
    presets = traitlets.Dict().tag(sync=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "file" in cls.__dict__:  # not the subclasses that traitlets makes to add a trait
            cls._esm, cls._css = script(cls.file), style(cls.file)

    def __init__(self, **values: Any) -> None:
        if _BASE is ipywidgets.VBox:
            self.add_traits(
                _esm=traitlets.Unicode(self._esm).tag(sync=True), _css=traitlets.Unicode(self._css).tag(sync=True)
            )
        controls: Any = values.get("controls") or type(self).controls.default_args[0]  # type: ignore[index]
        super().__init__(**{key: control["value"] for key, control in controls.items()} | values)
        if _BASE is ipywidgets.VBox:
            self.children = self._stand_in()

    def stops(self, name: str) -> Iterable[Any]:
        """The values of a control that has a list of them: of a slider with stops or a menu."""
        control = self.controls[name]
        listed: list[Any] = control.get("values") or control.get("options") or []
        return listed

    def hint(self, name: str) -> str:
        """What to add to the message when a control is set to a value that it does not have."""
        return ""

    def numbers(self) -> dict[str, float]:
        """The readout: what the figure's JavaScript shows for the present controls, computed in Python."""
        raise NotImplementedError

    def picture(self) -> Picture:
        """The figure for the present controls, drawn by matplotlib."""
        raise NotImplementedError

    def _stand_in(self) -> list[Any]:
        """The same controls as ipywidgets, over a picture drawn in Python."""
        view, words = ipywidgets.Image(format="png"), ipywidgets.HTML()

        def draw(_: Any = None) -> None:
            buffer = io.BytesIO()
            with plt.ioff():
                picture = self.picture()
                picture.savefig(buffer, format="png", dpi=80)
                plt.close(picture)
            view.value = buffer.getvalue()
            words.value = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self.numbers().items())

        def grow(_: Any) -> None:
            for row, control in zip(rows, self.controls.values(), strict=True):
                if "values" in control:
                    row.options = control["values"]

        rows = []
        for key, control in self.controls.items():
            row = _row(control)
            traitlets.link((self, key), (row, "value"))
            self.observe(draw, key)
            rows.append(row)
        self.observe(grow, "controls")
        if self.data:  # an empty list would stand for every trait
            self.observe(draw, [*self.data])
        draw()
        return [ipywidgets.HTML(f"<b>{self.title}</b>"), *rows, view, words]

    def __repr__(self) -> str:
        state = ", ".join(f"{key}={getattr(self, key)!r}" for key in self.controls)
        return f"{type(self).__name__}({state}): an in-page figure; see it in the book, or run this cell"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/plain"] = repr(self)  # no address of memory, and the same for both bases
        return bundle


def checked(*names: str) -> Any:
    """The validator of these controls: what their slider or menu does not have is a ValueError that says what it has.
    In a class: ``_check = checked("p", "q")``."""
    return traitlets.validate(*names)(_check)


def _check(figure: Figure, proposal: traitlets.Bunch) -> Any:
    name, value = proposal["trait"].name, proposal["value"]
    if listed := list(figure.stops(name)):
        if value not in listed:
            raise ValueError(f"{name} must be one of {', '.join(map(str, listed))}{figure.hint(name)}; got {value!r}")
    else:
        low, high = figure.controls[name]["min"], figure.controls[name]["max"]
        if not low <= value <= high:
            raise ValueError(f"{name} must be a number from {low} to {high} (the ends of its slider), got {value!r}")
    return value


def _row(control: Mapping[str, Any]) -> Any:
    wide = {"style": {"description_width": "12em"}, "layout": {"width": "34em"}}
    if "options" in control:
        return ipywidgets.Dropdown(options=control["options"], description=control["label"], **wide)
    if "values" in control:
        return ipywidgets.SelectionSlider(options=control["values"], description=control["label"], **wide)
    kind = ipywidgets.IntSlider if isinstance(control["step"], int) else ipywidgets.FloatSlider
    limits = {name: control[name] for name in ("min", "max", "step")}
    return kind(**limits, description=control["label"], **wide)


def uniforms(seed: int, count: int) -> list[float]:
    """``count`` numbers in [0, 1) from a 32-bit seed, the same as the page draws: Tommy Ettinger's mulberry32."""
    mask = np.uint64(0xFFFFFFFF)  # 32-bit arithmetic in 64 bits; the state only counts, so all draws come at once
    state = (np.uint64(seed & 0xFFFFFFFF) + np.uint64(0x6D2B79F5) * np.arange(1, count + 1, dtype=np.uint64)) & mask
    t = ((state ^ (state >> np.uint64(15))) * (state | np.uint64(1))) & mask
    t ^= (t + (((t ^ (t >> np.uint64(7))) * (t | np.uint64(61))) & mask)) & mask
    numbers: list[float] = (((t ^ (t >> np.uint64(14))) & mask) / 4294967296).tolist()
    return numbers
