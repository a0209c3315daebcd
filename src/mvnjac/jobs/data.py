"""The observations of a job: a table, its variables, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvnjac.tables.base import Source, open_source
from mvnjac.tables.returns import LogReturns
from mvnjac.tables.rows import Rows, tensor_batches
from mvnjac.tables.slices import Slice


@dataclass(frozen=True)
class Data:
    """The observations of a job.

    Attributes:
        path: the table.
        columns: the variables; None: all columns except the index.
        index: the column of row labels.
        log_returns: whether the observations are differences of the logarithms of consecutive rows.
        missing: "marginalise", or None: a missing value is an error.
    """

    path: str | Path
    columns: Sequence[str] | None = None
    index: str | None = None
    log_returns: bool = False
    missing: str | None = None

    def open(self) -> tuple[Source, list[str]]:
        """Open the table; also returns the names of its variables."""
        source = open_source(self.path, self.index)
        names = source.variables(self.columns, self.index)
        return (LogReturns(source, self.index) if self.log_returns else source), names

    def rows(self, names: Sequence[str], at: Slice) -> Iterator[Rows]:
        """The rows of a slice. Only its file is opened, except for log returns, which depend on other rows."""
        source = self.open()[0] if self.log_returns else open_source(at.path, self.index)
        yield from tensor_batches(source, names, self.index, self.missing is not None, at)

    def for_each_batch(
        self, names: Sequence[str], at: Slice, on_rows: Callable[[int], None], process: Callable[[int, Rows], None]
    ) -> int:
        """Call `process` with the number and the rows of each batch of a slice, then `on_rows`; returns the number of rows."""
        count = 0
        for i, rows in enumerate(self.rows(names, at)):
            process(i, rows)
            count += len(rows.x)
            on_rows(len(rows.x))
        return count
