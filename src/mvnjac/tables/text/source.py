"""Text tables as sources: Arrow's reader, with the header, the dates and the numbers that it does not recognise by itself."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from mvnjac.errors import TableError, TableWarning, warn
from mvnjac.tables.base import unreadable
from mvnjac.tables.columns import is_numeric
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.slices import Slice
from mvnjac.tables.source import Source
from mvnjac.tables.text import cells
from mvnjac.tables.text.columns import Column, as_labels, columns_of
from mvnjac.tables.text.layout import layout_of
from mvnjac.tables.text.numbers import CellError, NumberText
from mvnjac.tables.text.streams import comment_bytes, encoding_of_lines, is_blank, is_comment, is_divisible, lines_of, open_data

#: approximate bytes of a number in a file, from which the sizes of slices are computed
_NUMBER_BYTES = 12
_VALUE = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (\S+): invalid value '(.*)'", re.DOTALL)
_WIDTH = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")


class TextSource(Source):
    """One text table. The types are inferred from its first block; numbers are read as float64.

    Empty columns without a name, which result from a trailing separator, are left out.

    Args:
        path: the file.
        options: how it is read.
        block: the bytes of a block at least; pyarrow reads about 32 blocks ahead.
    """

    path: Path

    def __init__(self, path: Path, options: ReadOptions, block: int = 2**20) -> None:
        self.path, self._options, self._numbers = path, options, NumberText(options)
        layout = layout_of(path, options)
        self._separator, self._start = layout.separator, layout.start
        # A float64 has up to 25 characters.
        self._block = max(block, 8 * layout.widest, 64 * len(layout.names))
        self._physical = [f"\0{i}" for i in range(len(layout.names))]  # names can be repeated, or empty
        self._columns: list[Column] = []
        first = self._first_batch()
        self._columns = columns_of(layout.names, first, self._numbers, layout.index_named)
        self._unnamed = [column for column in self._columns if column.is_padding]
        self._set_schema()

    def _set_schema(self) -> None:
        shown = [column for column in self._columns if not column.is_padding]
        self.schema = pa.schema([(column.name, column.kind) for column in shown])
        self._by_name = {column.name: column for column in reversed(shown)}

    def use_index(self, index: str | None) -> None:
        self.index = index
        named = [column for column in self._columns if column.name == index]
        if len(named) == 1:
            if pa.types.is_binary(named[0].kind):
                raise cells.other_encoding(self.path, self._options)
            self._columns[named[0].position] = as_labels(named[0], self._options)
            self._set_schema()

    def recognised_index(self, columns: Sequence[str] | None) -> str | None:
        first = self._columns[0]
        if first.dates is None or first.name in (*(columns or ()), *self.excluded):
            if self._options.date_format is not None:
                raise cells.not_dates(self.path, first, self._options)
            return super().recognised_index(columns)
        if len(first.dates.formats) > 1:
            warn(
                f"{self.path}: the dates in {first.name!r}, such as {first.values[0]}, could be {' or '.join(first.dates.formats)}, "
                "and remain text; name their format (date_format, --date-format).",
                TableWarning,
            )
        return first.name

    def settled(self) -> ReadOptions:
        labels = next((column for column in self._columns if column.name == self.index), self._columns[0])
        found = as_labels(labels, self._options).date_format if self.index or labels.dates else None
        return dataclasses.replace(self._options, separator=self._separator, date_format=found)

    def variables(self, columns: Sequence[str] | None, index: str | None) -> list[str]:
        self.check_header()
        return super().variables(columns, index)

    def check_header(self) -> None:
        """Raise a TableError if the rows below the header belong to it."""
        cells.check_header(self.path, self._columns, self._options)

    def not_numeric(self, name: str) -> str | None:
        return cells.explained(self._by_name[name], self._options) if name in self._by_name else None

    def slices(self, rows: int) -> list[Slice]:
        """Ranges of bytes that begin and end at line ends; a file that is not divisible is one slice."""
        if not is_divisible(self.path, self._options):
            return super().slices(rows)
        size, step = os.path.getsize(self.path), max(rows * len(self.schema) * _NUMBER_BYTES, self._block)
        if size < self._start + step:
            return super().slices(rows)
        bounds = [self._start]
        with self.path.open("rb") as file:
            while bounds[-1] + 1.5 * step < size:  # avoids a very short last slice
                file.seek(bounds[-1] + step)
                file.readline()
                bounds.append(file.tell())
        bounds.append(size)
        return [Slice(str(self.path), a, b, None) for a, b in itertools.pairwise(bounds)]

    def rows_before(self, at: Slice) -> int:
        """Counts the lines before the slice, which is needed at most once, for an error message."""
        if at.last is None or at.first <= self._start:
            return 0
        comment = comment_bytes(self._options)
        with pa.OSFile(str(self.path)) as file:
            stream = file.get_stream(self._start, at.first - self._start)
            return sum(not is_blank(line) and not is_comment(line, comment) for line in lines_of(stream))

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        at = None if at is None or at.last is None else at
        wanted = [self._by_name[name] for name in columns]
        # Types are given, not inferred: all values of a column may be missing in the first block.
        kinds = {self._physical[each.position]: each.read_as(self.index) for each in [*wanted, *self._unnamed]}
        formats = [each.date_format for each in wanted if each.date_format is not None]
        rows = 0
        for batch in self._batches(kinds, formats, at):
            self._require_empty(batch)
            arrays = [self._converted(each, batch.column(self._physical[each.position]), rows, at) for each in wanted]
            rows += batch.num_rows
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def _batches(self, kinds: dict[str, pa.DataType], formats: list[str], at: Slice | None) -> Iterator[pa.RecordBatch]:
        """The batches of Arrow's reader, with its errors translated."""
        options = csv.ConvertOptions(
            column_types=kinds,
            include_columns=list(kinds),
            null_values=self._numbers.tokens,
            decimal_point=self._options.decimal,
            timestamp_parsers=[*dict.fromkeys(formats), csv.ISO8601] if formats else None,
        )
        try:
            with self._reader(options, at) as reader:
                yield from reader
        except MemoryError:  # pyarrow's MemoryError is an ArrowException too
            raise
        except (pa.ArrowException, OSError, EOFError, UnicodeError, RuntimeError) as error:
            if "Empty CSV file" not in str(error):
                raise self._table_error(error, at) from error

    def _reader(self, options: csv.ConvertOptions, at: Slice | None = None) -> Any:
        # One thread is as fast as several, and only with one thread do error messages contain the row number.
        reading = csv.ReadOptions(
            use_threads=False,
            block_size=self._block,
            column_names=self._physical,
            encoding=encoding_of_lines(self._options),
        )
        first, last = (self._start, None) if at is None else (at.first, at.last)
        stream = open_data(self.path, self._options, first, last)
        return csv.open_csv(stream, reading, csv.ParseOptions(delimiter=self._separator), options)

    def _first_batch(self) -> pa.RecordBatch:
        """The first block, with inferred types; empty columns of type null if the table has no rows."""
        options = csv.ConvertOptions(null_values=self._numbers.tokens, decimal_point=self._options.decimal)
        try:
            with self._reader(options) as reader:
                return reader.read_next_batch()
        except StopIteration:
            pass
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, EOFError, UnicodeError, RuntimeError) as error:
            if "Empty CSV file" not in str(error):
                raise self._table_error(error, None) from error
        return pa.RecordBatch.from_arrays([pa.nulls(0)] * len(self._physical), names=self._physical)

    def _converted(self, column: Column, array: pa.Array, rows: int, at: Slice | None) -> pa.Array:
        """A column as it was read by Arrow, with the type of the schema."""
        if column.name == self.index:
            return array.cast(column.kind) if column.is_day else array
        if column.text:
            try:
                array = self._numbers.convert(array)
            except CellError as error:
                before = 0 if at is None else self.rows_before(at)
                raise cells.not_a_number(self.path, column.name, error, before + rows, self._options) from None
        sentinels = self._options.missing_numbers()
        if sentinels and pa.types.is_float64(array.type):
            array = pc.if_else(pc.is_in(array, pa.array(sentinels, pa.float64())), pa.scalar(None, pa.float64()), array)
        return array.cast(column.kind) if column.is_day else array

    def _require_empty(self, batch: pa.RecordBatch) -> None:
        for column in self._unnamed:
            values = batch.column(self._physical[column.position]).unique().to_pylist()
            found = [value for value in values if value and value not in self._numbers.tokens]
            if found:
                raise TableError(
                    f"{self.path}: column {column.position + 1} has no name in the header, but holds {found[0]!r}."
                )

    def _table_error(self, error: Exception, at: Slice | None) -> TableError:
        value, width = _VALUE.search(str(error)), _WIDTH.search(str(error))
        before: Callable[[], int] = lambda: 0 if at is None else self.rows_before(at)  # noqa: E731
        if value and value[2]:
            column = self._columns[int(value[1])]
            if not is_numeric(column.kind):
                return cells.other_type(self.path, column.name, value[4], int(value[2]) + before(), column.kind)
            cell = CellError(int(value[2]) - 1, value[4])
            return cells.not_a_number(self.path, column.name, cell, before(), self._options)
        if width:
            return cells.other_width(self.path, int(width[1]) + before(), int(width[2]), int(width[3]))
        if isinstance(error, UnicodeError) or "invalid UTF8" in str(error):
            return cells.other_encoding(self.path, self._options)
        return unreadable(self.path, error)
