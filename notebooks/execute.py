"""Run chapters in place and store their outputs:
python notebooks/execute.py notebooks/01_*.ipynb

Keeps what nbval compares (outputs and execution counts) and drops what would change
from run to run: timings, and the random names of widget models, which become
numbers in the order in which they are shown.
"""

import json
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def execute(path: Path) -> float:
    """Run one notebook from its own folder, write it back, return the seconds."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": path.parent}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
            **{k: v for k, v in notebook.metadata.items() if k == "widgets"},
        }
    )
    path.write_text(
        number_widgets(nbformat.writes(notebook)) + "\n", encoding="utf-8"
    )
    return time.perf_counter() - start


def number_widgets(text: str) -> str:
    """The notebook's text with every shown widget model's random id replaced by
    ``widget-00``, ``widget-01`` ...: first come, first numbered, each before the
    models that it refers to. Models that nothing shows are left out."""
    notebook = json.loads(text)
    saved = (
        notebook["metadata"]
        .get("widgets", {})
        .get("application/vnd.jupyter.widget-state+json")
    )
    if not saved:
        return text
    order: dict[str, str] = {}

    def number(name: str) -> None:
        if name not in order:
            order[name] = f"widget-{len(order):02}"
            for other in re.findall(
                r"IPY_MODEL_(\w+)", json.dumps(saved["state"][name], sort_keys=True)
            ):
                number(other)

    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).get(
                "application/vnd.jupyter.widget-view+json"
            )
            if view and view["model_id"] in saved["state"]:
                number(view["model_id"])
    saved["state"] = {name: saved["state"][name] for name in order}
    text = json.dumps(notebook, ensure_ascii=False, indent=1)
    for name, short in order.items():
        text = text.replace(name, short)
    return text


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {execute(Path(name)):.0f} s", flush=True)
