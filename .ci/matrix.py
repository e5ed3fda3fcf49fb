"""Lint, unit tests and one chapter on each Python that is found: make matrix

One environment after the other (with the CUDA build of torch one takes 6 GB), each in _build/matrix and removed when it
is done; what each step printed is kept in _build/matrix/PYTHON.log. Environment variables:
PYTHONS="3.12" chooses the interpreters, MATRIX_TESTS=tests/core the tests, MATRIX_CHAPTER="02" the chapter,
MATRIX_KEEP=1 keeps the environments. The exit status is 1 if a step failed anywhere, or if no interpreter was found.
"""

import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "_build" / "matrix"
PYTHONS = os.environ.get("PYTHONS", "3.10 3.11 3.12 3.13").split()
TESTS = os.environ.get("MATRIX_TESTS", "tests").split()
CHAPTER = os.environ.get("MATRIX_CHAPTER", "01")
COLUMNS = ("Python", "torch", "numpy", "environment", "lint", "unit tests", "chapter", "minutes")


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = [check(name) for name in PYTHONS]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for row in (COLUMNS, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    failed = any("failed" in cell for row in rows for cell in row)
    nothing = all(row[1] == "not found" for row in rows)
    return int(failed or nothing)


def check(name: str) -> tuple[str, ...]:
    """One row of the table; the steps after a failed environment are left out."""
    interpreter = find(name)
    if interpreter is None:
        return (name, "not found", *[""] * 6)
    start, venv, log = time.monotonic(), FOLDER / name, FOLDER / f"{name}.log"
    python = venv / "bin" / "python"
    shutil.rmtree(venv, ignore_errors=True)
    log.unlink(missing_ok=True)

    def step(*command: object) -> str:
        print(f"Python {name}: {' '.join(str(part) for part in command)}", flush=True)
        quiet = {**os.environ, "BRIDGEOUT_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
        with log.open("a") as file:
            done = subprocess.run([*map(str, command)], cwd=ROOT, env=quiet, stdout=file, stderr=subprocess.STDOUT)
        return "failed" if done.returncode else "passed"

    def pytest(kind: str, *arguments: object) -> str:
        report = FOLDER / f"{name}-{kind}.xml"
        report.unlink(missing_ok=True)
        state = step(python, "-m", "pytest", f"--junitxml={report}", *arguments)
        return counts(report) if report.exists() else state

    try:
        made = step("make", "env", f"VENV={venv}", f"PYTHON={interpreter}")
        if made == "failed":
            return (name, "", "", made, "", "", "", minutes(start))
        lint = step("make", "lint", f"VENV={venv}", f"PYTHON={interpreter}")
        unit = pytest("unit", "-m", "not pages and not zoo", "-n", "2", "--dist", "loadfile", *TESTS)
        nbval = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with=nbval_sanitize.cfg"]
        chapters = sorted((ROOT / "notebooks").glob(f"{CHAPTER}_*.ipynb"))
        chapter = pytest("chapter", *nbval, "--nbval-cell-timeout=600", *chapters)
        versions = [version(python, package) for package in ("torch", "numpy")]
        return (name, *versions, made, lint, unit, chapter, minutes(start))
    finally:
        if not os.environ.get("MATRIX_KEEP"):
            shutil.rmtree(venv, ignore_errors=True)


def find(name: str) -> Path | None:
    """pythonX.Y on the path, or among pyenv's versions."""
    places = [shutil.which(f"python{name}"), *Path.home().glob(f".pyenv/versions/{name}.*/bin/python")]
    for place in filter(None, places):  # a shim of pyenv may be there and yet not run
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        answer = subprocess.run([place, "-c", code], capture_output=True, text=True)
        if answer.stdout.strip() == name:
            return Path(place)
    return None


def counts(report: Path) -> str:
    """Such as "611 passed, 3 skipped" or "2 failed, 609 passed"."""
    suites = ET.parse(report).getroot().findall("testsuite")
    total, bad, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites for key in keys)
        for keys in (("tests",), ("failures", "errors"), ("skipped",))
    )
    parts = {"failed": bad, "passed": total - bad - skipped, "skipped": skipped}
    return ", ".join(f"{n} {what}" for what, n in parts.items() if n or what == "passed")


def version(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def minutes(start: float) -> str:
    return f"{(time.monotonic() - start) / 60:.0f}"


if __name__ == "__main__":
    sys.exit(main())
