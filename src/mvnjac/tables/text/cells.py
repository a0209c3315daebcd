"""Messages about cells of a text table that cannot be read: the column, the row, the value, and the option that helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from mvnjac.errors import TableError
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.text.columns import Column
from mvnjac.tables.text.numbers import CellError, advice

#: rows of text above numbers that may belong to the header
_MOST_HEADER_ROWS = 5


def not_a_number(path: Path, name: str, cell: CellError, before: int, options: ReadOptions) -> TableError:
    """The error of a cell, whose row is counted from `before`."""
    return TableError(f"{path}: {_cell(name, cell, before)}; {_remedy(cell, options)}.")


def other_type(path: Path, name: str, value: str, row: int, kind: pa.DataType) -> TableError:
    """The error of a cell that has another type than the first rows of its column."""
    return TableError(
        f"{path}: {name!r} is {value!r} at row {row}, but the first rows have the type {kind}; correct the value, or leave the "
        "column out with --exclude."
    )


def other_width(path: Path, row: int, expected: int, got: int) -> TableError:
    """The error of a row with another number of fields than the header."""
    return TableError(
        f"{path}: row {row} has {got} fields, but the header has {expected}. If the table has lines above its header, use "
        "--skip-rows; if lines are comments, --comment; if fields are separated otherwise, --separator."
    )


def other_encoding(path: Path, options: ReadOptions) -> TableError:
    """The error of text that is not in the encoding."""
    return TableError(
        f"{path}: holds text that is not in the encoding {options.encoding}; name the encoding of the file, such as --encoding "
        "latin-1 or cp1252."
    )


def explained(column: Column, options: ReadOptions) -> str | None:
    """Why a column of text is not numeric, if single cells are the reason; None if it simply is text."""
    if pa.types.is_binary(column.kind):
        return f"column {column.name!r} holds text that is not in the encoding {options.encoding}; name it with --encoding."
    if column.bad is None:
        return None
    header = _header_rows(column)
    if header:
        return (
            f"{_cell(column.name, column.bad, 0)}, but numbers follow; if the header has several rows, use --header-rows "
            f"{header + options.header_rows}."
        )
    remedy = _remedy(column.bad, options)
    if column.numbers or remedy.startswith("use --"):
        return f"{_cell(column.name, column.bad, 0)}; {remedy}. --exclude leaves the column out."
    return None


def check_header(path: Path, columns: Sequence[Column]) -> None:
    """Refuse repeated names above rows of text, which are a header of several rows."""
    counts = Counter(column.name for column in columns if not column.is_padding)
    repeated = sorted(name for name, times in counts.items() if times > 1)
    header = next((rows for column in columns if column.name in repeated and (rows := _header_rows(column))), 0)
    if header:
        raise TableError(
            f"{path}: the column name {repeated[0]!r} occurs more than once, and the rows below it are text; if the header has several "
            f"rows, use --header-rows {header + 1}."
        )


def _cell(name: str, cell: CellError, before: int) -> str:
    what = cell.reason or "which is not a number"
    return f"{name!r} is {cell.value!r} at row {before + cell.row + 1}, {what}"


def _remedy(cell: CellError, options: ReadOptions) -> str:
    return "correct the value" if cell.reason else advice(cell.value, options)


def _header_rows(column: Column) -> int:
    """The number of rows of text above the numbers of a column; 0 if it has text elsewhere, too."""
    if column.bad is None or column.bad.row or not column.numbers or not pa.types.is_string(column.inferred):
        return 0
    values = column.values.to_pylist()
    length = len(values) - column.numbers
    if not 0 < length <= _MOST_HEADER_ROWS:
        return 0
    return length if not any(_looks_numeric(value) for value in values[:length]) else 0


def _looks_numeric(value: str | None) -> bool:
    return value is not None and any(c.isdigit() for c in value) and not any(c.isalpha() for c in value)
