"""What a store of many records costs: reading its keys, finding, appending, listing; and what 10,000 runs come to.

    python benchmarks/store.py [--records 100000] [--folder FOLDER] [--cpu-time]

The records are made up, but of the shape and size of those in results/: each is one of them with a seed of its own.
The file (8 kB a record) is written to a temporary folder and removed in the end. On a busy machine use --cpu-time: it
counts the processor's time in place of the clock's, without waits for the disk.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bridgeout_lite import Record, Store
from bridgeout_lite.runs.records import FORMAT
from bridgeout_lite.studies import recorded

RUNS = 10_000
APPENDED = 200


def write(path: Path, count: int, records: list[Record]) -> None:
    """So many lines as append() writes them, but without a lock and a wait for each."""
    lines = [json.dumps({"format": FORMAT} | dataclasses.asdict(r), sort_keys=True) for r in records]
    old = [json.dumps(r.spec["seed"]) for r in records]
    with open(path, "w") as file:
        for number, (line, seed) in zip(range(count), itertools.cycle(zip(lines, old, strict=True))):
            file.write(line.replace(f'"seed": {seed}', f'"seed": {1000 + number}') + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    now = time.process_time if arguments.cpu_time else time.perf_counter

    def timed(use: Callable[[], object]) -> float:
        start = now()
        use()
        return now() - start

    book = recorded()
    size = statistics.mean(len(json.dumps(dataclasses.asdict(r))) for r in book)
    clock = "CPU" if arguments.cpu_time else "wall"
    print(f"{clock} time; {arguments.records} records like the {len(book)} of results/")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "runs.jsonl"
        write(path, arguments.records, book)
        store = Store(path)
        print(f"  the file                        {path.stat().st_size / 1e6:10.1f} MB")
        print(f"  its keys, first time            {timed(store.keys):10.3f} s")
        print(f"  its keys, again                 {1e3 * timed(store.keys):10.3f} ms")
        last = book[(arguments.records - 1) % len(book)].spec | {"seed": 1000 + arguments.records - 1}
        assert store.find(last) is not None
        print(f"  finding a record                {1e3 * timed(lambda: store.find(last)):10.3f} ms")
        new = [dataclasses.replace(book[0], spec=book[0].spec | {"seed": -k}) for k in range(1, 2 * APPENDED + 1)]
        full = [timed(lambda r=r: store.append(r)) for r in new[:APPENDED]]
        print(f"  appending a record, median      {1e3 * statistics.median(full):10.3f} ms")
        small = Store(Path(folder) / "small.jsonl")
        empty = [timed(lambda r=r: small.append(r)) for r in new[APPENDED:]]
        print(f"  the same to an empty store      {1e3 * statistics.median(empty):10.3f} ms")
        print(f"  refusing one that is recorded   {1e3 * timed(lambda: store.append(new[0])):10.3f} ms")
        print(f"  reading every record            {timed(lambda: sum(1 for _ in store)):10.3f} s")
        assert len(store.keys()) == arguments.records + APPENDED
    print(f"{RUNS} runs, at what the runs of results/ took and take up")
    print(f"  bytes a record                  {size:10.0f}, in all {RUNS * size / 1e6:.0f} MB")
    by_name: dict[tuple[str, str, int, int], list[float]] = {}
    for r in book:
        name = (r.spec["dataset"], r.spec["model"], r.spec["recipe"]["epochs"], r.provenance["threads"])
        by_name.setdefault(name, []).append(r.provenance["seconds"])
    for (dataset, model, epochs, threads), seconds in sorted(by_name.items()):
        mean = statistics.mean(seconds)
        what = f"{model}, {dataset}, {epochs} epochs, {threads} thread(s)"
        print(f"  {what}: {mean:.0f} s a run (mean of {len(seconds)}), {RUNS * mean / 3600:.0f} h one after the other")


if __name__ == "__main__":
    main()
