"""Arrow IPC files (Feather is the same format): memory-mapped when read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from mvnjac.tables.base import Sink, Source, as_float64, batch_rows, unreadable

SUFFIXES = (".arrow", ".feather")


class ArrowSource(Source):
    """One IPC file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pa.memory_map(str(path)) as source:
            self.schema = pa.ipc.open_file(source).schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rows = batch_rows(len(columns))
        try:
            with pa.memory_map(str(self.path)) as source:
                reader = pa.ipc.open_file(source)
                for i in range(reader.num_record_batches):
                    batch = reader.get_batch(i).select(list(columns))
                    for first in range(0, batch.num_rows, rows):
                        yield as_float64(batch.slice(first, rows), self.index)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.path, error) from error


class ArrowSink(Sink):
    """One record batch a part."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pa.ipc.new_file(str(path), schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()


def open_source(path: Path) -> Source:
    return ArrowSource(path)


def open_sink(path: Path, schema: pa.Schema) -> Sink:
    return ArrowSink(path, schema)
