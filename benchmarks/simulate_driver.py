"""The driver with a million units: what merging, recording and scheduling cost, without the work itself.

    python benchmarks/simulate_driver.py [--units 1000000] [--variables 100] [--records 2000] [--ray 2000]

An engine that does nothing hands back the sums of d variables (n, Σ z, Σ z zᵀ) in an order that workers could have left them in, with
stragglers that come a long way behind; `drive` merges them as it merges any others. Then some records are written, and some units
that do nothing are scheduled by Ray (0: none).
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

#: tasks under way at once, of which one in a hundred comes ten times as late as the others
WORKERS, STRAGGLERS, DELAY = 1000, 0.01, 10


class Nothing(Job):
    """A unit without work."""

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        return Result(unit.number, 1, None)


class Simulated(Engine):
    """Results in an order that 1000 workers could have left them in."""

    def __init__(self, d: int) -> None:
        self._sums = sums_of(d)

    def results(self, job: Job, units: Sequence[Unit], on_rows: Callable[[int], None]) -> Iterator[Result]:
        chance = random.Random(0)
        late = [i + WORKERS * (DELAY if chance.random() < STRAGGLERS else chance.random()) for i in range(len(units))]
        for i in sorted(range(len(units)), key=late.__getitem__):
            on_rows(1)
            yield Result(units[i].number, 1, self._sums)

    def close(self) -> None:
        """There is nothing to let go of."""


def sums_of(d: int) -> SumTuple:
    """The sums of a unit."""
    numbers = torch.ones(1 + d + d * d, dtype=torch.float64)
    return SumTuple([WhitenedMoments(numbers[0], numbers[1 : d + 1], numbers[d + 1 :].view(d, d)), NamedSums({}), SumTuple([])])


def main() -> None:
    """Each step's cost a unit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--variables", type=int, default=100)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--ray", type=int, default=2000)
    asked = parser.parse_args()
    slices = [Slice("s3://bucket/part.parquet", i, i + 1, i, 1) for i in range(asked.units)]
    start = time.perf_counter()
    outcome = drive(Simulated(asked.variables), Nothing(), slices)
    said("merging", time.perf_counter() - start, asked.units)
    assert float(outcome.sums.parts[0].count) == asked.units == outcome.rows
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    with tempfile.TemporaryDirectory() as place:
        folder, sums, file = (
            Folder(str(Path(place) / "out")),
            sums_of(asked.variables),
            File("part-0000000.parquet", 1, "0" * 64),
        )
        journal = Journal(folder, {"input": []}, asked.records)
        journal.begin()
        start = time.perf_counter()
        for i in range(asked.records):
            journal.record(Result(i, 1, sums, (file,)))
        journal.save()
        said("recording", time.perf_counter() - start, asked.records)
        print(f"a record: {sum(folder.sizes().values()) / asked.records / 1000:.0f} kB")
    if asked.ray:
        with Resources("ray", 2).open() as engine:
            job = importlib.import_module(Path(__file__).stem).Nothing()  # a worker does not know __main__
            drive(engine, job, slices[:100])
            start = time.perf_counter()
            drive(engine, job, slices[: asked.ray])
            said("scheduling by Ray", time.perf_counter() - start, asked.ray)


def said(what: str, seconds: float, units: int) -> None:
    """In words."""
    print(f"{what}: {units:,} units in {seconds:.1f} s, {1e6 * seconds / units:.0f} µs each", flush=True)


if __name__ == "__main__":
    main()
