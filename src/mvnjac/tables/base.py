"""The contract of a table format (`Source`, `Sink`, `TableFormat`), and the formats by their suffixes.

Each module of `mvnjac.tables.formats` defines one `FORMAT` and is found automatically. Formats from elsewhere are added by
`register_format`, or by installed packages through the entry point group "mvnjac.table_formats".
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mvnjac.errors import ArgumentError, MvnjacError, TableError, UsageError
from mvnjac.tables.columns import Wording, is_numeric, pandas_index, variables
from mvnjac.tables.exact import column_as_float64
from mvnjac.tables.slices import Slice
from mvnjac.tables.storage import entry, is_remote

#: bytes of a batch, which should fit into the CPU caches, and its least number of rows, for efficient products of wide tables
BATCH_BYTES, BATCH_ROWS = 5 * 2**19, 512

#: The entry point group through which installed packages provide table formats; each entry point is a `TableFormat`.
ENTRY_POINTS = "mvnjac.table_formats"


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
        states_types: whether the format stores the types of the columns. If not, as in text, a type of the schema is only what
            the values look like.
    """

    path: str | Path
    schema: pa.Schema
    index: str | None = None
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
        return variables(self.schema, columns, index, pandas_index(self.schema), Wording(str(self.path)))


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


def _no_companions(path: Path) -> list[Path]:
    return []


@dataclass(frozen=True)
class TableFormat:
    """A table format: the suffixes of its files, and how they are opened.

    Args:
        suffixes: lower-case suffixes with their dots, such as (".csv", ".csv.gz").
        open_source: path → `Source`; usually the class itself.
        open_sink: (path, schema) → `Sink`; None: tables of this format cannot be written. The schema has an optional index
            column, then float64 columns. The path is a temporary name that ends with the final name.
        companions: path → the files that belong to a table at this path and lie beside it, such as a file of column names.
        is_folder: whether a table is a folder rather than a file.
        is_remote: whether `open_source` accepts addresses of object storage ("s3://…") too.

    Example:
        >>> import pyarrow as pa
        >>> from mvnjac.tables import Source, TableFormat, register_format
        >>> class Lines(Source):  # one number a line
        ...     def __init__(self, path):
        ...         self.path, self.schema = path, pa.schema([("value", pa.float64())])
        ...     def batches(self, columns, at=None):
        ...         numbers = [float(line) for line in open(self.path)]
        ...         yield pa.RecordBatch.from_arrays([pa.array(numbers)], names=["value"]).select(list(columns))
        >>> register_format(TableFormat((".lines",), Lines))
    """

    suffixes: tuple[str, ...]
    open_source: Callable[[Any], Source]
    open_sink: Callable[[Any, pa.Schema], Sink] | None = None
    companions: Callable[[Path], list[Path]] = _no_companions
    is_folder: bool = False
    is_remote: bool = False

    def sink(self, path: Path, schema: pa.Schema) -> Sink:
        """A new table at this path.

        Raises:
            UsageError: the format can only be read.
        """
        if self.open_sink is None:
            raise UsageError(f"{path}: tables with the suffix {self.suffixes[0]} can be read, but not written.")
        return self.open_sink(path, schema)


def register_format(table_format: TableFormat) -> None:
    """Add a table format to this process: the library and the command line then read and write files with its suffixes.

    Worker processes must register it too. Call this at the top level of an imported module or of the main script, or let an
    installed package declare its `TableFormat` under the entry point group "mvnjac.table_formats", which every process loads,
    including the `mvnjac` command. A format that was registered before for the same suffix is replaced.

    Raises:
        ArgumentError: a suffix is not in lower case, does not begin with a dot, or is that of a built-in format.
    """
    for suffix in table_format.suffixes:
        if not suffix.startswith(".") or suffix != suffix.lower():
            raise ArgumentError(f"register_format: the suffix {suffix!r} must begin with a dot and be in lower case.")
        if suffix in _built_in_formats():
            raise ArgumentError(f"register_format: the suffix {suffix!r} is that of a built-in format; choose another.")
    _formats().update(dict.fromkeys(table_format.suffixes, table_format))


def format_of(path: str | Path) -> TableFormat:
    """The format of a file, by its suffix.

    Raises:
        UsageError: no format has this suffix.
    """
    formats, name = _formats(), str(path).partition("?")[0] if is_remote(path) else Path(path).name
    for suffix in sorted(formats, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return formats[suffix]
    raise UsageError(f"{path}: unknown suffix; expected one of {', '.join(sorted(formats))}.")


def is_folder_format(path: Path) -> bool:
    """Whether the suffix of a path is that of a format whose tables are folders."""
    return any(path.name.lower().endswith(suffix) for suffix, table_format in _formats().items() if table_format.is_folder)


def open_source(path: str | Path, index: str | None = None) -> Source:
    """Open a table; its format follows from its suffix. A folder without such a suffix is a Parquet table of several files.

    Args:
        path: a file, a folder, or an address of object storage.
        index: the column of row labels, which keeps its type.

    Raises:
        UsageError: no format has this suffix.
        TableError: the file is missing or cannot be read.
    """
    found = entry(path)
    if found is None:
        raise TableError(f"{str(path) or repr('')}: no such file.")
    path = str(path) if is_remote(path) else Path(path)
    parts = found.folder and not is_folder_format(Path(found.name))
    table_format = _formats()[".parquet"] if parts else format_of(path)
    if is_remote(path) and not table_format.is_remote:
        raise UsageError(f"{path}: in object storage only Parquet tables can be read; copy the file to this machine first.")
    with table_errors(path):
        source = table_format.open_source(path)
    source.index = index
    return source


@contextlib.contextmanager
def table_errors(path: str | Path) -> Iterator[None]:
    """Turns errors while a file is read into a TableError."""
    try:
        yield
    except (MemoryError, MvnjacError):  # pyarrow's MemoryError is an ArrowException too
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: Exception) -> TableError:
    """The error of a file that is damaged, or not in the format of its suffix."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return TableError(f"{path}: cannot be read ({reason}). Is the file complete, and in the format of its suffix?")


def as_float64(batch: pa.RecordBatch, index: str | None = None) -> pa.RecordBatch:
    """A batch with its numeric columns as float64; the index and columns of other types are unchanged.

    Raises:
        InexactError: an integer that float64 cannot represent.
    """
    if all(pa.types.is_float64(kind) for kind in batch.schema.types):
        return batch
    arrays = [
        column_as_float64(name, column) if is_numeric(column.type) and name != index else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def batch_rows(columns: int, most: int = 65_536) -> int:
    """The number of rows of a batch of this many float64 columns."""
    return max(BATCH_ROWS, min(most, BATCH_BYTES // (8 * max(columns, 1))))


@functools.cache
def _built_in_formats() -> dict[str, TableFormat]:
    package = importlib.import_module("mvnjac.tables.formats")
    modules = [importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)]
    return {suffix: module.FORMAT for module in modules for suffix in module.FORMAT.suffixes}


@functools.cache
def _formats() -> dict[str, TableFormat]:
    """All formats by suffix: built-in formats, those of installed packages, and those added by `register_format`."""
    found: dict[str, TableFormat] = {}
    for entry_point in entry_points(group=ENTRY_POINTS):
        table_format = entry_point.load()
        found.update(dict.fromkeys(table_format.suffixes, table_format))
    return {**found, **_built_in_formats()}
