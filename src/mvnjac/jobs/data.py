"""The observations that a job reads: which columns of which table, kept how."""

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
    """The observations: which columns of which table, kept how.

    index: a column kept in the output. log_returns: difference the logarithms of consecutive rows first. missing: "marginalise", or
    None: a gap is an error.
    """

    path: str | Path
    columns: Sequence[str] | None = None
    index: str | None = None
    log_returns: bool = False
    missing: str | None = None

    def open(self) -> tuple[Source, list[str]]:
        """The table, and the names of its variables."""
        source = open_source(self.path, self.index)
        names = source.variables(self.columns, self.index)
        return (LogReturns(source, self.index) if self.log_returns else source), names

    def rows(self, names: Sequence[str], at: Slice) -> Iterator[Rows]:
        """The rows of a slice: of its file alone, where a row is a row of the file."""
        source = self.open()[0] if self.log_returns else open_source(at.path, self.index)
        yield from tensor_batches(source, names, self.index, self.missing is not None, at)

    def through(
        self, names: Sequence[str], at: Slice, on_rows: Callable[[int], None], each: Callable[[int, Rows], None]
    ) -> int:
        """Each batch of the rows of a slice, and its number; `on_rows` hears of its rows when it is done. Gives how many rows."""
        count = 0
        for i, rows in enumerate(self.rows(names, at)):
            each(i, rows)
            count += len(rows.x)
            on_rows(len(rows.x))
        return count
