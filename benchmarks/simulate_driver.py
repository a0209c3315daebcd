"""The cost of merging, recording and scheduling a million units, without their work.

    python benchmarks/simulate_driver.py [--units 1000000] [--variables 100] [--records 2000] [--ray 2000]

A simulated engine returns the sums of d variables (n, Σ z, Σ z zᵀ) in an order that is typical of many workers, with some very late
results; `drive` merges them. Then some records are written, and some empty units are scheduled by Ray (0: none).
"""

from __future__ import annotations

import argparse
import importlib
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from mvnjac.engines.driver import drive
from mvnjac.engines.engine import Engine, Resources
from mvnjac.engines.folder import Folder
from mvnjac.engines.job import File, Job, Result, Unit
from mvnjac.engines.manifest import Journal
from mvnjac.statistics.pairwise import NamedSums, SumTuple
from mvnjac.tables.slices import Slice
from mvnjac.whitening.sums import WhitenedMoments

#: the number of concurrent tasks, the share of late ones, and their delay relative to the others
WORKERS, STRAGGLERS, DELAY = 1000, 0.01, 10


class Nothing(Job):
    """A job without work."""

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        return Result(unit.number, 1, None)


class Simulated(Engine):
    """Returns results in an order that is typical of 1000 workers."""

    def __init__(self, d: int) -> None:
        self._sums = sums_of(d)

    def results(self, job: Job, units: Sequence[Unit], on_rows: Callable[[int], None]) -> Iterator[Result]:
        chance = random.Random(0)
        late = [i + WORKERS * (DELAY if chance.random() < STRAGGLERS else chance.random()) for i in range(len(units))]
        for i in sorted(range(len(units)), key=late.__getitem__):
            on_rows(1)
            yield Result(units[i].number, 1, self._sums)

    def close(self) -> None:
        """Nothing to release."""


def sums_of(d: int) -> SumTuple:
    """The sums of one unit."""
    numbers = torch.ones(1 + d + d * d, dtype=torch.float64)
    return SumTuple([WhitenedMoments(numbers[0], numbers[1 : d + 1], numbers[d + 1 :].view(d, d)), NamedSums({}), SumTuple([])])


def main() -> None:
    """Print the cost per unit of each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--variables", type=int, default=100)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--ray", type=int, default=2000)
    options = parser.parse_args()
    slices = [Slice("s3://bucket/part.parquet", i, i + 1, i, 1) for i in range(options.units)]
    start = time.perf_counter()
    outcome = drive(Simulated(options.variables), Nothing(), slices)
    print_cost("merging", time.perf_counter() - start, options.units)
    assert float(outcome.sums.parts[0].count) == options.units == outcome.rows
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    with tempfile.TemporaryDirectory() as temporary:
        folder, sums, file = (
            Folder(str(Path(temporary) / "out")),
            sums_of(options.variables),
            File("part-0000000.parquet", 1, "0" * 64),
        )
        journal = Journal(folder, {"input": []}, options.records)
        journal.begin()
        start = time.perf_counter()
        for i in range(options.records):
            journal.record(Result(i, 1, sums, (file,)))
        journal.save()
        print_cost("recording", time.perf_counter() - start, options.records)
        print(f"a record: {sum(folder.sizes().values()) / options.records / 1000:.0f} kB")
    if options.ray:
        with Resources("ray", 2).open() as engine:
            job = importlib.import_module(Path(__file__).stem).Nothing()  # workers cannot import __main__
            drive(engine, job, slices[:100])
            start = time.perf_counter()
            drive(engine, job, slices[: options.ray])
            print_cost("scheduling by Ray", time.perf_counter() - start, options.ray)


def print_cost(what: str, seconds: float, units: int) -> None:
    print(f"{what}: {units:,} units in {seconds:.1f} s, {1e6 * seconds / units:.0f} µs each", flush=True)


if __name__ == "__main__":
    main()
