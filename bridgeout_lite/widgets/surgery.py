r"""Live surgery: recorded networks of CIFAR-10 whose filters the reader prunes, by forward passes in the page."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from ..figures import BLUE, GREY, panels
from ..studies.pruning.tables import SETTING, Comparison, strength
from .base import Figure, checked, script
from .playground import worker
from .recorded import menu, slider

HOME = Path(__file__).with_name("networks")
"""The files that the figure shows; ``book/surgery_networks.py`` makes them."""
NETWORKS = ("weight decay only", "Dropout", "Batch Bridgeout")
AMOUNTS = tuple(round(0.05 * k, 2) for k in range(19))
TREATMENTS = ("zeroed", "silenced", "removed", "zeroed, recalibrated", "removed, recalibrated")
STORED = tuple(treatment for treatment in TREATMENTS if treatment != "silenced")
"""The treatments whose answers are stored; what is silenced says what is removed."""
TEST, COLUMNS = 512, 32
"""Test images, and images beside each other in the picture of all."""


@functools.cache
def stored_index() -> dict[str, Any]:
    """What ``index.json`` says."""
    stored: dict[str, Any] = json.loads((HOME / "index.json").read_text(encoding="utf-8"))
    return stored


@functools.cache
def stored_answers() -> NDArray[np.uint8]:
    """The stored answers: network, treatment (of ``STORED``), amount, image."""
    packed = np.frombuffer((HOME / stored_index()["answers"]["file"]).read_bytes(), np.uint8)
    shape = (len(NETWORKS), len(STORED), len(AMOUNTS), TEST)
    return np.stack([packed >> 4, packed & 15], 1).reshape(shape)


def recorded(comparison: Comparison) -> dict[str, dict[str, list[list[float]]]]:
    """The mean test accuracies (%) of a recorded comparison, at the strengths of the page's networks: by network and
    treatment the amounts and the accuracies; only what is recorded."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for name in NETWORKS:
        rows = comparison.curves
        for column, value in zip(SETTING, strength(stored_index()["networks"][name]["spec"]), strict=True):
            rows = rows[rows[column] == value]
        found[name] = {}
        for treatment in TREATMENTS:
            part = rows[rows["treatment"] == ("removed" if treatment == "silenced" else treatment)]
            means = part.groupby("amount")["accuracy"].mean()
            if len(means):
                found[name][treatment] = [means.index.tolist(), means.round(2).tolist()]
    return found


class Surgery(Figure):
    """Prune a recorded network in the page: its accuracy on test images, what it then confuses, and the answers that
    changed.

    The networks (the book's small convolutional network, :func:`bridgeout_lite.models.smallcnn`) and the images come
    with the package, see ``book/surgery_networks.py``. The figure first shows stored answers, which
    PyTorch gave for every stop of its controls; when the reader asks for it, a worker prunes the network and passes all
    images through it anew. The treatments are those of :mod:`bridgeout_lite.pruning`. Dashed beside it: the recorded
    curve of the same method and strength, three larger networks on all test images.

    Args:
        comparisons: what :func:`bridgeout_lite.studies.pruning.tables.comparisons` makes of the records; the first is
            shown.
        network: "weight decay only", "Dropout" or "Batch Bridgeout". treatment: one of ``TREATMENTS``.
        amount: share of the filters of each layer that are pruned, one of ``AMOUNTS``.

    Raises:
        ValueError: no comparison; a control that has no such stop.
    """

    file = "surgery"
    network = traitlets.Unicode().tag(sync=True)
    treatment = traitlets.Unicode().tag(sync=True)
    amount = traitlets.Float().tag(sync=True)
    title = traitlets.Unicode("Live surgery: prune a network, and see what it still knows").tag(sync=True)
    index = traitlets.Dict().tag(sync=True)
    networks = traitlets.Bytes().tag(sync=True)
    images = traitlets.Bytes().tag(sync=True)
    answers = traitlets.Bytes().tag(sync=True)
    controls = traitlets.Dict(
        {
            "network": menu("network trained with", NETWORKS, "weight decay only"),
            "treatment": menu("what happens to the filters", TREATMENTS, "zeroed"),
            "amount": slider("share of filters pruned", AMOUNTS, 0.2),
        }
    ).tag(sync=True)

    def __init__(self, comparisons: Iterable[Comparison] = (), **values: Any) -> None:
        first = next(iter(comparisons), None)
        if first is None:
            raise ValueError("no comparison: give bl.studies.pruning.tables.comparisons(records)")
        about, files = stored_index(), {name: HOME / one["file"] for name, one in stored_index()["networks"].items()}
        contents = {name: file.read_bytes() for name, file in files.items()}
        networks = {
            name: {"bytes": len(contents[name]), "norms": one["norms"], "order": one["order"]}
            for name, one in about["networks"].items()
        }
        index = {
            "networks": networks,
            "layout": about["layout"],
            "costs": about["costs"],
            "columns": COLUMNS,
            "recorded": recorded(first),
            "source": f"dashed: {first.name.split(', ')[1]}, recorded",
            **{name: about["images"][name] for name in ("labels", "classes", "mean", "std")},
        }
        stored = {name: (HOME / about[name]["file"]).read_bytes() for name in ("images", "answers")}
        super().__init__(index=index, networks=b"".join(contents.values()), **stored | values)

    _check = checked("network", "treatment", "amount")

    def _answers(self, treatment: str) -> NDArray[np.uint8]:
        """The stored answers of the present network: amount, image."""
        stored = "removed" if treatment == "silenced" else treatment
        found: NDArray[np.uint8] = stored_answers()[NETWORKS.index(self.network), STORED.index(stored)]
        return found

    def numbers(self) -> dict[str, float]:
        """Of the stored answers: accuracy (%) with its 95 % interval (Wilson), and how many are others than before
        pruning; how many filters went; of the network that is left thousands of parameters, and millions of
        multiply-adds per image."""
        from scipy.stats import binomtest

        said, labels = self._answers(self.treatment), np.array([*map(int, self.index["labels"])])
        at = AMOUNTS.index(self.amount)
        correct = int((said[at] == labels).sum())
        low, high = binomtest(correct, len(labels)).proportion_ci(method="wilson")
        orders = self.index["networks"][self.network]["order"]
        parameters, macs = self.index["costs"][at if self.treatment.startswith("removed") else 0]
        return {
            "accuracy": 100 * correct / len(labels),
            "low": 100 * float(low),
            "high": 100 * float(high),
            "changed": float((said[at] != self._answers("zeroed")[0]).sum()),
            "gone": float(sum(int(len(order) * self.amount) for order in orders)),
            "parameters": parameters / 1e3,
            "macs": macs / 1e6,
        }

    def picture(self) -> Picture:
        fig, (left, right) = panels(2, height=3.2, layout="constrained")
        labels = np.array([*map(int, self.index["labels"])])
        said, numbers = self._answers(self.treatment), self.numbers()
        left.plot(AMOUNTS, 100 * (said == labels).mean(1), color=BLUE, marker="", label="this network")
        line = self.index["recorded"][self.network].get(self.treatment)
        if line:
            left.plot(*line, color=GREY, linestyle="--", marker="", label=self.index["source"])
        reach = [[numbers["accuracy"] - numbers["low"]], [numbers["high"] - numbers["accuracy"]]]
        left.errorbar([self.amount], [numbers["accuracy"]], yerr=reach, color=BLUE, fmt="o")
        left.set(xlabel="share of filters pruned", ylabel="images right (%)", ylim=(0, 100), title="Accuracy")
        left.legend()
        table = np.zeros((10, 10))
        np.add.at(table, (labels, said[AMOUNTS.index(self.amount)]), 1)
        right.imshow(table, cmap="Blues")
        right.set(xlabel="what it is called", ylabel="what it is", title="What is taken for what")
        return fig


# the worker travels inside the script, so that a page needs one file and a stored page gets both anew
Surgery._esm = f"const WORKER = {json.dumps(worker('engine/surgery'))};\n{script('surgery')}"
