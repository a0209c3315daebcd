"""Table formats (`TableFormat`) by their suffixes, and how a table is opened. `tables.source` defines what a format implements.

Each module of `mvnjac.tables.formats` defines one `FORMAT` and is found automatically. Formats from elsewhere are added by
`register_format`, or by installed packages through the entry point group "mvnjac.table_formats".
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pyarrow as pa

from mvnjac.errors import ArgumentError, MvnjacError, TableError, UsageError
from mvnjac.tables.columns import is_numeric
from mvnjac.tables.exact import column_as_float64
from mvnjac.tables.reading import ReadOptions, flag
from mvnjac.tables.source import Sink as Sink
from mvnjac.tables.source import Source as Source
from mvnjac.tables.storage import entries, entry, is_remote

#: bytes of a batch, which should fit into the CPU caches, and its least number of rows, for efficient products of wide tables
BATCH_BYTES, BATCH_ROWS = 5 * 2**19, 512

#: The entry point group through which installed packages provide table formats; each entry point is a `TableFormat`.
ENTRY_POINTS = "mvnjac.table_formats"


def _no_companions(path: Path) -> list[Path]:
    return []


@dataclass(frozen=True)
class TableFormat:
    """A table format: the suffixes of its files, and how they are opened.

    Args:
        suffixes: lower-case suffixes with their dots, such as (".csv", ".csv.gz").
        open_source: path → `Source`; usually the class itself. See `options`.
        open_sink: (path, schema) → `Sink`; None: tables of this format cannot be written. The schema has an optional index
            column, then float64 columns. The path is a temporary name that ends with the final name.
        companions: path → the files that belong to a table at this path and lie beside it, such as a file of column names.
        is_folder: whether a table is a folder rather than a file.
        is_remote: whether `open_source` accepts addresses of object storage ("s3://…") too.
        options: the options of `ReadOptions` that apply to the format; if there are any, `open_source` has them as a second
            argument.

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
    open_source: Callable[..., Source]
    open_sink: Callable[[Any, pa.Schema], Sink] | None = None
    companions: Callable[[Path], list[Path]] = _no_companions
    is_folder: bool = False
    is_remote: bool = False
    options: tuple[str, ...] = ()

    def source(self, path: str | Path, options: ReadOptions) -> Source:
        """Open a table at this path.

        Raises:
            UsageError: an option does not apply to the format.
        """
        for name in options.given():
            if name not in self.options:
                raise UsageError(f"{flag(name)} does not apply to {path}: tables of this format are read without it.")
        return self.open_source(path, options) if self.options else self.open_source(path)

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


def open_source(path: str | Path, index: str | None = None, options: ReadOptions | None = None) -> Source:
    """Open a table; its format follows from its suffix. A folder without such a suffix is a table of several files.

    Args:
        path: a file, a folder of Parquet files or of text tables, or an address of object storage.
        index: the column of row labels, which keeps its type.
        options: how the table is read.

    Raises:
        UsageError: no format has this suffix, or an option does not apply to the format.
        TableError: the file is missing or cannot be read.
    """
    found, options = entry(path), options or ReadOptions()
    if found is None:
        raise TableError(f"{str(path) or repr('')}: no such file.")
    path = str(path) if is_remote(path) else Path(path)
    parts = found.folder and not is_folder_format(Path(found.name))
    table_format = _format_of_parts(path) if parts else format_of(path)
    if is_remote(path) and not table_format.is_remote:
        raise UsageError(f"{path}: in object storage only Parquet tables can be read; copy the file to this machine first.")
    with table_errors(path):
        source = table_format.source(path, options)
    source.excluded = options.exclude
    source.use_index(index)
    return source


def _format_of_parts(folder: str | Path) -> TableFormat:
    """The format of the files of a folder: text tables if the first visible file is one, otherwise Parquet."""
    names = [each.name.lower() for each in entries(folder) if not each.folder and not each.name.startswith((".", "_"))]
    suffixes = _formats()[".csv"].suffixes + _formats()[".tsv"].suffixes
    is_text = any(name.endswith(suffixes) for name in names) and not any(name.endswith(".parquet") for name in names)
    return _formats()[".csv" if is_text else ".parquet"]


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
