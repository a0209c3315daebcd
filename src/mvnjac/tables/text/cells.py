"""Messages about cells of a text table that cannot be read: the column, the row, the value, and the option that helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from mvnjac.errors import TableError, counted
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.text.columns import Column
from mvnjac.tables.text.numbers import CellError, NumberText, advice

#: cells of a column of text that are looked at for an option that makes them numbers
_MOST_CELLS = 1000


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


def not_dates(path: Path, column: Column, options: ReadOptions) -> TableError:
    """The error of a format of dates that the first column does not have."""
    shown = f"{column.values[0].as_py()!r}" if len(column.values) else "empty"
    return TableError(
        f"{path}: --date-format is {options.date_format!r}, but the first column {column.name!r} is {shown} at row 1; correct the "
        "format, or select the column of dates with --index."
    )


def explained(column: Column, options: ReadOptions) -> str | None:
    """Why a column of text is not numeric, if single cells are the reason; None if it simply is text."""
    if pa.types.is_binary(column.kind):
        return f"column {column.name!r} holds text that is not in the encoding {options.encoding}; name it with --encoding."
    if column.bad is None:
        return None
    cell = _with_an_option(column, options) or (column.bad if column.has_numbers else None)
    if cell is None:
        return None
    return f"{_cell(column.name, cell, 0)}; {_remedy(cell, options)}. --exclude leaves the column out."


def _with_an_option(column: Column, options: ReadOptions) -> CellError | None:
    """The first cell of a column of text that an option makes a number."""
    if column.bad is not None and column.bad.reason:
        return column.bad
    values = column.values.slice(0, _MOST_CELLS)
    for row, (value, is_number) in enumerate(
        zip(values.to_pylist(), NumberText(options).matches(values).to_pylist(), strict=True)
    ):
        if is_number is False and advice(value, options).startswith("use --"):
            return CellError(row, value)
    return None


def check_header(path: Path, columns: Sequence[Column], options: ReadOptions) -> None:
    """Refuse rows of text below the header, above the numbers of all columns but the first: they belong to the header."""
    below = [column for column in columns[1:] if not column.is_padding] or list(columns)
    if below[0].header and all(column.header for column in below):
        rows = max(column.header for column in below)
        raise TableError(
            f"{path}: the {counted(rows, 'row')} below the header {'is' if rows == 1 else 'are'} text ({below[0].name!r} is "
            f"{below[0].values[0].as_py()!r}); if the header has several rows, use --header-rows {options.header_rows + rows}."
        )


def _cell(name: str, cell: CellError, before: int) -> str:
    what = cell.reason or "which is not a number"
    return f"{name!r} is {cell.value!r} at row {before + cell.row + 1}, {what}"


def _remedy(cell: CellError, options: ReadOptions) -> str:
    return "correct the value" if cell.reason else advice(cell.value, options)
