"""Warnings about the rows of a table, before they are used: stale values, outliers, and rows that are left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mvnjac.engines.job import Job, Result, Unit
from mvnjac.engines.run import Run
from mvnjac.errors import TableWarning, counted, warn
from mvnjac.jobs.data import Data
from mvnjac.statistics.pairwise import NamedSums, PairwiseReduction
from mvnjac.tables.base import Source
from mvnjac.tables.rows import tensor_batches
from mvnjac.tables.slices import rows_per_slice
from mvnjac.tables.storage import entry, is_remote
from mvnjac.tables.suspicious_values import SuspiciousValues, warn_about

#: the largest files and the largest number of variables for which the rows are read once more, to be looked over
_MOST_BYTES, _MOST_VARIABLES = 64 * 2**20, 2000
_INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class IncompleteRows(Job):
    """The number of rows of a unit with missing values."""

    tag = "incomplete"

    data: Data
    names: tuple[str, ...]

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        reduction = PairwiseReduction[NamedSums]()
        count = self.data.for_each_batch(
            self.names,
            unit.at,
            on_rows,
            lambda i, rows: reduction.add(i, NamedSums({_INCOMPLETE: rows.x.isnan().any(-1).sum().double()})),
        )
        return Result(unit.number, count, reduction.total())


def point_out(data: Data, source: Source, names: Sequence[str], run: Run) -> None:
    """Warn about stale values and outliers of a table that is small enough to be read once more, and about omitted rows.

    Warns:
        TableWarning: one for each kind.
    """
    if _is_small(source, names):
        scan = SuspiciousValues(names)
        for rows in tensor_batches(source, names, data.index, allow_missing=True):
            scan.add(rows.x.numpy(), rows.index)
        warn_about(str(data.path), scan, is_series=data.index is not None or data.returns or data.log_returns)
        total, incomplete = scan.rows, scan.incomplete
    elif data.complete:
        job = IncompleteRows(dataclasses.replace(data, complete=False, missing="marginalise"), tuple(names))
        outcome = run.over(job, source.slices(rows_per_slice(len(names))), "counting", engine=run.engine)
        total, incomplete = outcome.rows, 0 if outcome.sums is None else int(outcome.sums[_INCOMPLETE])
    if data.complete and incomplete:
        warn(
            f"{data.path}: {incomplete:,} of {counted(total, 'row', ',')} have missing values and are left out; "
            f"{total - incomplete:,} remain.",
            TableWarning,
        )


def _is_small(source: Source, names: Sequence[str]) -> bool:
    found = [None if is_remote(path) else entry(path) for path in source.inputs()]
    sizes = [_MOST_BYTES + 1 if each is None else each.size for each in found]
    return sum(sizes) <= _MOST_BYTES and len(names) <= _MOST_VARIABLES
