"""Arrow IPC streams (.arrows), which are read from their start, and not written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from mvnjac.tables.base import Source, TableFormat, as_float64, batch_rows, table_errors
from mvnjac.tables.slices import Slice


class ArrowStreamSource(Source):
    """One IPC stream. Its record batches have no directory, so that it is one slice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            self.schema = reader.schema

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        rows = batch_rows(len(columns))
        with table_errors(self.path), pa.memory_map(str(self.path)) as source, pa.ipc.open_stream(source) as reader:
            for whole in reader:
                batch = whole.select(list(columns))
                for first in range(0, batch.num_rows, rows):
                    yield as_float64(batch.slice(first, rows), self.index)


FORMAT = TableFormat((".arrows",), ArrowStreamSource)
