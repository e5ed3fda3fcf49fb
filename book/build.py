"""Build the book: python book/build.py; `make book` calls this.

Pages show stored outputs. Only a chapter whose outputs are not those of what is here (see chapters.py) is executed,
into _build/executed; notebooks/ stays as it is. One that cannot be executed keeps its last outputs, has a note on its
page, and is named at the end; the exit status is then 1.
"""

import argparse
import sys

import chapters
import execute
from jupyter_book.sphinx import build_sphinx

ROOT = chapters.ROOT


def render(failures: dict[str, str], jobs: int) -> bool:
    """Build the pages, ``jobs`` at a time; false if Sphinx had a warning."""
    print(f"rendering {ROOT / '_build' / 'html'}", flush=True)
    overrides = {
        "external_toc_path": (ROOT / "_toc.yml").as_posix(),
        "latex_individualpages": False,
        "chapter_failures": failures,
    }
    status = build_sphinx(
        ROOT,
        ROOT / "_build" / "html",
        noconfig=True,
        path_config=ROOT / "_config.yml",
        confoverrides=overrides,
        warningiserror=True,
        keep_going=True,
        quiet=True,
        jobs=jobs,
    )
    return bool(status == 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the book into _build/html.")
    parser.add_argument(
        "--jobs", type=int, default=2, help="chapters and pages that are worked on at a time (default: 2)"
    )
    jobs = parser.parse_args().jobs
    found = {path: chapters.current(path)[1] for path in chapters.chapters()}
    for path, why in found.items():
        if why:
            print(f"{path.stem}: {why}")
    failures = {}
    for outcome in execute.run_all([path for path, why in found.items() if why], jobs):
        if outcome.failure:
            failures[outcome.path.stem] = outcome.failure
        else:
            chapters.write(ROOT / "_build" / "executed" / outcome.path.name, outcome.notebook)
    clean = render(failures, jobs)
    print()
    for path, why in found.items():
        stored, (shown, _) = chapters.read(path), chapters.current(path)
        if path.stem in failures:
            print(f"{path.stem} shows its last outputs: {why}, and executing it failed: {failures[path.stem]}")
        elif chapters.stale(stored):
            missing = chapters.lost(stored, shown)
            without = f" without {', '.join(missing)}" if missing else ""
            print(f"{path.stem} shows what was computed here{without}; `make run` stores such outputs in notebooks/")
    if not clean:
        print("The pages are built, but not without the warnings above.")
    print(f"Open {ROOT / '_build' / 'html' / 'index.html'}")
    return bool(failures) or not clean


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted: what was running is ended")
