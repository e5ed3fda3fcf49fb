"""Run chapters and store their outputs: python book/run.py [04 07 ...]; `make run` calls this.

Nothing else writes into notebooks/. Outputs that were computed from real data are not replaced by those of what stands
in for it, unless that is asked for.
"""

import argparse
import copy
import sys
from pathlib import Path

import chapters
import execute


def chosen(words: list[str]) -> list[Path]:
    """The chapters that ``words`` name: numbers, or "stale" for those whose outputs are; all of them for no words."""
    everything = chapters.chapters()
    if not words:
        return everything
    if words == ["stale"]:
        return [path for path in everything if chapters.stale(chapters.read(path))]
    numbers = {path.stem.split("_")[0]: path for path in everything}
    for word in words:
        if word.zfill(2) not in numbers:
            raise SystemExit(f"no chapter {word}: name some of {' '.join(numbers)}, or `stale` for those that changed")
    return [numbers[word] for word in sorted({word.zfill(2) for word in words})]


def refusal(path: Path, missing: list[str]) -> str:
    """What is said of a chapter whose real data is not here."""
    return (
        f"{path.stem} keeps its outputs, which were computed from {', '.join(missing)}: put that into"
        f" {execute.data_folder()} (BRIDGEOUT_DATA names another folder), or store what stands in for it by"
        " `make run STAND_INS=1`"
    )


def main() -> int:
    """Run the chapters of the command line and store what they gave; 1 if something was not stored."""
    parser = argparse.ArgumentParser(description="Run chapters and store their outputs in notebooks/.")
    parser.add_argument("chapters", nargs="*", help="numbers such as 04 07, or: stale (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="chapters that run at a time (default: 2)")
    parser.add_argument("--stand-ins", action="store_true", help="store also what was computed without the real data")
    wanted = parser.parse_args()
    problems, able = [], []
    for path in chosen(wanted.chapters):
        folder = execute.data_folder()
        missing = [name for name in chapters.real_data(chapters.read(path)) if not (folder / name).exists()]
        if missing and not wanted.stand_ins:
            problems.append(refusal(path, missing))
        else:
            able.append(path)
    for outcome in execute.run_all(able, wanted.jobs):
        missing = chapters.lost(chapters.read(outcome.path), outcome.notebook)
        if outcome.failure:
            problems.append(f"{outcome.path.stem} keeps its outputs: {outcome.failure}")
        elif missing and not wanted.stand_ins:
            problems.append(refusal(outcome.path, missing))
        else:
            chapters.write(outcome.path, chapters.with_outputs(chapters.read(outcome.path), outcome.notebook))
    for path in chapters.chapters():  # figures whose script alone has changed need no kernel
        notebook = chapters.read(path)
        before = copy.deepcopy(notebook)
        chapters.refresh_figures(notebook)
        if notebook != before:
            chapters.write(path, notebook)
            print(f"{path.stem}: the present script of its figures is stored")
    if problems:
        print("\n".join(["", *problems]))
    return bool(problems)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted: what was running is ended, what was finished is stored")
