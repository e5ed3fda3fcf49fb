"""Whether what the chapters assert holds for other seeds: make seeds [CHAPTERS="04 10"] [SEEDS=5] [THREADS=1]

Executes each chapter once per seed, with every seed in it moved by a multiple of 1,000, on the data that is found; a
cell that fails does not end the chapter. Prints one line per chapter and seed, and what failed; each line is kept in
_build/seeds/DATA-THREADS.txt, and what stands there is not run again. Stores no outputs. The exit status is 1 if
anything failed.
"""

import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book"))
os.environ.setdefault("THREADS", "1")
os.environ |= {"OMP_NUM_THREADS": os.environ["THREADS"], "TQDM_DISABLE": "1", "BRIDGEOUT_OFFLINE": "1"}

import chapters
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from bridgeout_lite.notebook import data_state

# fit() is also called without a seed
DEFAULT = "import bridgeout_lite as _book; _book.fit.__kwdefaults__['seed'] = {move}"


def moved(notebook: NotebookNode, move: int) -> NotebookNode:
    """The chapter with each seed that it writes down moved."""
    for cell in chapters.code_cells(notebook):
        cell.source = re.sub(r"\b(seed=|manual_seed\(|default_rng\()(\d+)", lambda m: _add(m, move), cell.source)
    first = notebook.cells.index(chapters.code_cells(notebook)[0])
    notebook.cells.insert(first + 1, new_code_cell(DEFAULT.format(move=move)))
    return notebook


def _add(found: re.Match[str], move: int) -> str:
    return f"{found[1]}{int(found[2]) + move}"


def check(path: Path, seed: int) -> str:
    """One line: the chapter, the seed, seconds, and what failed."""
    start, notebook = time.monotonic(), moved(chapters.read(path), 1000 * seed)
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources, allow_errors=True)
    client.extra_arguments = ["--log-level=ERROR"]
    client.execute()
    failed = [
        f"cell {k}: {output.ename}: {(output.evalue or _where(output)).splitlines()[0][:100]}"
        for k, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    return f"{path.name[:2]} {seed} {time.monotonic() - start:.0f} s: {'; '.join(failed) or 'holds'}"


def _where(error: NotebookNode) -> str:
    """The line of the cell that an error without a message comes from."""
    text = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
    return next((line.strip() for line in text.splitlines() if re.match(r"-+> ?\d", line)), "no message")


def main() -> int:
    data = "cifar" if data_state() == "CIFAR-10 is here" else "digits"
    kept = chapters.ROOT / "_build" / "seeds" / f"{data}-{os.environ['THREADS']}.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = kept.read_text().splitlines() if kept.exists() else []
    wanted = os.environ.get("CHAPTERS", "").split()
    for seed in range(int(os.environ.get("SEEDS", "5"))):
        for path in chapters.chapters():
            known = [line for line in lines if line.startswith(f"{path.name[:2]} {seed} ")]
            if (wanted and path.name[:2] not in wanted) or known:
                continue
            lines.append(check(path, seed))
            with kept.open("a") as file:
                print(lines[-1], file=file)
            print(lines[-1], flush=True)
    return int(any(not line.endswith(": holds") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
