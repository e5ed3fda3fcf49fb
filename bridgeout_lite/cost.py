"""What a network costs: parameters, multiply-adds, measured latency, peak memory; and its export to ONNX.

Parameters and multiply-adds are counted, the same on every machine. Latency and memory are measured on the model's
device. Masked weights count like any others, and masks take time of their own: only removal
(:func:`bridgeout_lite.pruning.remove_filters`) makes these numbers smaller.

Example:
    >>> model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(2, 3, 8, 8)
    >>> count(model, x), measure(model, x).batch, len(latencies([model, model], x))
    ((224, 7776), 2, 2)
"""

import contextlib
import dataclasses
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .checks import check_whole
from .data import put_in_place
from .modules import agree, device_of, evaluating, run_exactly, run_once


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one network costs on one machine.

    Attributes:
        parameters: how many numbers there are to learn.
        macs: multiply-adds of one sample, in convolutions, matrix products and attention. Biases, BatchNorm,
            activations, pooling and fused recurrent layers (``nn.LSTM``) are not counted.
        latency_ms: median time of one forward pass of the whole batch, in milliseconds.
        peak_memory_bytes: most bytes that one forward pass of the batch needs at a time: parameters, buffers (masks
            included), the input, and what torch's allocator has handed out at the worst moment, temporaries included.
            Memory that the libraries below torch allocate themselves is left out. None where torch keeps no such count
            (neither CPU nor CUDA).
        batch, threads, device: how latency and memory were measured; threads of the CPU.
    """

    parameters: int
    macs: int
    latency_ms: float
    peak_memory_bytes: int | None
    batch: int
    threads: int
    device: str


def measure(model: nn.Module, example_input: Tensor, *, repeats: int = 20, warmup: int = 3) -> Cost:
    """Count and measure ``model``, in evaluation mode, on its own device.

    Args:
        model: any module that takes one tensor. Its modes are restored.
        example_input: one batch as the model takes it; latency and memory are those of a batch of this size.
        repeats: number of timed forward passes.
        warmup: number of untimed passes before them.

    Raises:
        ValueError: an example input that the model does not take; repeats < 1 or warmup < 0.
    """
    check_whole(repeats, "repeats")
    check_whole(warmup, "warmup", 0)
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
    """Median milliseconds of one forward pass of each model, in evaluation mode.

    The models take turns, so background load affects all of them alike and ratios are reliable even where times are
    not. One untimed warm-up round comes first.

    Raises:
        ValueError: an example input that a model does not take; rounds < 1; no models.
    """
    check_whole(rounds, "rounds")
    check_whole(len(models), "the number of models")
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

    The multiply-adds are half of the flops that torch's ``FlopCounterMode`` sees. A layer that runs twice counts twice.

    Raises:
        ValueError: an example input that the model does not take.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter sees into no fused attention, nor into sdpa's kernels
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            run_once(model, example_input)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2 // len(example_input)


def export_onnx(model: nn.Module, example_input: Tensor, path: str | os.PathLike[str]) -> float:
    """Write ``model``, in evaluation mode, as an ONNX file that takes batches of any size, and run that file with
    onnxruntime.

    Args:
        model: a module that takes one tensor and returns one.
        example_input: one batch as the model takes it.
        path: the file; it appears only when it has passed the check.

    Returns:
        The largest absolute difference between onnxruntime's output and torch's, in float32 on a CPU, on
        ``example_input``.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: an example input that the model does not take; a model that returns several tensors; outputs that
            differ by more than 1e-4 of the largest, or ten times the rounding of half precision.

    Needs torch 2.6 or newer.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  what torch's exporter writes with
    except ImportError as error:
        raise ImportError(
            f"export_onnx needs {error.name}, which is not installed: pip install onnx onnxscript onnxruntime"
        ) from error
    given = run_once(model, example_input)
    if not isinstance(given, Tensor):
        raise ValueError(
            f"export_onnx writes models that return one tensor, and this one returns a {type(given).__name__}: wrap it "
            "in a module that returns one"
        )
    reference = run_exactly(model, example_input)
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
        difference = (found.float() - reference).abs().max().item()
        if not agree(found, reference):
            raise ValueError(f"onnxruntime's output differs from torch's by {difference:.2g}: {target} is not written")
        put_in_place(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return float(difference)


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
    # Each pass makes masked weights anew; hold the old ones, lest their release hide the new ones.
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
