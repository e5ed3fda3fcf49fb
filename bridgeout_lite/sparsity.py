r"""How sparse is a tensor? Measures on tensors and on the activations of a network.

For n numbers, sorted by magnitude :math:`a_1 \le \dots \le a_n`:

* Hoyer: :math:`(\sqrt n - \lVert x\rVert_1/\lVert x\rVert_2)/(\sqrt n - 1)`,
* Gini: :math:`1 - 2\sum_i \frac{a_i}{\lVert x\rVert_1}\,\frac{n-i+1/2}{n}`,
* zero fraction: the share of elements with :math:`|x| \le` a threshold.

The first two run from 0 (all magnitudes equal) to 1 (one element carries everything; Gini reaches 1 - 1/n), and do not
change when x is multiplied by a constant.

Sources: Hoyer 2004 (JMLR 5), Hurley and Rickard 2009 (IEEE Trans. Inf. Theory 55).

Example:
    >>> x = torch.tensor([[0.0, 0.0, 3.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    >>> hoyer(x, dim=1), gini(x, dim=1), zero_fraction(x)
    (tensor([1., 0.]), tensor([0.7500, 0.0000]), tensor(0.3750))
    >>> filter_norms(x)
    tensor([3., 2.])
    >>> record_activations(nn.Sequential(nn.ReLU()), x)["0"]["zero_fraction"]
    0.375
"""

import torch
from torch import Tensor, nn

from .modules import Where, capture_activations
from .noise import DtypeError


def hoyer(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    r"""Hoyer's sparsity, in [0, 1], over all elements or over ``dim``. An all-zero slice counts as 1: nothing is on.

    Args:
        x: tensor of numbers, any shape; half precision is worked on in float32.
        dim: the dimensions that form one vector; defaults to all.

    Raises:
        ValueError: fewer than two elements in a vector (the measure divides by sqrt(n) - 1).
    """
    a = _vectors(x, dim)
    a = a / a.amax(-1, keepdim=True).clamp_min(torch.finfo(a.dtype).tiny)  # squares of tiny or huge values stay finite
    n = a.shape[-1]
    l1, l2 = a.sum(-1), a.square().sum(-1).sqrt()
    root = n**0.5
    value = (root - l1 / l2) / (root - 1.0)
    return torch.where(l2 == 0, torch.ones_like(value), value).clamp(0.0, 1.0)


def gini(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    r"""Gini index of the magnitudes, in [0, 1 - 1/n]; an all-zero slice counts as 1. Arguments and errors: see
    :func:`hoyer`."""
    a = _vectors(x, dim).sort(-1).values
    n = a.shape[-1]
    rank = torch.arange(1, n + 1, dtype=a.dtype, device=a.device)
    total = a.sum(-1)
    value = 1.0 - 2.0 * (a * ((n - rank + 0.5) / n)).sum(-1) / total
    return torch.where(total == 0, torch.ones_like(value), value).clamp(0.0, 1.0)


def zero_fraction(x: Tensor, dim: int | tuple[int, ...] | None = None, *, threshold: float = 0.0) -> Tensor:
    """Share of elements with ``|x| <= threshold``, in [0, 1]; for ``dim`` see :func:`hoyer`."""
    small: Tensor = _vectors(x, dim, least=1) <= threshold
    return small.float().mean(-1)


def filter_norms(weight: Tensor, ord: float = 2.0) -> Tensor:
    """Norm of every output filter of a convolution (O, I, kh, kw) or every row of a matrix (O, I): shape (O,)."""
    if weight.dim() < 2:
        raise ValueError(f"a weight with at least 2 dimensions is needed, got shape {tuple(weight.shape)}")
    norms: Tensor = torch.linalg.vector_norm(weight.detach().flatten(1), ord, dim=1)
    return norms


def record_activations(
    model: nn.Module, inputs: Tensor, *, where: Where | None = None, per_sample: bool = False
) -> dict[str, dict[str, float]]:
    """Run ``model`` on ``inputs`` in evaluation mode and measure the outputs of chosen layers.

    Args:
        model: any module; its modes are restored.
        inputs: one batch, as the model takes it.
        where: ``where(name, module) -> bool`` picks the layers. Default: every nonlinearity, or every leaf module if
            the model has no nonlinearity that is a module.
        per_sample: measure each sample on its own and average, instead of all values of the batch as one vector (as the
            predecessor's code does). A unit that is silent for most samples and loud for a few makes the batch sparse,
            not the samples.

    Returns:
        ``{layer name: {"hoyer", "gini", "zero_fraction", "rms"}}`` in the order of execution. rms is the root mean
        square of the outputs, to be read beside any sparsity because noise with q < 2 rewards large activations.

    Raises:
        ValueError: nothing is picked; a picked module runs twice in the forward pass, so has no single output.
    """
    result = {}
    for name, out in capture_activations(model, inputs, where=where).items():
        out = out.float()
        dim = tuple(range(1, out.dim())) if per_sample else None
        result[name] = {
            "hoyer": hoyer(out, dim).mean().item(),
            "gini": gini(out, dim).mean().item(),
            "zero_fraction": zero_fraction(out, dim).mean().item(),
            "rms": out.square().mean().sqrt().item(),
        }
    return result


def _vectors(x: Tensor, dim: int | tuple[int, ...] | None, least: int = 2) -> Tensor:
    """Magnitudes of ``x`` with the dimensions ``dim`` flattened into one last dimension."""
    if not isinstance(x, Tensor) or x.is_complex():
        raise DtypeError(f"a tensor of real numbers is needed, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    x = x.abs()
    if dim is None:
        x = x.reshape(-1)
    else:
        given = (dim,) if isinstance(dim, int) else tuple(dim)
        if any(not -x.dim() <= d < x.dim() for d in given):
            raise IndexError(f"dim must lie between {-x.dim()} and {x.dim() - 1} for a {x.dim()}-D tensor, got {dim}")
        dims = sorted(d % x.dim() for d in given)
        x = x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
    if x.shape[-1] < least:
        raise ValueError(f"at least {least} element(s) per vector are needed, got {x.shape[-1]}")
    return x
