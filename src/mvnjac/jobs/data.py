"""The observations of a job: a table, its variables, and how they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvnjac.errors import UsageError
from mvnjac.tables.base import Source, open_source
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.returns import Returns
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
        returns: whether the observations are relative changes between consecutive rows.
        complete: whether rows with missing values are left out.
        reading: how the table is read.

    Raises:
        UsageError: the arguments exclude each other.
    """

    path: str | Path
    columns: Sequence[str] | None = None
    index: str | None = None
    log_returns: bool = False
    missing: str | None = None
    returns: bool = False
    complete: bool = False
    reading: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        if self.log_returns and self.returns:
            raise UsageError("--log-returns and --returns exclude each other.")

    def settled(self) -> Data:
        """The same data with an index, if the first column consists of dates, and with what was detected of the file.

        Slices of the table are then read in the same way as its beginning.
        """
        source = open_source(self.path, self.index, self.reading)
        index = self.index or source.recognised_index(self.columns)
        return dataclasses.replace(self, index=index, reading=source.settled() or self.reading)

    def open(self) -> tuple[Source, list[str]]:
        """Open the table; also returns the names of its variables."""
        source = open_source(self.path, self.index, self.reading)
        names = source.variables(self.columns, self.index)
        return self._transformed(source), names

    def rows(self, names: Sequence[str], at: Slice) -> Iterator[Rows]:
        """The rows of a slice. Only its file is opened, except for returns, which depend on other rows."""
        if self.log_returns or self.returns:
            yield from self.rows_of(self.open()[0], names, at)
        else:
            yield from self.rows_of(open_source(at.path, self.index, self.reading), names, at)

    def rows_of(self, source: Source, names: Sequence[str], at: Slice | None = None) -> Iterator[Rows]:
        """The rows of an opened table, or of a slice of it."""
        yield from tensor_batches(source, names, self.index, self.missing is not None, at, self.complete)

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

    def fingerprint(self) -> dict[str, Any]:
        """How the observations are read, as JSON for a manifest; without the files and the variables."""
        return {
            "index": self.index,
            "log_returns": self.log_returns,
            "returns": self.returns,
            "missing": "drop" if self.complete else self.missing,
            "reading": self.reading.fingerprint(),
        }

    def _transformed(self, source: Source) -> Source:
        if self.log_returns or self.returns:
            return Returns(source, self.index, logarithmic=self.log_returns)
        return source
