"""Run chapters in kernels: several at a time, one thread each.

A kernel notes which files it opens and which modules it imports; these are the inputs that chapters.py makes a key
from. Nothing is stored here: run.py and build.py do that. What fails is told in one line.
"""

import asyncio
import concurrent.futures
import datetime
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import chapters
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

TIMEOUT = 900  # seconds that a cell may take

# Cells that run before and after those of the chapter, and are not stored.
WATCH = """
def _watch():
    import os, sys
    sys._files_read = set()
    def note(event, args):  # a mode of None is a lock's or a library's own affair
        if event == "open" and isinstance(args[0], str) and args[1] and not set(args[1]) & set("wax+"):
            sys._files_read.add(os.path.realpath(args[0]))
    sys.addaudithook(note)
_watch()
del _watch
"""
TELL = """
import json, os, sys
print(json.dumps([
    sorted(name for name in sys._files_read if not name.endswith((".py", ".pyc", ".so"))),
    sorted(os.path.realpath(m.__file__) for m in [*sys.modules.values()] if getattr(m, "__file__", None)),
]))
"""


@dataclass(frozen=True)
class Outcome:
    """What came of running a chapter: its notebook with new outputs, and why it failed if it did."""

    path: Path
    notebook: NotebookNode
    seconds: float
    failure: str = ""


class Kernels:
    """Runs notebooks, and ends what runs when told to."""

    def __init__(self) -> None:
        self._clients: set[NotebookClient] = set()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Kill every kernel that is running, and start no other."""
        self._stopped.set()
        for client in [*self._clients]:
            process = getattr(getattr(client.km, "provisioner", None), "process", None)
            if process is not None:
                process.kill()

    def run(self, path: Path) -> Outcome:
        """Execute a chapter from its own folder; its file stays as it is."""
        start, root = time.perf_counter(), path.parents[1]
        known = chapters.possible_inputs(root)
        notebook = chapters.read(path)
        notebook.metadata = NotebookNode(chapters.KERNEL)
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT,
            startup_timeout=120,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": str(path.parent)}},
            extra_arguments=["--log-level=ERROR"],
        )
        self._clients.add(client)
        try:
            opened, modules = asyncio.run(self._execute(client, root))
        except Exception as error:
            return Outcome(path, notebook, time.perf_counter() - start, _reason(error, client))
        finally:
            self._clients.discard(client)
        seconds = time.perf_counter() - start
        chapters.bare_locks(notebook)
        base = f"{root.resolve()}{os.sep}"
        reached = {name.removeprefix(base).replace(os.sep, "/") for name in (*modules, *opened)}
        inputs = {name: text for name, text in known.items() if name in reached}
        notebook.metadata["bridgeout"] = {
            "key": chapters.key(notebook, inputs),
            "inputs": inputs,
            "data": _data(opened),
            "executed": datetime.date.today().isoformat(),
            "seconds": round(seconds),
        }
        changed = chapters.stale(NotebookNode(cells=chapters.read(path).cells, metadata=notebook.metadata), root)
        return Outcome(path, notebook, seconds, changed and f"{changed} while it ran: run it again")

    async def _execute(self, client: NotebookClient, root: Path) -> list[list[str]]:
        notebook, own = client.nb, client.nb.cells
        watch, tell = new_code_cell(WATCH), new_code_cell(TELL)
        notebook.cells = [watch, *own, tell]
        # the book's own package and records; one thread, since several chapters share the processor
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        environment = {k: v for k, v in os.environ.items() if k != "BRIDGEOUT_RESULTS"}
        environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        try:
            async with client.async_setup_kernel(env=environment):
                for index, cell in enumerate(notebook.cells):
                    if self._stopped.is_set():
                        raise DeadKernelError("stopped")
                    hidden = cell is watch or cell is tell
                    count = client.code_cells_executed  # the hidden first cell is one of them
                    await client.async_execute_cell(cell, index, None if hidden else count, store_history=not hidden)
                client.set_widgets_metadata()
        finally:
            notebook.cells = own
        told: list[list[str]] = json.loads("".join(o.text for o in tell.outputs if o.get("name") == "stdout"))
        return told


def _data(opened: list[str]) -> list[str]:
    """The data among the files that a kernel opened: folders of the data folder, tables that come with scikit-learn."""
    home, files = data_folder().resolve(), [Path(name) for name in opened]
    data = {file.relative_to(home).parts[0] for file in files if home in file.parent.parents}
    data |= {f"{chapters.EMBEDDED}{file.name.split('.')[0]}" for file in files if file.match("sklearn/datasets/data/*")}
    return sorted(data)


def data_folder() -> Path:
    """Where the package looks for data."""
    from bridgeout_lite import data

    return data.data_folder()


def _reason(error: Exception, client: NotebookClient) -> str:
    """What went wrong, in one line."""
    if isinstance(error, DeadKernelError):
        return "its kernel died: killed, or out of memory"
    cell = client.code_cells_executed - 1
    if isinstance(error, CellTimeoutError):
        return f"code cell {cell} took longer than {TIMEOUT} s"
    if not isinstance(error, CellExecutionError):
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    said = " ".join((error.evalue or "").split())
    if not said:  # an assertion without words: show it
        plain = re.sub(r"\x1b\[[\d;]*m", "", error.traceback)
        said = next(iter(re.findall(r"^-+> +\d+ (.*)$", plain, re.M)), "")
    return f"code cell {cell}: {error.ename}: {said}"[:200]


def run_all(paths: list[Path], jobs: int) -> Iterator[Outcome]:
    """Run chapters, ``jobs`` at a time, and say how it goes; outcomes come as they are there."""
    if paths:
        print(f"executing {len(paths)} of the chapters, {min(jobs, len(paths))} at a time", flush=True)
    kernels = Kernels()
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    tasks = [pool.submit(kernels.run, path) for path in paths]
    try:
        for k, task in enumerate(concurrent.futures.as_completed(tasks), 1):
            outcome = task.result()
            done = f"failed: {outcome.failure}" if outcome.failure else "done"
            if outcome.failure:  # what it left, with the traceback, for whoever repairs it
                chapters.write(outcome.path.parents[1] / "_build" / "failed" / outcome.path.name, outcome.notebook)
            print(f"[{k}/{len(paths)}] {outcome.path.stem}, {outcome.seconds:.0f} s: {done}", flush=True)
            yield outcome
    finally:  # also when interrupted
        pool.shutdown(wait=False, cancel_futures=True)
        kernels.stop()
        pool.shutdown()
