"""The chapters with the versions that Google Colab has: make colab

Makes an environment of .ci/colab.txt in _build/colab and runs there what a reader's fresh runtime runs: the first code
cell of every chapter as it stands (it clones the book, here from this repository's last commit, and installs the
package with --no-deps) and the cell after it; chapters 1 to 3 (COLAB_WHOLE="01 02") to the end, on the embedded
digits. A package of Colab's that a chapter replaces is a failure. Prints a table; the exit status is 1 if anything
failed. CHAPTERS="04 07" runs these only.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / "_build" / "colab"
PINS = ROOT / ".ci" / "colab.txt"
WHOLE = os.environ.get("COLAB_WHOLE", "01 02 03").split()
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def prepare() -> None:
    """Make the environment and go on in it."""
    from env import CUDA, answers  # beside this file
    from matrix import find

    python = VENV / "bin" / "python"
    interpreter = find("3.13")
    if interpreter is None:
        sys.exit("Colab has Python 3.13, and no python3.13 was found here")
    new = not python.exists()
    if new:
        subprocess.run([interpreter, "-m", "venv", VENV], check=True)
    install = [python, "-m", "pip", "install", "-qq", "-r", PINS]
    if platform.system() == "Linux" and answers(TORCH_INDEX):
        install += ["--extra-index-url", TORCH_INDEX]  # 2.11.0+cpu, which pip takes for newer than 2.11.0
    elif platform.system() == "Linux" and new:
        print(f"torch's own index does not answer: the CUDA build of torch 2.11.0, {CUDA}", flush=True)
    subprocess.run(install, check=True)
    os.execv(python, [python, __file__])


def main() -> int:
    print(
        f"Python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in ("torch", "numpy", "pandas"))
    )
    print("\n| chapter | cells | seconds | result |\n| --- | --- | --- | --- |")
    chosen = os.environ.get("CHAPTERS", "").split()
    paths = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    results = [check(path) for path in paths if not chosen or path.name[:2] in chosen]
    print(f"\n{results.count('passed')} passed, {len(results) - results.count('passed')} failed")
    return int(set(results) != {"passed"})


def check(path: Path) -> str:
    """Run a chapter, or its beginning, as a fresh runtime would; prints its row and returns the result."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    before = installed()
    notebook = nbformat.read(path, as_version=4)
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    whole = path.name[:2] in WHOLE
    if not whole:
        notebook.cells = notebook.cells[: code[1] + 1]
    start, result = time.monotonic(), "passed"
    with tempfile.TemporaryDirectory() as content:
        os.environ.update(colab(Path(content), notebook.cells[code[0]].source))
        resources = {"metadata": {"path": content}}
        try:
            NotebookClient(
                notebook, timeout=900, startup_timeout=300, kernel_name="python3", resources=resources
            ).execute()
        except CellExecutionError as error:
            result = f"{error.ename}: {error.evalue}".splitlines()[0]
    seconds = time.monotonic() - start
    replaced = restore(before)
    if replaced and result == "passed":
        result = f"replaces {', '.join(replaced)}"
    print(f"| {path.stem} | {'all' if whole else 'the first two'} | {seconds:.0f} | {result} |", flush=True)
    return result


def colab(content: Path, first_cell: str) -> dict[str, str]:
    """Variables under which a kernel takes itself to be on Colab, and the book's address leads to this repository."""
    stub, startup = content / ".stub" / "google" / "colab", content / ".ipython" / "profile_default" / "startup"
    stub.mkdir(parents=True)
    startup.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "output.py").write_text("def enable_custom_widget_manager(*args, **more): ...\n")  # anywidget calls it
    (startup / "colab.py").write_text("import google.colab\n")
    address = re.search(r"git clone .*?(https://\S+)", first_cell)[1]
    return {
        "PYTHONPATH": str(content / ".stub"),
        "IPYTHONDIR": str(content / ".ipython"),
        "BRIDGEOUT_OFFLINE": "1",
        "BRIDGEOUT_DATA": str(content / "data"),
        "TQDM_DISABLE": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # ipykernel's debugger would warn of Python 3.13
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
    }


def installed() -> dict[str, str]:
    return {
        found.name: found.version for found in distributions(path=[next(VENV.glob("lib/*/site-packages")).as_posix()])
    }


def restore(before: dict[str, str]) -> list[str]:
    """Take away what a chapter added, put back what it replaced, and return the names of the latter."""
    after = installed()
    pip = [sys.executable, "-m", "pip"]
    if added := sorted(after.keys() - before.keys()):
        subprocess.run([*pip, "uninstall", "-qq", "-y", *added], check=True)
    replaced = sorted(name for name in before if after.get(name) != before[name])
    if replaced:
        old = [f"{name}=={before[name]}" for name in replaced]
        subprocess.run([*pip, "install", "-qq", "--no-deps", *old], check=True)
    return replaced


if __name__ == "__main__":
    sys.exit(main() if Path(sys.prefix).resolve() == VENV.resolve() else prepare())
