"""CSV, plain or compressed with gzip; missing values are empty, N/A, NA, NaN or null."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import csv

from mvnjac.errors import TableError
from mvnjac.tables.base import Sink, Source, is_numeric, unreadable

SUFFIXES = (".csv", ".csv.gz")

_MISSING = ["", "N/A", "NA", "n/a", "NaN", "nan", "NULL", "null", "-nan", "#N/A"]


class CsvSource(Source):
    """One CSV file with a header. Types are those of its first block; numbers are read as float64 throughout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reader(csv.ConvertOptions(null_values=_MISSING, strings_can_be_null=True)) as reader:
            self.schema = reader.schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        # The first block may miss a column's values altogether: its type is said, not inferred.
        kinds = {name: pa.float64() if is_numeric(kind := self.schema.field(name).type) else kind for name in columns}
        options = csv.ConvertOptions(
            column_types=kinds, include_columns=list(columns), null_values=_MISSING, strings_can_be_null=True
        )
        try:
            with self._reader(options) as reader:
                yield from reader
        except (pa.ArrowException, OSError, EOFError) as error:
            raise self._explained(error) from error

    def _reader(self, options: csv.ConvertOptions) -> Any:
        # A damaged row is found by pyarrow in whichever block it is; compression is told by the suffix.
        return csv.open_csv(pa.input_stream(str(self.path), compression="detect"), convert_options=options)

    def _explained(self, error: Exception) -> TableError:
        text = str(error)
        if "conversion error" in text:
            return TableError(f"{self.path}: {text.strip()}; choose the numeric columns by --columns.")
        return unreadable(self.path, error)


class CsvSink(Sink):
    """Numbers with as many digits as it takes to read them back exactly."""

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


def open_source(path: Path) -> Source:
    return CsvSource(path)


def open_sink(path: Path | IO[bytes], schema: pa.Schema) -> Sink:
    return CsvSink(path, schema)
