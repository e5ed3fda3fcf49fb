"""A task whose truth is known: are the units that a student of a small teacher needs kept by evolution?"""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import check_fraction, check_positive, check_whole
from ...cost import count
from ...modules import seeded
from ...rivals.gates import LAWS, Stress
from ...runs.records import Record
from ...sparsity import filter_norms
from ..experiment import Experiment, Run, runs_of
from .synthesis import cluster_probability, cut, derived_seed, synthesize

# A student's filter is one of the teacher's from this cosine on.
ALIKE = 0.9


class Task(NamedTuple):
    """What a student learns: the teacher's units (teacher, inputs), inputs and targets of training, then of test."""

    units: Tensor
    x: Tensor
    y: Tensor

    name: str = "teacher"
    checksum: str = ""

    def to(self, device: torch.device) -> "Task":
        """It stays on the CPU."""
        return self


@dataclasses.dataclass(frozen=True)
class TeacherExperiment(Experiment):
    r"""A lineage of students of a teacher with few hidden units, and its controls: are the needed units kept?

    The teacher is :math:`y = \sum_{k=1}^{K}\max(0, u_k^\top x)` with orthonormal :math:`u_k` and x standard normal. The
    student has many such units with weights of its own, each as one filter of a 1x1 convolution, and no BatchNorm. A
    unit of the student is *needed* if the cosine of its weights with some :math:`u_k` is at least ``ALIKE``.

    Attributes:
        inputs: length of x. teacher, students: hidden units of the two; teacher <= inputs.
        generations, factor: as in :class:`EvolutionExperiment`. stress: of the lineage "stress", but in its last
            generation, which without BatchNorm could not make up for weights that are larger in evaluation.
        samples: training examples, and as many for the test. steps: of the first training; later ones take a third.
        decay: of the squared weights in the loss, which lets units die that nobody reads.
        seed: of everything drawn.
    """

    inputs: int = 16
    teacher: int = 4
    students: int = 32
    generations: int = 3
    factor: float = 0.9
    stress: float = 0.5
    samples: int = 2000
    steps: int = 600
    decay: float = 1e-3
    seed: int = 0

    PROTOCOL: ClassVar[int] = 1
    TAGS: ClassVar[dict[str, Any]] = {
        "dataset": "teacher",
        "method": "evolution",
        "model": "student",
        "task": "teacher",
    }

    def __post_init__(self) -> None:
        for name in ("inputs", "teacher", "students", "generations", "samples", "steps", "seed"):
            check_whole(getattr(self, name), name, 0 if name == "seed" else 1)
        if self.teacher > self.inputs:
            raise ValueError(
                f"teacher must be at most inputs={self.inputs}, as its units are orthogonal; got {self.teacher}"
            )
        self._settle(factor=check_fraction(self.factor, "factor", zero=False))
        self._settle(stress=check_fraction(self.stress, "stress"), decay=check_positive(self.decay, "decay"))

    def load(self) -> "Task":
        """The teacher's units, and inputs and targets of training, then of test."""
        draws = torch.Generator().manual_seed(derived_seed(self.seed, "data"))
        units = torch.linalg.qr(torch.randn(self.inputs, self.inputs, generator=draws))[0].T[: self.teacher]
        x = torch.randn(2 * self.samples, self.inputs, 1, 1, generator=draws)
        return Task(units, x, F.relu(x.flatten(1) @ units.T).sum(1))

    def student(self, phase: str = "first") -> nn.Sequential:
        """A student with new weights."""
        with seeded(derived_seed(self.seed, f"weights {phase}")):
            conv = nn.Conv2d(self.inputs, self.students, 1, bias=False)
            return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(self.students, 1))

    def train(self, model: nn.Module, phase: str, steps: int, stress: float = 0.0) -> nn.Module:
        """Train a student by AdamW in batches of 100. Changes ``model`` and returns it."""
        _, x, y = self.load()[:3]
        if stress:
            Stress(stress).attach(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with seeded(derived_seed(self.seed, phase)):
            for _ in range(steps):
                batch = torch.randint(self.samples, (100,))
                decay = sum(p.square().sum() for p in model.parameters())
                loss = F.mse_loss(model(x[batch]).squeeze(1), y[batch]) + self.decay * decay
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
        return Stress(stress).detach(model) if stress else model

    def run(self, data: Any = None, *, device: str | torch.device = "cpu", **options: Any) -> Record:
        """On the CPU, whatever the device: the networks are too small for another."""
        return super().run(data, device="cpu", **options)

    def measure(self, task: "Task", run: Run) -> dict[str, Any]:
        """Train the lineages and controls.

        Returns:
            arms: {name: units, covered (share of the teacher's units to which a unit of the student is alike), error
            (test error over the variance of y)} of "parent", the lineages "evolution" and "stress", and the controls
            "gradual", "magnitude", "random" and "scratch" at the sizes of "evolution"; and selection: {rule: [chance of
            a needed unit of the parent to be kept, of another one]}, the rules "magnitude" and "random" keeping as many
            as "exp" does on average; null if all are needed, or none.
        """
        image, later = torch.zeros(1, self.inputs, 1, 1), max(1, self.steps // 3)
        parent = self.train(self.student(), "first", self.steps)
        arms, sizes = {"parent": self.measured(parent)}, []
        for name, stress in (("evolution", 0.0), ("stress", self.stress)):
            model = self.train(self.student(), "first", self.steps, stress) if stress else parent
            for generation in range(1, self.generations + 1):
                draws = torch.Generator().manual_seed(derived_seed(self.seed, f"synthesis {generation}"))
                model = synthesize(model, self.factor, draws, example_input=image)
                if name == "evolution":
                    sizes.append({"0": count(model, image)[0] // (self.inputs + 1)})
                more = stress if generation < self.generations else 0.0
                model = self.train(model, f"{name} {generation}", later, more)
            arms[name] = self.measured(model)
        model = parent
        for generation, widths in enumerate(sizes, 1):
            model = self.train(cut(model, widths, "magnitude", image), f"gradual {generation}", later)
        arms["gradual"] = self.measured(model)
        draws, steps = torch.Generator().manual_seed(derived_seed(self.seed, "controls")), self.generations * later
        for name in ("magnitude", "random"):
            arms[name] = self.measured(self.train(cut(parent, sizes[-1], name, image, draws), name, steps))
        model = cut(self.student("scratch"), sizes[-1], "random", image, draws)
        arms["scratch"] = self.measured(self.train(model, "scratch", self.steps + steps))
        return {"arms": arms, "selection": self.selection(parent)}

    def likeness(self, model: nn.Module) -> Tensor:
        """Cosine of the weights of each unit of a student with each of the teacher's, (units, teacher)."""
        weights = F.normalize(model.get_parameter("0.weight").detach().flatten(1), dim=1)
        return weights @ self.load()[0].T

    @torch.no_grad()
    def measured(self, model: nn.Module) -> dict[str, float]:
        """units, covered and error of a student; see :meth:`run`."""
        _, x, y = self.load()[:3]
        x, y = x[self.samples :], y[self.samples :]
        alike = self.likeness(model)
        error = F.mse_loss(model(x).squeeze(1), y) / y.var()
        return {
            "units": len(alike),
            "covered": (alike >= ALIKE).any(0).cpu().double().mean().item(),
            "error": error.item(),
        }

    def selection(self, parent: nn.Module) -> dict[str, list[float]] | None:
        """See :meth:`run`."""
        needed = (self.likeness(parent) >= ALIKE).any(1)
        if needed.all() or not needed.any():
            return None
        w = parent.get_parameter("0.weight")
        chance = {law: self.factor * cluster_probability(w, law=law) for law in LAWS}
        order = filter_norms(w.detach().cpu().double()).argsort(descending=True)
        chance["magnitude"] = torch.zeros(len(w), dtype=torch.float64)
        chance["magnitude"][order[: round(chance["exp"].sum().item())]] = 1
        chance["random"] = chance["exp"].mean().expand(len(w))
        return {rule: [c[needed].mean().item(), c[~needed].mean().item()] for rule, c in chance.items()}


def teachers_frame(records: Iterable[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of the runs of :class:`TeacherExperiment`, one row per run and arm: seed, arm, units, covered, error; and one
    row per run and rule: seed, rule, needed, other (chance of such a unit to be kept) and their difference, gap."""
    arms, selection = [], []
    for record in runs_of(records, task="teacher"):
        seed = {"seed": record.spec["seed"]}
        arms += [seed | {"arm": name} | row for name, row in record.metrics["arms"].items()]
        for rule, (needed, other) in (record.metrics["selection"] or {}).items():
            selection.append(seed | {"rule": rule, "needed": needed, "other": other, "gap": needed - other})
    return pd.DataFrame(arms), pd.DataFrame(selection)
