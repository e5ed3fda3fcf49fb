"""A training step as a CUDA graph: recorded once, then started as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor

Work = Callable[[Tensor, Tensor], Tensor]


class Replay:
    """``work(x, y)`` by CUDA graph: the first calls run as they are, the next is recorded, and from then on the record
    is replayed on new x and y, which costs one launch in place of one a kernel.

    As torch's notes on whole-network capture ask: the first calls go to another stream; gradients must be None when the
    recording starts, so ``work`` has to set them to None itself, and nothing else may do so later; x, y and what is
    returned have fixed places. What is returned holds until the next call. Random draws from the default generator go
    on from where it stands at each replay, so seeding it works as ever.

    Raises:
        RuntimeError: ``work`` does what cannot be recorded, such as reading back a value.
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
