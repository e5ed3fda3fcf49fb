"""What a scheduler costs for each run: runs that take no time, by a Dask cluster of two local workers, and without one.

    python benchmarks/scheduler.py [--runs 10000]

Everything that sweep() does around a run is in it: the experiment goes to a worker, the record comes back, is looked up
in the store and appended.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import bridgeout_lite as bl
from bridgeout_lite.notebook import results


@dataclasses.dataclass(frozen=True)
class Nothing:
    """An experiment that hands out a copy of a recorded run of the grid."""

    seed: int

    @property
    def spec(self) -> dict[str, Any]:
        return {"dataset": "none", "method": "none", "p": 0.0, "q": 2.0, "seed": self.seed}

    def run(self, **options: Any) -> bl.Record:
        return dataclasses.replace(_template(), spec=self.spec)


_made: list[bl.Record] = []


def _template() -> bl.Record:
    if not _made:
        _made.append(next(iter(results("activations"))))
    return _made[0]


def main() -> None:
    from distributed import LocalCluster

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = [Nothing(seed) for seed in range(parser.parse_args().runs)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter(), time.process_time()
        assert len(bl.sweep(runs, Path(folder) / "local.jsonl", progress=False)) == len(runs)
        _say("in this process", start, len(runs))
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            bl.sweep(runs[:10], Path(folder) / "warm.jsonl", backend=cluster.scheduler_address, progress=False)
            start = time.perf_counter(), time.process_time()
            store = Path(folder) / "cluster.jsonl"
            assert len(bl.sweep(runs, store, backend=cluster.scheduler_address, progress=False)) == len(runs)
            _say("by a scheduler, which shares this process", start, len(runs))


def _say(name: str, start: tuple[float, float], runs: int) -> None:
    clock, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    print(
        f"{runs} runs {name}: {1e3 * clock / runs:.1f} ms a run by the clock, {1e3 * processor / runs:.1f} ms processor"
    )


if __name__ == "__main__":
    main()
