"""The provenance of a run: versions, commit, processor, data."""

import functools
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def provenance(device: str | torch.device, data: str, data_checksum: str) -> dict[str, Any]:
    """The provenance of a run that starts now; ``started`` is in UTC."""
    device = torch.device(device)
    return {
        "package": package_version(),
        **_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "data": data,
        "data_checksum": data_checksum,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def installed(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def package_version() -> str:
    """Version of this package, or "uninstalled"."""
    return installed("bridgeout_lite") or "uninstalled"


@functools.cache
def _commit() -> dict[str, Any]:
    """Commit of the package's checkout, and whether its code has changed since; None if unknown."""

    def git(*words: str) -> str:
        here = Path(__file__).parents[1]  # the whole package, not this folder of it
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # else the commit would be that of a project around us
        return {
            "commit": git("rev-parse", "HEAD").strip(),
            "dirty": bool(git("status", "--porcelain", "--", ".").strip()),
        }
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
