r"""The one primitive of the book: zero-mean noise whose variance is :math:`|x|^q\,p/(1-p)`.

With a drop probability :math:`p` and :math:`r \sim \mathrm{Bernoulli}(1-p)`, let

.. math:: \xi = \frac{r}{1-p} - 1, \qquad E[\xi] = 0, \qquad \mathrm{Var}[\xi] = \frac{p}{1-p}.

Every element gets its own :math:`\xi` and moves by :math:`|x|^{q/2}\xi`:

* form ``"odd"``:  :math:`\tilde x = x + \mathrm{sign}(x)\,|x|^{q/2}\,\xi` (at q = 2 this is inverted dropout),
* form ``"even"``: :math:`\tilde x = x + |x|^{q/2}\,\xi` (the two agree for :math:`x \ge 0`).

On activations this is Sparseout, on weights Bridgeout; :func:`sparseout` and :func:`bridgeout` are the same function
with other defaults. Zeros stay zero: :math:`0^0 := 0`, so that q = 0 counts the nonzeros, as the L_0 "norm" does.

Sources: Khan and Stavness 2019, arXiv:1904.08050 (Sparseout); Khan, Shah and Stavness 2018, arXiv:1804.08042
(Bridgeout).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .checks import check_choice, check_exponent, check_fraction, check_probability


class Form(NamedTuple):
    r"""The direction s(x) in which :math:`|x|^{q/2}\xi` moves x, by two functions of a tensor."""

    value: Callable[[Tensor], Tensor]  # s(x) |x|
    slope: Callable[[Tensor], Tensor]  # anything with the sign of its derivative, and zero at zero


FORMS = {"odd": Form(lambda x: x, torch.abs), "even": Form(torch.abs, lambda x: x)}
GRADIENTS = ("exact", "constant")
TARGETS = ("kernels", "filters")
Knobs = tuple[float, float, str, str]  # p, q, form, gradient

# Below this magnitude the slope |x|^(q/2-1), infinite at zero when q < 2, is held at its value here. The forward
# value is never altered. 1e-6 keeps the exact slope within float16 for every q at p = 0.5; with the constant gradient
# and q below about 0.4, or p near 1, a float16 gradient can still overflow, as any large number does there.
SLOPE_FLOOR = 1e-6

# The same for the forward value, where it only keeps 0 * |0|^(q/2-1) * xi at 0: far below any activation, and without
# overflow before p = 1 - 1e-14.
_VALUE_FLOOR = 1e-24

# Elements drawn at a time on a CPU, or worked on by one thread. A multiple of 4, as four share a random word.
_BLOCK = 1 << 18

# Elements worked on at a time on a CPU: all temporaries lie in cache (benchmarks/noise.py), and torch divides no
# operation on so few among threads.
_PIECE = 1 << 15


class DtypeError(TypeError, ValueError):
    """A tensor that cannot carry noise: a TypeError, as in Python, and a ValueError, as all bad arguments here."""


def check_noise(p: Any, q: Any, form: Any, gradient: Any) -> tuple[float, float]:
    """Check the four knobs of the noise; return p and q as floats."""
    check_choice(form, FORMS, "form")
    check_choice(gradient, GRADIENTS, "gradient")
    return check_probability(p), check_exponent(q)


def sparseout(
    x: Tensor,
    p: float = 0.5,
    q: float = 2.0,
    training: bool = True,
    *,
    form: str = "odd",
    gradient: str = "exact",
    shared: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Perturb activations by zero-mean noise of variance :math:`|x|^q\,p/(1-p)`, each element on its own.

    For a generalised linear model this adds, in expectation and to second order, an L_q penalty on the features:
    :math:`\tfrac12\tfrac{p}{1-p}\sum_i A''(x_i\beta)\sum_j \beta_j^2|x_{ij}|^q`. Dropout is q = 2; q < 2 hits small
    activations hardest and makes them sparser, q > 2 makes them denser.

    Args:
        x: floating-point tensor of any shape and memory layout.
        p: drop probability, 0 <= p < 1.
        q: exponent of the penalty, finite and >= 0.
        training: when false (or p = 0) ``x`` itself is returned.
        form: ``"odd"`` moves x along its sign, as the released Sparseout; ``"even"`` moves it by the same amount
            whatever its sign, as the released Bridgeout.
        gradient: ``"exact"`` differentiates through :math:`|x|^{q/2}`; ``"constant"`` treats the factor
            :math:`|x|^{q/2-1}\xi` as a constant, as the released backward does, which makes the pull of the penalty
            2/q times as strong.
        shared: a dimension along which all elements get the same :math:`\xi`, such as the time steps of a sequence.
            By default every element gets its own.
        generator: source of the random draws, on the device of ``x``; defaults to torch's global one.

    Returns:
        A tensor of the shape, dtype, device and memory layout of ``x``; half precision is computed in float32.

    Raises:
        ValueError: p, q, form, gradient or shared outside what is allowed.
        DtypeError: ``x`` is not a floating-point tensor.

    Example:
        >>> x = torch.tensor([0.0, 0.25, 4.0])
        >>> y = sparseout(x, p=0.5, q=1.0, generator=torch.Generator().manual_seed(0))
        >>> sorted(set((y - x).abs().tolist()))     # the noise is sqrt(x) times +1 or -1
        [0.0, 0.5, 2.0]
    """
    p, q = check_noise(p, q, form, gradient)
    _check_tensor(x, "x")
    if shared is not None and not -x.dim() <= shared < x.dim():
        raise ValueError(f"shared must be a dimension of x, from {-x.dim()} to {x.dim() - 1}, or None; got {shared!r}")
    if not training or p == 0.0:
        return x
    return _perturb(x, (p, q, form, gradient), None, generator, shared)


def bridgeout(
    w: Tensor,
    p: float = 0.5,
    q: float = 2.0,
    training: bool = True,
    *,
    form: str = "even",
    gradient: str = "exact",
    target_fraction: float = 1.0,
    target: str = "kernels",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Perturb weights by zero-mean noise of variance :math:`|w|^q\,p/(1-p)`.

    One call draws one mask, so calling it once per mini-batch is Batch Bridgeout. For a generalised linear model the
    expected penalty is a bridge penalty, :math:`\tfrac12\tfrac{p}{1-p}\sum_j |w_j|^q\sum_i A''(x_iw)\,x_{ij}^2`.

    Args:
        w: floating-point weight tensor.
        p, q, training, form, gradient, generator: see :func:`sparseout`.
        target_fraction: share of the weights to perturb, the smallest ones, 0 <= target_fraction <= 1.
        target: what is ranked by size. ``"kernels"``, as released: the 2-D kernels of each filter of a convolution
            (O, I, kh, kw), by L2 norm, and the ``int(I * target_fraction)`` smallest are perturbed; in a matrix (O, I)
            the elements of each row, by magnitude. ``"filters"``: whole filters or rows, by L2 norm, and the
            ``int(O * target_fraction)`` smallest are perturbed. A vector is ranked as a whole, by magnitude.

    Returns:
        A tensor like ``w``; ``w`` itself when not training, p = 0 or target_fraction = 0.

    Raises:
        ValueError: p, q, form, gradient, target_fraction or target outside what is allowed.
        DtypeError: ``w`` is not a floating-point tensor.

    Example:
        >>> w = torch.tensor([-4.0, 0.0, 0.25])
        >>> v = bridgeout(w, p=0.5, q=1.0, generator=torch.Generator().manual_seed(0))
        >>> sorted(set((v - w).abs().tolist()))     # the noise is sqrt(|w|) times +1 or -1
        [0.0, 0.5, 2.0]
    """
    p, q = check_noise(p, q, form, gradient)
    check_choice(target, TARGETS, "target")
    _check_tensor(w, "w")
    fraction = check_fraction(target_fraction)
    if not training or p == 0.0 or fraction == 0.0:
        return w
    targeted = None if fraction == 1.0 else smallest_mask(w, fraction, target)
    return _perturb(w, (p, q, form, gradient), targeted, generator)


def smallest_mask(w: Tensor, fraction: float, target: str = "kernels") -> Tensor:
    """Boolean mask like ``w``, true on the smallest ``fraction`` of each filter's kernels, or of all filters if
    ``target`` is "filters"; see :func:`bridgeout`."""
    with torch.no_grad():
        inner = tuple(range(1 if target == "filters" else 2, w.dim()))  # dimensions inside what is ranked
        size = w.to(_working_dtype(w))
        size = size.square().sum(inner) if inner else size.abs()  # squares rank as norms do
        rows = size.reshape(1, -1) if size.dim() < 2 else size
        mask = _smallest_of_rows(rows, int(rows.shape[1] * fraction))
        return mask.reshape(size.shape + (1,) * (w.dim() - size.dim())).expand_as(w)


def _smallest_of_rows(rows: Tensor, count: int) -> Tensor:
    """Boolean mask, true on the ``count`` smallest elements of each row."""
    if rows.device.type == "cpu" and count and not _traced(rows):  # many times as fast as topk
        last = np.partition(rows.numpy(), count - 1, axis=1)[:, count - 1 : count]
        mask = rows <= torch.from_numpy(last)
        if bool((mask.sum(1) == count).all()):
            return mask
        # some tie with the last one: argpartition, which is slower, settles which of them count
        index = torch.from_numpy(np.argpartition(rows.numpy(), count - 1, axis=1)[:, :count])
    else:
        index = rows.topk(count, dim=1, largest=False).indices
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, index, True)


def keep_mask(like: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw r ~ Bernoulli(1-p) for each element of ``like``: a flat uint8 tensor of ones (keep) and zeros (drop).

    torch's CPU bernoulli draws serially, and dropout spends most of its time there. Here 64 random bits serve four
    elements, 16 bits each: keep where they, read as an integer, fall below t = (1-p) 2^16. Where t is not whole, a
    further draw settles the one in 65536 elements that fall exactly on floor(t), so that P(keep) is 1-p to float
    precision and the scale 1/(1-p) leaves no bias. Other devices use torch's uniform draws, which have 24 bits.
    """
    count, device = like.numel(), like.device
    if device.type != "cpu":
        uniform = torch.rand(count, device=device, generator=generator)
        return (uniform >= p).view(torch.uint8)
    whole, rest = divmod((1.0 - p) * 65536.0, 1.0)
    threshold = int(whole) - 32768  # int16 runs from -32768
    if threshold > 32767:  # p below 2^-53: 1 - p rounds to 1
        return torch.ones(count, dtype=torch.uint8, device=device)
    keep = np.empty(count, dtype=bool)  # numpy compares and searches faster than torch here
    words = torch.empty((min(count, _BLOCK) + 3) // 4, dtype=torch.int64, device=device)
    ties = []
    for start in range(0, count, _BLOCK):
        block = keep[start : start + _BLOCK]
        # random_() alone would leave the top bit of an int64 at zero
        drawn = words[: (len(block) + 3) // 4].random_(-(2**63), None, generator=generator)
        bits = drawn.view(torch.int16).numpy()[: len(block)]
        np.less(bits, threshold, out=block)
        if rest:
            ties.append((bits == threshold).nonzero()[0] + start)
    if ties:
        tie = np.concatenate(ties)
        keep[tie] = (torch.rand(len(tie), device=device, generator=generator) < rest).numpy()
    return torch.from_numpy(keep).view(torch.uint8)


def _check_tensor(x: Any, name: str) -> None:
    if not isinstance(x, Tensor):
        raise DtypeError(f"{name} must be a torch tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise DtypeError(f"{name} must be a floating-point tensor, got {x.dtype}; convert it, e.g. by {name}.float()")


def _perturb(
    x: Tensor, knobs: Knobs, target: Tensor | None, generator: torch.Generator | None, shared: int | None = None
) -> Tensor:
    if x.numel() == 0:
        return x.clone()
    if _traced(x):
        return _plain(x, knobs, target, generator, shared)
    if not torch.ops.aten.is_non_overlapping_and_dense(x):
        x = x.clone()  # dense, in the memory order of x
    # the mask lies in memory as x does, so both can be walked as flat arrays
    if shared is None:
        keep = keep_mask(x, knobs[0], generator)
    else:
        one = x.narrow(shared, 0, 1)
        keep = _flat(keep_mask(one, knobs[0], generator).view(one.shape).expand(x.shape), x)
    if target is not None:
        target = _flat(target, x).view(torch.uint8)  # multiplying by bytes is many times as fast as by booleans
    out: Tensor = _Perturb.apply(x, keep, target, *knobs)
    return out


def _traced(x: Tensor) -> bool:
    """Whether x has no memory to walk through: it is being compiled or exported, stands under a transform of
    ``torch.func``, or is a tensor of another kind (a fake one, one spread over devices)."""
    if torch.compiler.is_compiling():
        return True
    transformed = torch._C._functorch.maybe_current_level() is not None
    return transformed or x.device.type == "meta" or type(x) not in (Tensor, nn.Parameter)


def _plain(
    x: Tensor, knobs: Knobs, target: Tensor | None, generator: torch.Generator | None, shared: int | None
) -> Tensor:
    """The noise in operations that torch can trace, map and differentiate again; the masks are others than those of
    the fast way."""
    p, q, form, gradient = knobs
    one = x if shared is None else x.narrow(shared, 0, 1)
    if generator is None:
        uniform = torch.rand_like(one, dtype=torch.float32)
    else:
        uniform = torch.rand(one.shape, device=one.device, generator=generator)
    work = x.to(_working_dtype(x))
    factor = (uniform >= p).to(work.dtype) / (1.0 - p)
    if target is not None:
        factor = torch.where(target, factor, 1.0)
    if q == 2.0 and form == "odd":
        return (work * factor).to(x.dtype)
    xi, size, base = factor - 1.0, work.abs(), FORMS[form].value(work)
    # what is differentiated: its slope is held below the floor, and 0 |0|^(q/2-1) xi is 0 with slope 0
    floor = SLOPE_FLOOR if q < 2.0 else torch.finfo(work.dtype).tiny
    power = size.clamp_min(floor).pow(q / 2.0 - 1.0)
    power = torch.where(size > 0, power, 0.0)
    if gradient == "constant":
        power = power.detach()
    elif q < 2.0:
        power = torch.where(size < SLOPE_FLOOR, q / 2.0 * power, power)
    moved = base * power * xi
    # what it is: the value has no floor
    value = base * size.clamp_min(_VALUE_FLOOR).pow(q / 2.0 - 1.0) * xi
    return (work + moved + (value - moved).detach()).to(x.dtype)


def _flat(x: Tensor, like: Tensor) -> Tensor:
    """``x`` as a one-dimensional tensor in the element order that ``like`` has in memory."""
    if x.stride() != like.stride():
        x = torch.empty_like(like, dtype=x.dtype).copy_(x)
    return x.as_strided((x.numel(),), (1,))


class _Perturb(torch.autograd.Function):
    r"""out = x + s(x) |x|^(q/2) xi, with s(x) from FORMS.

    With m = |x|^(q/2-1) the value is x + s(x) |x| m xi and its derivative 1 + c m xi times the sign of (s(x) |x|)',
    where c = q/2 is exact and c = 1 treats m xi as a constant. Saved for the backward pass: x, which a preceding ReLU
    keeps anyway, and one byte per mask element.
    """

    @staticmethod
    def forward(ctx, x, keep, target, p, q, form, gradient):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, keep, target)
        ctx.knobs = (p, q, form, q / 2.0 if gradient == "exact" else 1.0)

        def piece(noise: Tensor, power: Tensor, x: Tensor, keep: Tensor, target: Tensor | None, out: Tensor) -> None:
            if q == 2.0 and form == "odd":
                return _drop(x, noise, keep, target, p, out)
            _xi(noise, keep, target, p)
            if q != 2.0:
                noise.mul_(_power(torch.abs(x, out=power).clamp_min_(_VALUE_FLOOR), q / 2.0 - 1.0))
            torch.addcmul(x, FORMS[form].value(x), noise, out=out)

        out = torch.empty_like(x)
        _in_pieces(piece, x, keep, target, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, keep, target = ctx.saved_tensors
        p, q, form, c = ctx.knobs

        def piece(
            slope: Tensor, power: Tensor, x: Tensor, keep: Tensor, target: Tensor | None, grad: Tensor, out: Tensor
        ) -> None:
            if q == 2.0 and form == "odd":
                return _drop(grad, slope, keep, target, p, out)
            _xi(slope, keep, target, p, scale=c)
            if q != 2.0:
                size = torch.abs(x, out=power)
                slope.mul_(_power(size.clamp_min_(SLOPE_FLOOR) if q < 2.0 else size, q / 2.0 - 1.0))
            # zeros stay zeros whatever xi is: their slope is 1
            slope.mul_(torch.sgn(FORMS[form].slope(x), out=power))
            torch.addcmul(grad, grad, slope, out=out)

        out = torch.empty_like(x)
        _in_pieces(piece, x, keep, target, _flat(grad, x).as_strided(x.size(), x.stride()), out)
        return out, None, None, None, None, None, None


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _in_pieces(work: Callable[..., None], x: Tensor, keep: Tensor, target: Tensor | None, *others: Tensor) -> None:
    """Call ``work(scratch, scratch, x, keep, target, *others)`` for flat pieces of all tensors, in step; x and a
    gradient in working precision, the last one as it is.

    On a CPU a piece stays in cache, and torch works on it in the thread that asks. As many threads as torch may use
    take one stretch of pieces after another. Torch's own way splits each operation between all threads and waits for
    the last, which takes several times as long where other programs hold a core.
    """
    cpu, dtype = x.device.type == "cpu", _working_dtype(x)
    stretch, size = (_BLOCK, min(_PIECE, _BLOCK)) if cpu else (x.numel(), x.numel())

    def walk(*parts: Any) -> None:
        with torch.inference_mode():  # of this thread, which knows nothing of the one that asks
            scratch = [torch.empty(size, dtype=dtype, device=x.device) for _ in range(2)]
            pieces = [[None] * -(-len(parts[0]) // size) if part is None else part.split(size) for part in parts]
            for x_, keep_, target_, *rest in zip(*pieces, strict=True):
                spaces = (space[: len(x_)] for space in scratch)
                work(*spaces, x_.to(dtype), keep_, target_, *(t.to(dtype) for t in rest[:-1]), rest[-1])

    flats = [_flat(x, x), keep, target, *(_flat(t, x) for t in others)]
    stretches = [[None] * -(-x.numel() // stretch) if t is None else t.split(stretch) for t in flats]
    threads = min(torch.get_num_threads(), len(stretches[0])) if cpu else 1
    # threads of a call die with it: those of a pool that is kept would be missing in a process that is forked
    with ThreadPoolExecutor(threads) as pool:
        list((map if threads == 1 else pool.map)(walk, *stretches))


def _xi(out: Tensor, keep: Tensor, target: Tensor | None, p: float, scale: float = 1.0) -> None:
    """xi times ``scale`` into ``out``; zero off target."""
    out.copy_(keep).mul_(scale / (1.0 - p)).sub_(scale)
    if target is not None:
        out.mul_(target)


def _drop(x: Tensor, factor: Tensor, keep: Tensor, target: Tensor | None, p: float, out: Tensor) -> None:
    """out = x (1 + xi), rounded as torch's dropout rounds x r / (1-p)."""
    factor.copy_(keep).div_(1.0 - p)
    if target is not None:
        factor.mul_(target).add_(1 - target)
    torch.mul(x, factor, out=out)


def _power(size: Tensor, exponent: float) -> Tensor:
    """size ** exponent, in place; on a CPU rsqrt is several times faster than pow or sqrt."""
    if exponent == -0.5:
        return size.rsqrt_()
    if exponent == -0.25:
        root = size.rsqrt_()
        return root.mul_(root.rsqrt())
    if exponent == 0.25:
        return size.rsqrt_().rsqrt_()
    if exponent == 0.5:
        return size.mul_(size.clamp_min(torch.finfo(size.dtype).tiny).rsqrt_())
    return size.pow_(exponent)
