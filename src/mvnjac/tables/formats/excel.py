"""Excel workbooks (.xlsx, .xlsm): one sheet, whose rows are read one after another. They are not written.

The openpyxl library is an optional dependency: pip install 'mvnjac[excel]'.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mvnjac.errors import TableError, UsageError
from mvnjac.tables.base import Source, TableFormat, batch_rows
from mvnjac.tables.columns import is_numeric
from mvnjac.tables.reading import MISSING, ReadOptions
from mvnjac.tables.slices import Slice
from mvnjac.tables.text.layout import joined_names

#: the rows from which the types of the columns are inferred
_SAMPLE = 1000
OPTIONS = ("missing_values", "skip_rows", "header_rows", "sheet")


class ExcelSource(Source):
    """One sheet. A column is numeric if its first cells are numbers or missing; numbers that are stored as text are an error."""

    path: Path

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.path, self._options = path, options
        self._tokens, self._numbers = {*MISSING, *options.missing_values}, set(options.missing_numbers())
        with self._rows() as rows:
            header = list(itertools.islice(rows, options.header_rows))
            sample = list(itertools.islice(rows, _SAMPLE))
        if not header and not sample:
            raise TableError(f"{path}: the sheet is empty.")
        width = max(len(row) for row in [*header, *sample])
        names = joined_names([[_text(cell) for cell in row] for row in header])[0] if header else []
        names += [""] * (width - len(names)) if header else [str(i) for i in range(width)]
        columns = [[self._value(row[j]) if j < len(row) else None for row in sample] for j in range(width)]
        kinds = [_kind(values) for values in columns]
        self._text = {name: _first_text(values) for name, values in zip(names, columns, strict=True)}
        self._positions = [j for j in range(width) if names[j] or not pa.types.is_null(kinds[j])]
        if names and not names[0] and pa.types.is_temporal(kinds[0]):
            names[0] = "index" if "index" not in names else "index_"
        self.schema = pa.schema([(names[j], kinds[j]) for j in self._positions])

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        places = [self.schema.names.index(name) for name in columns]
        kinds = [self._kind_of(name) for name in columns]
        step, row = batch_rows(len(columns), 4096), 0
        with self._rows() as rows:
            for _ in itertools.islice(rows, self._options.header_rows):
                pass
            while block := list(itertools.islice(rows, step)):
                arrays = []
                for name, place, kind in zip(columns, places, kinds, strict=True):
                    position = self._positions[place]
                    values = [self._value(cells[position]) if position < len(cells) else None for cells in block]
                    arrays.append(self._array(name, values, kind, row))
                row += len(block)
                yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def not_numeric(self, name: str) -> str | None:
        found = self._text.get(name)
        if found is None:
            return None
        return (
            f"{name!r} is {found[1]!r} at row {found[0] + 1}, which is not a number; correct the cell or format it as a number in "
            "Excel, name what means a missing value with --missing-values, or leave the column out with --exclude."
        )

    def _kind_of(self, name: str) -> pa.DataType:
        kind = self.schema.field(name).type
        return pa.float64() if is_numeric(kind) and name != self.index else kind

    def _value(self, cell: Any) -> Any:
        """The content of a cell; None for a missing value."""
        if isinstance(cell, str):
            text = cell.strip()
            return None if text in self._tokens else text
        if isinstance(cell, int | float) and not isinstance(cell, bool) and float(cell) in self._numbers:
            return None
        return cell

    def _array(self, name: str, values: list[Any], kind: pa.DataType, before: int) -> pa.Array:
        for i, value in enumerate(values):
            if value is not None and not _fits(value, kind):
                raise TableError(
                    f"{self.path}: {name!r} is {value!r} at row {before + i + 1}, but the first rows have the type {kind}; correct the "
                    "cell, format it as a number in Excel, or name what means a missing value with --missing-values."
                )
        if pa.types.is_string(kind):
            return pa.array([None if value is None else str(value) for value in values], kind)
        if pa.types.is_date32(kind):
            return pa.array([value.date() if isinstance(value, dt.datetime) else value for value in values], kind)
        return pa.array(values, kind)

    @contextlib.contextmanager
    def _rows(self) -> Iterator[Iterator[tuple[Any, ...]]]:
        """The values of the rows that are not empty, after the skipped rows."""
        book = _open(self.path)
        try:
            sheet = self._sheet(book)
            rows = itertools.islice(sheet.iter_rows(values_only=True), self._options.skip_rows, None)
            yield (row for row in rows if any(cell is not None for cell in row))
        finally:
            book.close()

    def _sheet(self, book: Any) -> Any:
        name = self._options.sheet
        if name is None:
            return book.worksheets[0]
        if name not in book.sheetnames:
            raise UsageError(f"--sheet: {self.path} has no sheet {name!r}; its sheets are {', '.join(book.sheetnames)}.")
        return book[name]


def _open(path: Path) -> Any:
    try:
        import openpyxl
    except ImportError:
        raise UsageError("openpyxl, which reads Excel files, is not installed; pip install 'mvnjac[excel]'.") from None
    try:
        return openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, openpyxl.utils.exceptions.InvalidFileException) as error:
        raise TableError(f"{path}: cannot be read ({error}). Is it an Excel file, complete and without a password?") from error


def _text(cell: Any) -> str:
    if isinstance(cell, dt.datetime) and cell.time() == dt.time():
        cell = cell.date()
    return "" if cell is None else str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _first_text(values: Sequence[Any]) -> tuple[int, str] | None:
    """The row and the content of the first cell of text in a column of which other cells are numbers."""
    if not any(_fits(value, pa.float64()) for value in values if value is not None):
        return None
    return next(((i, value) for i, value in enumerate(values) if isinstance(value, str)), None)


def _kind(values: Sequence[Any]) -> pa.DataType:
    """The type of a column with these first values."""
    known = [value for value in values if value is not None]
    if not known:
        return pa.null()
    if all(isinstance(value, dt.datetime | dt.date) for value in known):
        days = all(not isinstance(value, dt.datetime) or value.time() == dt.time() for value in known)
        return pa.date32() if days else pa.timestamp("us")
    if all(isinstance(value, bool) for value in known):
        return pa.bool_()
    if all(_fits(value, pa.float64()) for value in known):
        return pa.int64() if all(isinstance(value, int) for value in known) else pa.float64()
    return pa.string()


def _fits(value: Any, kind: pa.DataType) -> bool:
    if pa.types.is_string(kind):
        return True
    if pa.types.is_date32(kind):
        return isinstance(value, dt.date) and (not isinstance(value, dt.datetime) or value.time() == dt.time())
    if pa.types.is_timestamp(kind):
        return isinstance(value, dt.datetime)
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    whole = pa.types.is_int64(kind)
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


FORMAT = TableFormat((".xlsx", ".xlsm"), ExcelSource, options=OPTIONS)
