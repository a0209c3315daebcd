"""What a table format implements: a `Source`, which is read, and a `Sink`, which is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mvnjac.errors import UsageError
from mvnjac.tables.columns import Wording, date_column, pandas_index, variables
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.slices import Slice


class Source(ABC):
    """A table that can be read any number of times.

    A subclass sets `path` and `schema` in its constructor and implements `batches`; it overrides `slices` and `rows_before` if
    several processes can read parts of one table. A table that cannot be read raises a `TableError` or, in the constructor, any
    ValueError, OSError or pyarrow exception, which becomes one.

    Attributes:
        path: the file or folder.
        schema: names and types of all columns, in file order. A column whose values read so far are all missing may have the
            type null; it counts as numeric.
        index: the column of row labels, set by the caller, or None. It keeps its type, because an identifier may not fit
            float64.
        excluded: columns that are not variables, set by the caller.
        states_types: whether the format stores the types of the columns. If not, as in text, a type of the schema is only what
            the values look like.
    """

    path: str | Path
    schema: pa.Schema
    index: str | None = None
    excluded: Sequence[str] = ()
    states_types: bool = False

    @abstractmethod
    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of the table, or of one of its slices, as record batches.

        Args:
            columns: the columns to return, in this order.
            at: one of the slices that `slices` returned; None: all rows.

        Returns:
            Batches in the order of the rows. Numeric columns other than `index` are float64 (see `as_float64`); missing
                values are
            null or NaN.
        """

    def slices(self, rows: int) -> list[Slice]:
        """Divide the table into slices of about this many rows, in order; by default the whole table is one slice.

        The result depends only on the table and on `rows`, so that sums over slices are reproducible.
        """
        return [Slice(str(self.path))]

    def rows_before(self, at: Slice) -> int:
        """The number of rows before a slice; error messages use it."""
        return at.row or 0

    def inputs(self) -> list[str]:
        """The files that the table consists of."""
        return [str(self.path)]

    @property
    def names(self) -> list[str]:
        """All column names."""
        return list(self.schema.names)

    def variables(self, columns: Sequence[str] | None, index: str | None) -> list[str]:
        """The variables: the columns that were asked for, otherwise all columns except the index.

        Raises:
            UsageError: a column does not exist, or is given twice.
            TableError: a column is not numeric, or two columns have the same name.
        """
        wording = Wording(str(self.path))
        selected = None if columns is None else list(columns)
        for name in self.excluded:
            if name not in self.names:
                variables(self.schema, [name], None, (), wording)  # raises the error, with similar names
            if name == index or name in (selected or ()):
                raise UsageError(f"{self.path}: the column {name!r} is both selected and excluded.")
        labels = {*self.labels(), *self.excluded}
        return variables(self.schema, selected, index, labels, wording, self.not_numeric)

    def labels(self) -> list[str]:
        """Columns that are not variables unless they are selected, since they label the rows."""
        return pandas_index(self.schema)

    def use_index(self, index: str | None) -> None:
        """Set the column of row labels."""
        self.index = index

    def recognised_index(self, columns: Sequence[str] | None) -> str | None:
        """The column of row labels of a table for which none is named: the first, if it consists of dates.

        For a table that pandas has written, it is the index of the data frame, if this consists of dates.

        Args:
            columns: the selected variables, of which none labels the rows.
        """
        first = date_column(self.schema, columns)
        stored = [name for name in pandas_index(self.schema) if pa.types.is_temporal(self.schema.field(name).type)]
        found = first if first is not None else stored[0] if len(stored) == 1 else None
        return None if found is None or found in (*(columns or ()), *self.excluded) else found

    def settled(self) -> ReadOptions | None:
        """The options for reading each file of the table in the same way, with what was detected; None: those that were given."""
        return None

    def not_numeric(self, name: str) -> str | None:
        """Why a column is not numeric, and what to do; None: the general message."""
        return None


class Sink(ABC):
    """A table that is being written. It is complete only after `close`.

    Attributes:
        row_major: whether `write_rows` is faster with numbers stored row by row than column by column.
    """

    row_major = False

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows of a batch, whose columns are those of the schema."""

    def write_rows(self, keys: pa.Array | None, numbers: np.ndarray, schema: pa.Schema) -> None:
        """Append rows of numbers (n, p), in either memory order, preceded by their index values if there are any."""
        arrays = [pa.array(column) for column in numbers.T]  # no copy where the columns are contiguous
        self.write(pa.RecordBatch.from_arrays(arrays if keys is None else [keys, *arrays], schema=schema))

    @abstractmethod
    def close(self) -> None:
        """Complete the table."""
