"""`read_table`: the rows of a file, in memory."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch

from mvnjac.errors import ArgumentError, TableError, UsageError
from mvnjac.tables.base import open_source
from mvnjac.tables.dataframes import Observations
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.returns import Returns
from mvnjac.tables.rows import Rows, tensor_batches
from mvnjac.tables.source import Source
from mvnjac.tables.suspicious_values import SuspiciousValues, warn_about
from mvnjac.tensors import memory

#: an option in a message, with its value: --decimal , or --missing-values 'x'
_OPTION = re.compile(
    r"--([a-z]+(?:-[a-z]+)*)(?: ('[^']*'|\"[^\"]*\"|[,.](?=[\s;,.]|$)|\d+|(?:drop|marginalise|space|utf-\d+|latin-1)\b))?"
)
#: variables up to which the rows are looked over
_MOST_VARIABLES = 2000


def read_table(
    path: str | Path,
    *,
    columns: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
    index: str | None = None,
    log_returns: bool = False,
    returns: bool = False,
    missing: Literal["error", "drop", "marginalise"] | None = None,
    separator: str | None = None,
    decimal: str = ".",
    thousands: str | None = None,
    percent: bool = False,
    missing_values: str | Sequence[str] = (),
    skip_rows: int = 0,
    header_rows: int = 1,
    comment: str | None = None,
    encoding: str = "utf-8",
    date_format: str | None = None,
    sheet: str | None = None,
) -> Observations:
    """Read a table into memory, with the names of its columns and the labels of its rows.

    The formats are those of the command line: text (.csv, .tsv, .txt, also compressed), Parquet, Arrow, Excel, .npy, Zarr, and
    folders of text or Parquet files. The arguments are the options of the command line. All columns except the index are
    variables by default, and all of them must be numeric. Cells that are not numbers raise an error that names the cell.

    Args:
        path: the file, the folder, or an address of object storage (Parquet).
        columns: the variables, in this order; by default all columns except the index.
        exclude: columns to leave out.
        index: the column of row labels; by default the first column, if it consists of dates.
        log_returns: whether x are the differences of the logarithms of consecutive rows, which are sorted by the index.
        returns: whether x are the relative changes between consecutive rows, (pₜ − pₜ₋₁)/pₜ₋₁.
        missing: "error": a missing value is an error; "drop": only complete rows are kept; by default, and with "marginalise",
            missing entries are NaN. Functions to which the rows are given need `missing="marginalise"` then.
        separator: the character between fields; by default it is detected.
        decimal: the decimal point, "." or ",".
        thousands: the character that groups digits.
        percent: whether cells may end with a percent sign: 1.5% is .015.
        missing_values: further cells that mean a missing value, such as "-999"; empty cells, NA, NaN, null and similar always
            do. Numbers are compared by value.
        skip_rows: the number of lines before the header.
        header_rows: the number of rows of the header, whose names are joined by a space; 0: there is none, and the columns are
            named "0", "1", …
        comment: lines that begin with this text are left out.
        encoding: the encoding of text.
        date_format: the format of the dates in the index, such as "%d/%m/%Y"; by default it is recognised, unless it is
            ambiguous.
        sheet: the sheet of an Excel file; by default the first.

    Returns:
        The rows as `Observations`: x (n, d) float64, names, and labels. Tables of results are pandas DataFrames if pandas is
        installed, and Arrow tables otherwise.

    Raises:
        TableError: the file cannot be read, a cell is not a number, a column is not numeric, or a value is infinite.
        ArgumentError: an argument is invalid, or a column does not exist.
        MemoryLimitError: the rows do not fit into memory.

    Warns:
        TableWarning: there are stale values or outliers; they are not changed.

    Example:
        >>> import tempfile, pathlib, mvnjac
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "prices.csv"
        >>> _ = path.write_text("Datum;A;B\\n31.01.2020;1.000,5;7\\n29.02.2020;1.100,5;8\\n31.03.2020;1.050,0;6\\n")
        >>> rows = mvnjac.read_table(path, decimal=",", thousands=".", log_returns=True)
        >>> rows.names, rows.index_name, rows.x.shape
        (['A', 'B'], 'Datum', torch.Size([2, 2]))
    """
    if missing not in (None, "error", "drop", "marginalise"):
        raise ArgumentError(f'read_table: missing is {missing!r}; expected "error", "drop", "marginalise" or None.')
    if log_returns and returns:
        raise ArgumentError("read_table: log_returns and returns exclude each other.")
    with _python_wording():
        options = ReadOptions(
            separator=separator,
            decimal=decimal,
            thousands=thousands,
            missing_values=_names(missing_values),
            skip_rows=skip_rows,
            header_rows=header_rows,
            comment=comment,
            encoding=encoding,
            percent=percent,
            date_format=date_format,
            sheet=sheet,
            exclude=_names(exclude),
        )
        source = open_source(path, index, options)
        selected = None if columns is None else list(_names(columns))
        key = index or source.recognised_index(selected)
        source.use_index(key)
        names = source.variables(selected, key)
        transformed = Returns(source, key, logarithmic=log_returns) if log_returns or returns else source
        return _observations(transformed, names, key, missing, is_series=key is not None or log_returns or returns)


def _observations(source: Source, names: list[str], key: str | None, missing: str | None, is_series: bool) -> Observations:
    scan = SuspiciousValues(names) if len(names) <= _MOST_VARIABLES else None
    parts, held = list[Rows](), 0
    for rows in tensor_batches(source, names, key, missing != "error", complete=missing == "drop"):
        parts.append(rows)
        held += rows.x.numel() * rows.x.element_size()
        # The batches and the rows as a whole are in memory at the same time.
        memory.require_bytes(f"read_table: the rows of {source.path}", held, torch.device("cpu"), "select fewer columns.")
        if scan is not None:
            scan.add(rows.x.numpy(), rows.index)
    if not parts:
        raise TableError(f"{source.path}: there are no rows{' without missing values' if missing == 'drop' else ''}.")
    if scan is not None:
        warn_about(str(source.path), scan, is_series)
    x = torch.cat([rows.x for rows in parts])
    kind: Literal["pandas", "arrow"] = "pandas" if importlib.util.find_spec("pandas") else "arrow"
    labels = range(len(x)) if key is None else pa.chunked_array([rows.index for rows in parts])
    return Observations(x, names, _labels(labels, kind), kind, key)


def _labels(labels: Any, kind: str) -> list[Any]:
    """The labels as a list; dates as timestamps of pandas if this is the kind of the tables, so that they form its index."""
    if isinstance(labels, range):
        return list(labels)
    if kind == "pandas" and pa.types.is_temporal(labels.type):
        return list(labels.to_pandas(date_as_object=False))
    return labels.to_pylist()


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(map(str, names))


@contextlib.contextmanager
def _python_wording() -> Iterator[None]:
    """Errors name the arguments of Python instead of the options of the command line."""
    try:
        yield
    except UsageError as error:
        raise ArgumentError(f"read_table: {python_arguments(str(error))}") from None
    except TableError as error:
        raise TableError(python_arguments(str(error))) from error.__cause__


def python_arguments(message: str) -> str:
    """A message with the arguments of Python in place of the options of the command line.

    Example:
        >>> from mvnjac.tables.read_table import python_arguments
        >>> python_arguments("use --decimal , or --missing-values 'x', or --percent.")
        'use decimal="," or missing_values="x", or percent=True.'
    """

    def argument(match: re.Match[str]) -> str:
        name, value = match[1].replace("-", "_"), match[2]
        if value is None:
            return f"{name}=" if name not in ("percent", "returns", "log_returns") else f"{name}=True"
        quoted = value if value.isdigit() else '"' + value.strip("'\"") + '"'
        return f"{name}={quoted}"

    return _OPTION.sub(argument, message)
