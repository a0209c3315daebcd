"""A table sorted by its index; only the index is held in memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mvnjac.errors import TableError
from mvnjac.tables.base import Source, batch_rows
from mvnjac.tables.chronology import sorts_in_time
from mvnjac.tables.formats.arrow import ArrowSink
from mvnjac.tables.slices import Slice


class Ordered(Source):
    """The table with its rows in ascending order of the index.

    A table in ascending order is streamed. Otherwise the columns are first written, uncompressed, to a temporary file, which is
    memory-mapped and read in order.

    Raises:
        TableError: an index value is missing or occurs in more than one row, or is text whose order is not the order in time.
    """

    def __init__(self, source: Source, index: str) -> None:
        self.path, self.schema, self.index = source.path, source.schema, index
        self._source, self._index = source, index
        values = pa.chunked_array([batch.column(0) for batch in source.batches([index])] or [[]])
        if pa.types.is_dictionary(values.type):  # sort the values, not their codes
            values = values.cast(values.type.value_type)
        self._require_unique(values)
        order = pc.sort_indices(values)
        ascending = len(order) == 0 or bool(np.array_equal(order.to_numpy(), np.arange(len(order))))
        if not ascending:
            self._require_sortable(values)
        self._order = None if ascending else order

    def inputs(self) -> list[str]:
        return self._source.inputs()

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        if self._order is None:
            yield from self._source.batches(columns)
            return
        with self._temporary_copy(columns) as table:
            rows = batch_rows(len(columns), 16_384)
            for first in range(0, len(self._order), rows):
                yield from table.take(self._order.slice(first, rows)).combine_chunks().to_batches()

    @contextlib.contextmanager
    def _temporary_copy(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        with tempfile.TemporaryDirectory(prefix="mvnjac-") as folder:
            path = Path(folder) / "table.arrow"
            sink = None
            for batch in self._source.batches(columns):
                sink = sink or ArrowSink(path, batch.schema)
                sink.write(batch)
            if sink is None:
                return
            sink.close()
            with pa.memory_map(str(path)) as mapped:
                yield pa.ipc.open_file(mapped).read_all()

    def _require_sortable(self, values: pa.ChunkedArray) -> None:
        """Refuse text in lexicographic order, where 30/12/2020 would come after 01/01/2021."""
        if not _is_text(values.type):
            return
        texts = (text for chunk in values.iterchunks() for text in chunk.to_pylist())
        if not sorts_in_time(texts):
            raise TableError(
                f"{self.path}: the index {self._index!r} is text such as {values[0].as_py()!r} and not in ascending order; sorted "
                "as text, it may not be in the order of time. Write it as YYYY-MM-DD, give its --date-format, or sort the rows in "
                "the file."
            )

    def _require_unique(self, values: pa.ChunkedArray) -> None:
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
        if _is_text(values.type):
            values = pc.if_else(pc.equal(values, ""), None, values)
        if values.null_count:
            row = pc.index(pc.is_null(values), True).as_py() + 1
            raise TableError(f"{self.path}: the index {self._index!r} is missing in row {row}.")
        counts = pc.value_counts(values)
        repeated = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(repeated):
            raise TableError(
                f"{self.path}: the index {self._index!r} has {repeated[0]['values']} in {repeated[0]['counts']} rows; "
                "returns between rows with the same index are ambiguous."
            )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
