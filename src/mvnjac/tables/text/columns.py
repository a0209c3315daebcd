"""The columns of a text table: their types, and what Arrow's reader does not recognise: padded numbers, other dates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from mvnjac.tables.columns import is_numeric
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.text.dates import Dates, all_parse, compact_dates, dates_of, has_time
from mvnjac.tables.text.numbers import CellError, NumberText

#: the name of an index that has none in the header
_INDEX = "index"
#: rows of text above numbers that may belong to the header
_MOST_HEADER_ROWS = 5


@dataclass(frozen=True)
class Column:
    """A column of a text table.

    Attributes:
        position: its place in the file, from 0.
        name: its name; "" if it has none.
        kind: the type that it has in the table.
        inferred: the type that Arrow infers.
        values: the first values.
        text: whether it is read as text and then converted to numbers.
        bad: the first cell of a column of text that is not a number.
        has_numbers: whether some cells of such a column are numbers.
        header: the number of rows of text above the numbers of such a column; 0 if it has text elsewhere, too.
        dates: the dates that it holds, if it may label the rows.
        date_format: the format of the dates; None: Arrow recognises them, or they remain text.
        is_padding: whether it is empty and has no name.
    """

    position: int
    name: str
    kind: pa.DataType
    inferred: pa.DataType
    values: pa.Array = field(repr=False)
    text: bool = False
    bad: CellError | None = None
    has_numbers: bool = False
    header: int = 0
    dates: Dates | None = None
    date_format: str | None = None
    is_padding: bool = False

    @property
    def is_day(self) -> bool:
        """Whether it is read as points in time, but holds days."""
        return self.date_format is not None and pa.types.is_date32(self.kind)

    def read_as(self, index: str | None) -> pa.DataType:
        """The type that Arrow's reader converts the column to."""
        if self.is_padding:
            return pa.string()
        if self.date_format is not None:
            return pa.timestamp("s")
        if self.name == index:
            return pa.string() if pa.types.is_null(self.inferred) else self.inferred
        if self.text:
            return pa.string()
        return pa.float64() if is_numeric(self.kind) else self.kind


def columns_of(names: Sequence[str], first: pa.RecordBatch, numbers: NumberText, index_named: bool) -> list[Column]:
    """The columns, from the first rows of the table with the types that Arrow infers."""
    found = list[Column]()
    for position, (name, array) in enumerate(zip(names, first.columns, strict=True)):
        column = Column(position, name, array.type, array.type, array)
        column = _with_numbers(column, array, numbers)
        if position == 0:
            column = _with_recognised_dates(column, array, numbers.options, names, index_named)
        padding = column.name == "" and pa.types.is_null(array.type)
        found.append(dataclasses.replace(column, is_padding=padding))
    return found


def with_dates(column: Column, options: ReadOptions) -> Column:
    """A column that labels the rows, with its dates as dates if their format is given or can be recognised."""
    if pa.types.is_temporal(column.kind):
        return column
    dates = column.dates or _dates(column.values)
    date_format = options.date_format or (None if dates is None else dates.format)
    if date_format is None:
        return dataclasses.replace(column, dates=dates)
    kind = pa.timestamp("s") if has_time(date_format) else pa.date32()
    return dataclasses.replace(column, kind=kind, text=False, dates=dates or Dates((date_format,)), date_format=date_format)


def as_labels(column: Column, options: ReadOptions) -> Column:
    """A column that labels the rows: it keeps its type, and dates are recognised."""
    if column.text or pa.types.is_null(column.kind):
        kind = pa.string() if pa.types.is_null(column.inferred) else column.inferred
        column = dataclasses.replace(column, kind=kind, text=False)
    return with_dates(column, options)


def _with_numbers(column: Column, array: pa.Array, numbers: NumberText) -> Column:
    """A column of text that consists of numbers, or with the first cell that is none."""
    options = numbers.options
    is_text = pa.types.is_string(array.type)
    if not is_text:
        grouped = options.thousands is not None or options.percent
        return dataclasses.replace(column, text=grouped and is_numeric(array.type))
    try:
        numbers.convert(array)
    except CellError as error:
        matches = numbers.matches(array)
        first = pc.index(matches, True).as_py()
        header = first if 0 < first <= _MOST_HEADER_ROWS and pc.index(matches.slice(first), False).as_py() < 0 else 0
        return dataclasses.replace(column, bad=error, has_numbers=first >= 0, header=header)
    return dataclasses.replace(column, text=True, kind=pa.float64())


def _with_recognised_dates(
    column: Column, array: pa.Array, options: ReadOptions, names: Sequence[str], index_named: bool
) -> Column:
    """The first column, which labels the rows if it holds dates, or if a row of the header names nothing else."""
    given = options.date_format is not None and _have_format(array, options.date_format)
    if given or index_named:
        column = with_dates(column, options if given else dataclasses.replace(options, date_format=None))
        column = dataclasses.replace(column, dates=column.dates or Dates())
    elif pa.types.is_temporal(array.type):
        column = dataclasses.replace(column, dates=Dates())
    elif options.date_format is None:
        dates = _dates(array)
        column = with_dates(dataclasses.replace(column, dates=dates), options) if dates is not None else column
    if column.dates is not None and column.name == "":
        column = dataclasses.replace(column, name=_INDEX if _INDEX not in names else f"{_INDEX}_")
    return column


def _have_format(array: pa.Array, date_format: str) -> bool:
    """Whether a column of text or whole numbers consists of dates in a format."""
    if not (pa.types.is_string(array.type) or pa.types.is_integer(array.type)):
        return False
    values = [str(value).strip() for value in array.to_pylist() if value not in (None, "")]
    return bool(values) and all_parse(values, date_format)


def _dates(array: pa.Array) -> Dates | None:
    if pa.types.is_integer(array.type):
        return compact_dates(array.drop_null().to_pylist())
    if pa.types.is_string(array.type):
        return dates_of([value.strip() for value in array.to_pylist() if value])
    return None
