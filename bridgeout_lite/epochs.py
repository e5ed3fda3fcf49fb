"""What every kind of training here shares: seeded epochs, and checkpoints from which a run can be resumed.

Each epoch draws from generators seeded by (seed, epoch), so a run resumed from the checkpoint of any epoch ends with
the same bits as one that was never stopped, on the same machine and device.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checks import library
from .data import put_in_place
from .layers import noise_aside


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run. The message says what to do."""


def run_epochs(
    one_epoch: Callable[[int, Any], dict[str, float]],
    trained: tuple[Any, Any, Any],
    identity: dict[str, str],
    *,
    epochs: int,
    steps: int,
    seed: int,
    device: torch.device,
    checkpoint: str | os.PathLike[str] | None,
    progress: bool,
    on_epoch: Callable[[dict[str, float]], None] | None,
) -> list[dict[str, float]]:
    """Call ``one_epoch(epoch, bar)`` for each epoch that ``checkpoint`` lacks, with torch's generator seeded by
    (seed, epoch), and return the rows of all epochs.

    Args:
        one_epoch: trains for one epoch, updates the bar once per step, returns the epoch's row of the history.
        trained: model, optimizer and scheduler, which a checkpoint holds.
        identity: from :func:`identify`.
        epochs, steps: number of epochs, and of steps per epoch.
        seed, device, checkpoint, progress, on_epoch: see :func:`bridgeout_lite.fit`.
    """
    tqdm = library("tqdm.auto", "training").tqdm
    rows: list[dict[str, float]] = []
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        rows = _restore(path, identity, *trained, device)
    elif path is not None:
        _save(path, identity, *trained, rows)
    hidden = not progress or bool(os.environ.get("TQDM_DISABLE"))
    bar = tqdm(total=epochs * steps, initial=len(rows) * steps, disable=hidden, unit="batch", leave=False)
    devices = [device] if device.type == "cuda" else []
    # flags() would switch cuDNN off by default
    cudnn = torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False)
    try:
        with bar, torch.random.fork_rng(devices), cudnn:
            for epoch in range(len(rows), epochs):
                torch.manual_seed(epoch_seed(seed, epoch))
                row = one_epoch(epoch, bar)
                if path is not None:
                    _save(path, identity, *trained, [*rows, row])
                rows.append(row)
                if on_epoch is not None:
                    on_epoch(dict(row))
    except KeyboardInterrupt:
        kept = f"run the same call again to go on from epoch {len(rows) + 1}" if path else "no checkpoint was asked for"
        print(f"interrupted in epoch {len(rows) + 1} of {epochs}: {kept}", file=sys.stderr)
        raise
    return rows


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch of one run; it and the next are those of no other."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:6], "little")


def identify(model: nn.Module, data: Any, recipe: Any, seed: int, precision: str) -> dict[str, str]:
    """What must be equal for a checkpoint to fit, the noise attached to the model included; ``data`` has a name and a
    checksum."""
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    return {
        "model": hashlib.sha256(f"{model!r} {shapes}{noise_aside(model)}".encode()).hexdigest()[:16],
        "recipe": f"{recipe} in {precision}",
        "seed": str(seed),
        "data": f"{data.name} {data.checksum}",
    }


def _save(path: Path, identity: dict[str, str], model: Any, optimizer: Any, scheduler: Any, rows: list[Any]) -> None:
    state = {
        "identity": identity,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rows": rows,
    }
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, partial)
        put_in_place(partial, path)  # at any moment the checkpoint is either the old or the new one, whole
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"checkpoint {path} could not be written ({reason}): free space or name another file; "
            "what stood there before is unharmed"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # afterwards there is none
            partial.unlink()


def _restore(
    path: Path, identity: dict[str, str], model: Any, optimizer: Any, scheduler: Any, device: torch.device
) -> list[Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        differ = [key for key, value in identity.items() if state["identity"].get(key) != value]
    except Exception as error:  # garbage can raise anything
        raise CheckpointError(
            f"{path} is not a readable checkpoint of fit() ({type(error).__name__}): name another file or delete it"
        ) from error
    if differ:
        raise CheckpointError(
            f"{path} belongs to another run (another {', another '.join(differ)}): name another file or delete it"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    rows: list[Any] = state["rows"]
    return rows
