"""CSV files, also compressed with gzip: the text tables that are read and written."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pyarrow as pa
from pyarrow import csv

from mvnjac.tables.base import Sink, Source, TableFormat
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.text.folder import TextFolder
from mvnjac.tables.text.source import TextSource
from mvnjac.tables.text.streams import ARCHIVE, COMPRESSIONS, PLAIN

#: bytes of a block; pyarrow reads about 32 blocks ahead
_BLOCK = 2**20
#: the suffixes of all text tables
SUFFIXES = (*(plain + packed for plain in PLAIN for packed in ("", *COMPRESSIONS, ARCHIVE)), ARCHIVE)
#: the options of text tables
OPTIONS = (
    *("separator", "decimal", "thousands", "missing_values", "skip_rows", "header_rows", "comment", "encoding", "percent"),
    "date_format",
)


def open_text(path: Path, options: ReadOptions) -> Source:
    """A text table, or a folder of text tables."""
    if path.is_dir():
        return TextFolder(path, SUFFIXES, options, _open_file)
    return _open_file(path, options)


def _open_file(path: Path, options: ReadOptions) -> TextSource:
    return TextSource(path, options, _BLOCK)


class CsvSink(Sink):
    """Writes numbers with enough digits to read them back exactly."""

    def __init__(self, path: Path | IO[bytes], schema: pa.Schema) -> None:
        # The writer itself would close a file only when it is collected.
        compression = "gzip" if isinstance(path, Path) and ".csv.gz" in path.name else None
        self._stream = pa.output_stream(str(path), compression=compression) if isinstance(path, Path) else path
        self._writer = csv.CSVWriter(self._stream, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()
        if isinstance(self._stream, pa.NativeFile):
            self._stream.close()


FORMAT = TableFormat((".csv", ".csv.gz"), open_text, CsvSink, options=OPTIONS)
