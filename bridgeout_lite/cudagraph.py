"""A training step as a CUDA graph: recorded once, then started as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor

Work = Callable[[Tensor, Tensor], Tensor]


class Replay:
    """``work(x, y)`` by CUDA graph: the first calls run as they are, the next is recorded, and later ones replay the
    recording on new x and y, at the cost of one launch instead of one per kernel.

    As torch's notes on whole-network capture require: the first calls go to another stream; gradients must be None when
    the recording starts, so ``work`` has to set them to None itself, and nothing else may do so later; x, y and the
    result have fixed places. A result is valid until the next call. Replays draw from the default generator's present
    state, so seeding works as usual.

    Raises:
        RuntimeError: ``work`` cannot be recorded, for example because it reads back a value.
    """

    WARM = 3

    def __init__(self, work: Work) -> None:
        self.work, self.calls = work, 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= self.WARM:
            here, aside = torch.cuda.current_stream(x.device), torch.cuda.Stream(x.device)
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                out = self.work(x, y)
            here.wait_stream(aside)
            return out
        if self.calls == self.WARM + 1:
            self.inputs, self.graph = (x.clone(), y.clone()), torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(self.graph):
                    self.out = self.work(*self.inputs)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                raise RuntimeError(
                    f"the step cannot be recorded as a CUDA graph ({reason}): leave graph out"
                ) from error
        for place, value in zip(self.inputs, (x, y), strict=True):
            place.copy_(value)
        self.graph.replay()
        return self.out
