"""What a table format must supply: a `Source` that is read by batches, and a `Sink` that is written by parts.

A format is one module of this package with `SUFFIXES`, `open_source(path)` and `open_sink(path, schema)`; it is found by
itself.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa

from mvnjac.errors import TableError, UsageError
from mvnjac.tables.columns import Wording, is_numeric, pandas_index, variables
from mvnjac.tables.exact import column_as_float64
from mvnjac.tables.slices import Slice
from mvnjac.tables.storage import entry, is_remote

#: A batch of rows stays near the cores while it is worked on; of wide tables it has so many rows at least that products are fast.
BATCH_BYTES, BATCH_ROWS = 5 * 2**19, 512


class Source(ABC):
    """A table that can be read any number of times.

    Attributes:
        path: the file or folder.
        schema: names and types of all columns, in file order. A column of type null is numeric as far as it was looked at.
        index: the column that labels the rows; it keeps its own type, for an identifier may be no float64.
    """

    path: str | Path
    schema: pa.Schema
    index: str | None = None

    @abstractmethod
    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        """The asked columns in the asked order, all rows or those of a slice; numeric ones as float64, missing as null."""

    def slices(self, rows: int) -> list[Slice]:
        """The table in slices of about so many rows: here one, of a table whose rows must be read one after the other."""
        return [Slice(str(self.path))]

    def rows_before(self, at: Slice) -> int:
        """How many rows of the table come before a slice, for messages."""
        return at.row or 0

    def inputs(self) -> list[str]:
        """The files that the table is read from."""
        return [str(self.path)]

    @property
    def names(self) -> list[str]:
        """All column names."""
        return list(self.schema.names)

    def variables(self, columns: Sequence[str] | None, index: str | None) -> list[str]:
        """The numeric columns that are meant: those asked for, else all but the index.

        Raises:
            UsageError: a column that does not exist, or is asked for twice.
            TableError: a column that is not numeric, or two of the same name.
        """
        return variables(self.schema, columns, index, pandas_index(self.schema), Wording(str(self.path)))


class Sink(ABC):
    """A table being written. `close` completes it; a sink that is never closed is no table.

    Attributes:
        row_major: whether numbers are stored row after row; else column after column.
    """

    row_major = False

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Append these rows."""

    def write_rows(self, keys: pa.Array | None, numbers: np.ndarray, schema: pa.Schema) -> None:
        """Append rows of numbers (n, p), in either order in memory, after the index that they have, if they have one."""
        arrays = [pa.array(column) for column in numbers.T]  # contiguous column by column, none is copied
        self.write(pa.RecordBatch.from_arrays(arrays if keys is None else [keys, *arrays], schema=schema))

    @abstractmethod
    def close(self) -> None:
        """Complete the file."""

    @staticmethod
    def companions(path: Path) -> list[Path]:
        """Files that belong to the table at `path`, beside it."""
        return []


def as_float64(batch: pa.RecordBatch, keep: str | None = None) -> pa.RecordBatch:
    """The numeric columns as float64; the others, and the one to keep, as they are.

    Raises:
        InexactError: an integer that is not exactly a float64.
    """
    if all(pa.types.is_float64(kind) for kind in batch.schema.types):
        return batch
    arrays = [
        column_as_float64(name, column) if is_numeric(column.type) and name != keep else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def batch_rows(columns: int, most: int = 65_536) -> int:
    """How many rows of so many float64 columns make a batch."""
    return max(BATCH_ROWS, min(most, BATCH_BYTES // (8 * max(columns, 1))))


def open_source(path: str | Path, index: str | None = None) -> Source:
    """The table at a path, by its suffix; a folder is a Parquet table of parts.

    Raises:
        UsageError: a suffix that no format has.
        TableError: a file that is missing or cannot be read.
    """
    there = entry(path)
    if there is None:
        raise TableError(f"{str(path) or repr('')}: no such file.")
    path = str(path) if is_remote(path) else Path(path)
    array = there.folder and there.name.lower().endswith(".zarr")
    module = _formats()[".parquet"] if there.folder and not array else _format(path)
    if is_remote(path) and module is not _formats()[".parquet"]:
        raise UsageError(f"{path}: of tables in an object storage only Parquet can be read; copy the file here first.")
    try:
        source: Source = module.open_source(path)
    except MemoryError:  # Arrow's is an ArrowException, too
        raise
    except (pa.ArrowInvalid, pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise unreadable(path, error) from error
    source.index = index
    return source


def sink_format(path: Path) -> ModuleType:
    """The format module for an output path."""
    return _format(path)


def unreadable(path: str | Path, error: Exception) -> TableError:
    """The file is damaged, or not what its suffix says."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return TableError(f"{path}: cannot be read ({first}). Is the file complete, and of the format that its suffix says?")


def _format(path: str | Path) -> ModuleType:
    formats, name = _formats(), str(path).partition("?")[0] if is_remote(path) else Path(path).name
    for suffix in sorted(formats, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return formats[suffix]
    raise UsageError(f"{path}: unknown suffix; expected one of {', '.join(sorted(formats))}.")


@functools.cache
def _formats() -> dict[str, ModuleType]:
    package = importlib.import_module("mvnjac.tables.formats")
    modules = [importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)]
    return {suffix: module for module in modules for suffix in getattr(module, "SUFFIXES", ())}
