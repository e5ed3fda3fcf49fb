"""Make the book's environment: python .ci/env.py [FOLDER], by default .venv

torch is the one heavy part of it, and its builds differ from machine to machine. A torch that is there already is
kept. Else uv, where it is installed and torch's own package index answers, takes the build that fits the machine; else
pip does, and on a machine without an NVIDIA GPU (or with TORCH=cpu) it takes a CPU build wherever one can be had: a
wheel where pip looks for wheels (PIP_FIND_LINKS), or torch's index. Before several GB are fetched one line says so.
Needs the standard library only: it runs before there is an environment.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements.txt"
TORCH_INDEX = "https://download.pytorch.org/whl"
CUDA = "about 3 GB to download, 6 GB on disk"


def main(folder: Path) -> None:
    if sys.version_info < (3, 10):  # noqa: UP036  an old Python is told so
        sys.exit(f"Python 3.10 or newer is needed, this is {platform.python_version()}: make env PYTHON=python3.12")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        run([sys.executable, "-m", "venv", folder])
    wanted = os.environ.get("TORCH", "auto")
    if wanted not in ("auto", "cpu"):
        sys.exit(f"TORCH={wanted}: allowed are auto (the build that fits this machine) and cpu")
    gpu = wanted == "auto" and has_gpu()
    pip = [python, "-m", "pip", "install", "-qq"]  # twice quiet: a pip with many places to look warns of each

    constraint, install = kept(python), pip
    there = constraint.removeprefix("torch==")
    if shutil.which("uv") and answers(TORCH_INDEX):
        install = ["uv", "pip", "install", "-q", "--python", python]
        os.environ.setdefault("UV_TORCH_BACKEND", wanted)
        fits = f"the CUDA build, {CUDA} (TORCH=cpu avoids it)" if gpu else "the build that fits this machine"
        tell("uv", f"{there}, which is there" if constraint else fits)
    elif constraint:
        tell("pip", f"{there}, which is there")
    else:
        constraint = choose_with_pip(pip, python, gpu)
    constraints = folder / "torch.txt"
    constraints.write_text(constraint + "\n")
    run([*install, "-r", REQUIREMENTS, "-c", constraints])
    run([*install, "--no-deps", "-e", ROOT])


def choose_with_pip(pip: list, python: Path, gpu: bool) -> str:
    """Install the build of torch that fits, or leave it to requirements.txt; returns the constraint to keep to."""
    pair = re.findall(r"^torch(?:vision)?[<>=][^\s#]*", REQUIREMENTS.read_text(), re.MULTILINE)
    if platform.system() != "Linux":
        tell("pip", "the CPU build (also runs on Apple's GPUs)")
    elif gpu:
        tell("pip", f"the CUDA build, {CUDA} (TORCH=cpu avoids it)")
    elif run([*pip, "--no-index", "--no-deps", pair[0]], check=False) == 0:  # --no-index: only where wheels lie
        tell("pip", f"{kept(python).removeprefix('torch==')}, a wheel from pip's find-links")
    elif answers(f"{TORCH_INDEX}/cpu"):
        tell("pip", "the CPU build from torch's own index, about 200 MB")
        run([*pip, "--index-url", f"{TORCH_INDEX}/cpu", *pair])
    elif platform.machine() in ("aarch64", "arm64"):
        tell("pip", "2.10, the last CPU build for this processor outside torch's own index")
        return "torch<2.11"
    else:
        tell(
            "pip",
            f"the CUDA build, {CUDA}, as torch's own index does not answer. To avoid it, stop now and install a CPU "
            "build into the environment first, or name a folder with its wheel in PIP_FIND_LINKS",
        )
    return kept(python)


def kept(python: Path) -> str:
    """The torch that is in the environment, as a constraint: another one could bring all of CUDA along."""
    code = "from importlib.metadata import version; print('torch==' + version('torch'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None or any(Path("/dev").glob("nvidia[0-9]*"))


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{address}/torch/", method="HEAD"), timeout=4):
            return True
    except OSError:
        return False


def tell(installer: str, torch: str) -> None:
    print(f"environment: {installer} installs requirements.txt, which takes a few minutes; torch: {torch}", flush=True)


def run(command: list, check: bool = True) -> int:
    result = subprocess.run(command, stderr=None if check else subprocess.DEVNULL)
    if check and result.returncode:
        sys.exit(f"environment: stopped at {' '.join(map(str, command))}")
    return result.returncode


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".venv"))
