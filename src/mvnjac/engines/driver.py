"""The driver: it gives units of work to an engine and merges their sums in the order of the units."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mvnjac.engines.engine import Engine
from mvnjac.engines.job import Job, Result, Unit
from mvnjac.statistics.pairwise import PairwiseReduction
from mvnjac.tables.slices import Slice


@dataclass(frozen=True)
class Outcome:
    """The result of a run, including resumed results: rows, parts, bytes of the parts, seconds, and the merged sums."""

    rows: int
    parts: int
    size: int
    seconds: float
    sums: Any


def drive(
    engine: Engine,
    job: Job,
    slices: Sequence[Slice],
    on_rows: Callable[[int], None] = lambda rows: None,
    record: Callable[[Result], None] = lambda result: None,
    known: Iterable[Result] = (),
    on_known: Callable[[int], None] = lambda rows: None,
) -> Outcome:
    """Run a job over all slices except those with known results; `record` is called with each new result.

    on_rows: called with the number of further rows that are done; on_known: the same for rows with known results.
    """
    start, reduction = time.monotonic(), PairwiseReduction[_JobSums]()
    rows = parts = size = 0
    done = set[int]()

    def take(result: Result) -> None:
        nonlocal rows, parts, size
        done.add(result.number)
        rows, parts, size = rows + result.rows, parts + bool(result.files), size + result.size
        reduction.add(result.number, _JobSums(result.sums))

    for result in known:
        take(result)
        on_known(result.rows)
    units = [Unit(number, at) for number, at in enumerate(slices) if number not in done]
    for result in engine.results(job, units, on_rows):
        record(result)
        take(result)
    total = reduction.total()
    return Outcome(rows, parts, size, time.monotonic() - start, None if total is None else total.sums)


@dataclass(frozen=True)
class _JobSums:
    """The sums of a unit; None for a unit without rows."""

    sums: Any

    def merge(self, other: _JobSums) -> _JobSums:
        if self.sums is None or other.sums is None:
            return other if self.sums is None else self
        return _JobSums(self.sums.merge(other.sums))
