"""Arrow IPC files (Feather is the same format), memory-mapped when read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from mvnjac.tables.base import Sink, Source, TableFormat, as_float64, batch_rows, table_errors
from mvnjac.tables.slices import Slice, slices_of_blocks


class ArrowSource(Source):
    """One IPC file."""

    states_types = True

    def __init__(self, path: Path) -> None:
        self.path = path
        with pa.memory_map(str(path)) as source:
            self.schema = pa.ipc.open_file(source).schema

    def slices(self, rows: int) -> list[Slice]:
        with pa.memory_map(str(self.path)) as source:
            reader = pa.ipc.open_file(source)
            blocks = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
        return list(slices_of_blocks(str(self.path), blocks, rows, 0))

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        rows, at = batch_rows(len(columns)), at or Slice(str(self.path))
        with table_errors(self.path), pa.memory_map(str(self.path)) as source:
            reader = pa.ipc.open_file(source)
            for i in range(at.first, reader.num_record_batches if at.last is None else at.last):
                batch = reader.get_batch(i).select(list(columns)).slice(at.skip, at.take)
                for first in range(0, batch.num_rows, rows):
                    yield as_float64(batch.slice(first, rows), self.index)


class ArrowSink(Sink):
    """Writes each batch as one record batch."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()
        self._file.close()  # Windows renames no open file


FORMAT = TableFormat((".arrow", ".feather"), ArrowSource, ArrowSink)
