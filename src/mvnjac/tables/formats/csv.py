"""CSV, also compressed with gzip; an empty field, N/A, NA, NaN or null is a missing value."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import csv

from mvnjac.errors import TableError
from mvnjac.tables.base import Sink, Source, TableFormat, unreadable
from mvnjac.tables.columns import is_numeric
from mvnjac.tables.slices import Slice

#: bytes of a block; pyarrow reads about 32 blocks ahead
_BLOCK = 2**20
#: approximate bytes of a number in a file, from which the sizes of slices are computed
_NUMBER_BYTES = 12
_VALUE = re.compile(r"In CSV column #(\d+): Row #(\d+): CSV conversion error to (\S+): invalid value '(.*)'", re.DOTALL)
_WIDTH = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")

_DECIMAL = re.compile(r"[-+]?\d*\.\d+([eE][-+]?\d+)?")

_MISSING = ["", "N/A", "NA", "n/a", "NaN", "nan", "NULL", "null", "-nan", "#N/A"]


class CsvSource(Source):
    """One CSV file with a header. The types are inferred from its first block; numbers are read as float64.

    Empty columns without a name, which result from a trailing comma, are left out.
    """

    path: Path

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header_lines, self._header_bytes, self._block = _layout(path)
        with self._reader({}, csv.ConvertOptions(null_values=_MISSING)) as reader:
            found = reader.schema
        if found.names and all(_DECIMAL.fullmatch(name) for name in found.names):
            raise TableError(
                f"{path}: the first row {', '.join(found.names[:4])}, … is numbers; expected a header of column names."
            )
        # Each column needs a unique name, including columns without a name in the header.
        nameless = {i for i, field in enumerate(found) if not field.name and pa.types.is_null(field.type)}
        self._physical = [f"\0{i}" if i in nameless else field.name for i, field in enumerate(found)]
        self._nameless = [self._physical[i] for i in sorted(nameless)]
        self.schema = pa.schema([field for i, field in enumerate(found) if i not in nameless])

    def slices(self, rows: int) -> list[Slice]:
        """Ranges of bytes that begin and end at line ends; a compressed file is one slice."""
        size = os.path.getsize(self.path)
        step = max(rows * len(self.schema) * _NUMBER_BYTES, self._block)
        if self.path.name.lower().endswith(".gz") or size < self._header_bytes + step:
            return super().slices(rows)
        bounds = [self._header_bytes]
        with self.path.open("rb") as file:
            while bounds[-1] + 1.5 * step < size:  # avoids a very short last slice
                file.seek(bounds[-1] + step)
                file.readline()
                bounds.append(file.tell())
        bounds.append(size)
        return [Slice(str(self.path), a, b, None) for a, b in itertools.pairwise(bounds)]

    def rows_before(self, at: Slice) -> int:
        """Counts the lines before the slice, which is needed at most once, for an error message."""
        if at.last is None:
            return 0
        with self.path.open("rb") as file:
            file.seek(self._header_bytes)
            left, lines = at.first - self._header_bytes, 0
            while left > 0 and (text := file.read(min(left, _BLOCK))):
                lines, left = lines + text.count(b"\n"), left - len(text)
        return lines

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        # Types are given, not inferred: all values of a column may be missing in the first block.
        kinds = {name: self._kind(name) for name in columns} | dict.fromkeys(self._nameless, pa.string())
        options = csv.ConvertOptions(column_types=kinds, include_columns=list(kinds), null_values=_MISSING)
        at = None if at is None or at.last is None else at
        reading = {"column_names": self._physical, "skip_rows": 0 if at else self._header_lines}
        try:
            with self._reader(reading, options, at) as reader:
                for batch in reader:
                    self._require_empty(batch)
                    yield batch.select(list(columns))
        except MemoryError:  # pyarrow's MemoryError is an ArrowException too
            raise
        except (pa.ArrowException, OSError, EOFError) as error:
            raise self._table_error(error, at) from error

    def _kind(self, name: str) -> pa.DataType:
        kind = self.schema.field(name).type
        if name == self.index:
            return pa.string() if pa.types.is_null(kind) else kind
        return pa.float64() if is_numeric(kind) else kind

    def _reader(self, reading: dict[str, Any], options: csv.ConvertOptions, at: Slice | None = None) -> Any:
        # One thread is as fast as several, and only with one thread do error messages contain the row number.
        how = csv.ReadOptions(use_threads=False, block_size=self._block, **reading)
        if at is None or at.last is None:
            stream = _stream(self.path)
        else:
            stream = pa.OSFile(str(self.path)).get_stream(at.first, at.last - at.first)
        return csv.open_csv(stream, read_options=how, convert_options=options)

    def _require_empty(self, batch: pa.RecordBatch) -> None:
        for name in self._nameless:
            values = [value for value in batch.column(name).unique().to_pylist() if value and value not in _MISSING]
            if values:
                raise TableError(f"{self.path}: column {int(name[1:]) + 1} has no name in the header, but holds {values[0]!r}.")

    def _table_error(self, error: Exception, at: Slice | None) -> TableError:
        before = -self._header_lines if at is None else self.rows_before(at)
        value, width = _VALUE.search(str(error)), _WIDTH.search(str(error))
        if value:
            column, line, kind, text = value.groups()
            return TableError(
                f"{self.path}: {self._physical[int(column)]!r} is {text!r} at row {int(line) + before}, but the first rows "
                f"have the type {kind}; correct the value, or select the other columns with --columns."
            )
        if width:
            row, expected, got = int(width[1]) + before, width[2], width[3]
            return TableError(f"{self.path}: row {row} has {got} fields, but the header has {expected}.")
        return unreadable(self.path, error)


def _stream(path: Path) -> pa.NativeFile:
    return pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None)


def _layout(path: Path) -> tuple[int, int, int]:
    """The number of lines and of bytes before the data, and a block size that holds at least one row of any width."""
    start = b""
    with _stream(path) as stream:
        while start.lstrip(b"\r\n").count(b"\n") < 2 and (more := stream.read(2**20)):
            start += more
    body = start.lstrip(b"\r\n")
    if not body:
        raise TableError(f"{path}: is empty.")
    lines = body.split(b"\n", 2)
    try:
        lines[0].decode()
    except UnicodeDecodeError:
        raise TableError(f"{path}: the header is not in UTF-8; save the file in this encoding.") from None
    if b"," not in lines[0] and (b";" in lines[0] or b"\t" in lines[0]):
        shown = lines[0][:60].decode(errors="replace").strip()
        raise TableError(f"{path}: the header {shown!r} is not separated by commas.")
    widest = max(8 * max(map(len, lines[:2])), 64 * (lines[0].count(b",") + 1))  # a float64 has up to 25 characters
    blank = len(start) - len(body)
    return start[:blank].count(b"\n") + 1, blank + len(lines[0]) + 1, max(_BLOCK, widest)


class CsvSink(Sink):
    """Writes numbers with enough digits to read them back exactly."""

    def __init__(self, path: Path | IO[bytes], schema: pa.Schema) -> None:
        compressed = isinstance(path, Path) and ".csv.gz" in path.name
        self._stream = pa.output_stream(str(path), compression="gzip") if compressed else path
        self._writer = csv.CSVWriter(self._stream, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()
        if isinstance(self._stream, pa.NativeFile):
            self._stream.close()


FORMAT = TableFormat((".csv", ".csv.gz"), CsvSource, CsvSink)
