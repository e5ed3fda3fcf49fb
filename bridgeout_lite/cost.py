"""What a network costs: parameters, multiply-adds, measured latency, peak memory; and its export to ONNX.

Parameters and multiply-adds are counted, the same on every machine. Latency and memory are measured where the model
is. Masked weights are counted, computed with and stored like any others, and masks take time of their own: only removal
(:func:`bridgeout_lite.pruning.remove_filters`) makes these numbers smaller.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .models import Whitening

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
COUNTED = (*CONVOLUTIONS, nn.Linear, Whitening)

# Largest difference, relative to the largest output (or to 0.01), at which two forms of a network count as the same.
AGREEMENT = 1e-4


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one network costs on one machine.

    Attributes:
        parameters: how many numbers there are to learn.
        macs: multiply-adds of one sample, in convolutions and linear layers; biases, BatchNorm, activations and pooling
            are not counted.
        latency_ms: median time of one forward pass of the whole batch, in milliseconds.
        peak_memory_bytes: most bytes that one forward pass of the batch needs at a time: parameters, buffers (masks are
            among them), the input, and whatever torch's allocator has handed out at the worst moment, temporaries of
            its operators included. What the libraries below torch allocate by themselves is not in it. None where torch
            keeps no such count (neither CPU nor CUDA).
        batch, threads, device: what latency and memory were measured with; threads are those of the CPU.
    """

    parameters: int
    macs: int
    latency_ms: float
    peak_memory_bytes: int | None
    batch: int
    threads: int
    device: str


def measure(model: nn.Module, example_input: Tensor, *, repeats: int = 20, warmup: int = 3) -> Cost:
    """Count and measure ``model``, in evaluation mode and as it is, on the device where it is.

    Args:
        model: any module that takes one tensor. Its modes are restored.
        example_input: one batch as the model takes it; latency and memory are those of a batch of this size.
        repeats: forward passes that are timed. warmup: passes before them that are not.

    Raises:
        ValueError: an example input that the model does not take; repeats < 1 or warmup < 0.
    """
    if not (isinstance(repeats, int) and isinstance(warmup, int) and repeats >= 1 and warmup >= 0):
        raise ValueError(f"repeats must be a whole number >= 1 and warmup one >= 0, got {repeats!r} and {warmup!r}")
    parameters, macs = count(model, example_input)
    device = device_of(model, example_input)
    x = example_input.to(device)
    with evaluating(model), torch.inference_mode():
        latency = _latency(model, x, repeats, warmup)
        peak = _allocated(model, x)
    if peak is not None:
        peak += sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers(), x))
    return Cost(parameters, macs, 1e3 * latency, peak, len(x), torch.get_num_threads(), str(device))


def latencies(models: Sequence[nn.Module], example_input: Tensor, *, rounds: int = 10) -> list[float]:
    """Median milliseconds of one forward pass of each model, in evaluation mode, run in turn: whatever else the machine
    does meets all of them alike, so that the ratios hold where the times do not. One more round goes before, untimed.

    Raises:
        ValueError: an example input that a model does not take; rounds < 1; no models.
    """
    if not isinstance(rounds, int) or rounds < 1 or not models:
        raise ValueError(f"rounds must be a whole number >= 1, and models at least one; got {rounds!r}, {len(models)}")
    for model in models:
        run_once(model, example_input)
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode())
        inputs = [example_input.to(device_of(model, example_input)) for model in models]
        times = [[_latency(m, x, 1, 0) for m, x in zip(models, inputs, strict=True)] for _ in range(rounds)]
    return [1e3 * statistics.median(column) for column in zip(*times, strict=True)]


def count(model: nn.Module, example_input: Tensor) -> tuple[int, int]:
    """Parameters of ``model``, and its multiply-adds for one sample (see :class:`Cost`).

    A layer that is run twice counts twice; a convolution called as a function, not as a module, is not seen.

    Raises:
        ValueError: an example input that the model does not take.
    """
    macs = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal macs
        # a transposed convolution spreads each of its inputs, the others gather each of their outputs
        values = inputs[0] if getattr(module, "transposed", False) else out
        macs += values.numel() * module.weight[0].numel()  # type: ignore[operator, index]

    handles = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, COUNTED)]
    try:
        run_once(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return sum(p.numel() for p in model.parameters()), macs // len(example_input)


def export_onnx(model: nn.Module, example_input: Tensor, path: str | os.PathLike[str]) -> float:
    """Write ``model``, in evaluation mode, as an ONNX file that takes batches of any size, and run that file with
    onnxruntime.

    Args:
        model: a module that takes one tensor and returns one.
        example_input: one batch as the model takes it.
        path: the file; it appears only when it has passed the check.

    Returns:
        The largest absolute difference between onnxruntime's output and torch's on ``example_input``.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: an example input that the model does not take; outputs that differ by more than 1e-4 of the largest.

    Needs torch 2.6 or newer.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  what torch's exporter writes with
    except ImportError as error:
        raise ImportError(
            f"export_onnx needs {error.name}, which is not installed: pip install onnx onnxscript onnxruntime"
        ) from error
    expected = run_once(model, example_input)
    x = example_input.to(device_of(model, example_input))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        with evaluating(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporter
            torch.onnx.export(
                model,
                (torch.cat([x, x]),),  # the exporter would take a batch of one for a constant
                partial,
                dynamo=True,
                dynamic_shapes=({0: "batch"},),
                input_names=["input"],
                output_names=["output"],
                external_data=False,
                verbose=False,
            )
        session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"input": x.cpu().numpy()})[0])
        difference = (found - expected.cpu()).abs().max().item()
        if not agree(found, expected.cpu()):
            raise ValueError(f"onnxruntime's output differs from torch's by {difference:.2g}: {target} is not written")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return float(difference)


def run_once(model: nn.Module, example_input: Tensor) -> Tensor:
    """The output of one forward pass in evaluation mode, on the model's device.

    Raises:
        ValueError: not a batch of samples, or not one that the model takes.
    """
    if not isinstance(example_input, Tensor) or example_input.dim() < 2 or not len(example_input):
        got = tuple(example_input.shape) if isinstance(example_input, Tensor) else type(example_input).__name__
        raise ValueError(
            f"example_input must be a batch of samples, such as images.normalize(images.valid.x[:1]); got {got}"
        )
    try:
        with evaluating(model), torch.inference_mode():
            out: Tensor = model(example_input.to(device_of(model, example_input)))
            return out
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the model does not take an example_input of shape {tuple(example_input.shape)} and {example_input.dtype} "
            f"({reason}): give one batch as the model takes it, such as images.normalize(images.valid.x[:1])"
        ) from error


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module, example_input: Tensor) -> torch.device:
    """Where the parameters are; without any, where the input is."""
    return next((p.device for p in model.parameters()), example_input.device)


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs of what should be one network differ by rounding only (see ``AGREEMENT``)."""
    return a.shape == b.shape and bool((a - b).abs().max() <= AGREEMENT * b.abs().max().clamp_min(0.01))


def _latency(model: nn.Module, x: Tensor, repeats: int, warmup: int) -> float:
    wait = getattr(torch, x.device.type).synchronize
    seconds = []
    for _ in range(warmup + repeats):
        wait()
        start = time.perf_counter()
        model(x)
        wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warmup:])


def _allocated(model: nn.Module, x: Tensor) -> int | None:
    """Most bytes that torch's allocator has handed out at a time during one forward pass, beyond those before it."""
    # Masked weights are made anew in every pass; were the old ones given back meanwhile, the new would not show.
    before_it = [t for module in model.modules() for t in vars(module).values() if isinstance(t, Tensor)]  # noqa: F841
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        model(x)
        return torch.cuda.max_memory_allocated(x.device) - before
    if x.device.type != "cpu":
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else the profiler reports its own start and stop on stderr
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        model(x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))  # the public way to every single allocation
        events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    now = peak = 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]  # negative where memory is given back
        peak = max(peak, now)
    return peak
