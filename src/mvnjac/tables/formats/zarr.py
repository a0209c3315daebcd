"""Zarr version 3: a folder with a chunked array of numbers; its attribute "columns" has the names, its `index.csv` the index.

The zarr library is an optional dependency: pip install 'mvnjac[zarr]'.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mvnjac.errors import TableError, UsageError
from mvnjac.tables.base import Sink, Source, TableFormat, batch_rows
from mvnjac.tables.exact import array_as_float64
from mvnjac.tables.formats.csv import CsvSink
from mvnjac.tables.slices import Slice

#: bytes of a chunk, which is one file; the largest number of its columns
_CHUNK_BYTES, _CHUNK_COLUMNS = 8 * 2**20, 1024
_ARRAY = "scores"


class ZarrSource(Source):
    """The array in one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._array = _library().open_group(str(path), mode="r")[_ARRAY]
        except (KeyError, FileNotFoundError) as error:
            raise TableError(f"{path}: is not a Zarr group with an array {_ARRAY!r} ({error}).") from error
        if self._array.ndim != 2 or self._array.dtype.kind not in "fiu":
            raise TableError(
                f"{path}: holds {self._array.dtype} of shape {self._array.shape}; expected numbers of shape (rows, columns)."
            )
        names = self._array.attrs.get("columns") or [str(i) for i in range(self._array.shape[1])]
        self.schema = pa.schema([(name, pa.float64()) for name in names])

    def slices(self, rows: int) -> list[Slice]:
        bounds = [*range(0, self._array.shape[0], rows), self._array.shape[0]]
        return [Slice(str(self.path), a, b, a, b - a) for a, b in itertools.pairwise(bounds)]

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        positions = [self.schema.get_field_index(name) for name in columns]
        at = at or Slice(str(self.path), 0, self._array.shape[0])
        last, rows = self._array.shape[0] if at.last is None else at.last, batch_rows(len(self.schema))
        for first in range(at.first, last, rows):
            block = array_as_float64(list(columns), np.asarray(self._array[first : min(first + rows, last)])[:, positions])
            yield pa.RecordBatch.from_arrays([pa.array(np.ascontiguousarray(column)) for column in block.T], list(columns))


class ZarrSink(Sink):
    """Buffers rows until they fill a row of chunks; without compression, because scores are almost incompressible."""

    row_major = True

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        names = [field.name for field in schema if pa.types.is_float64(field.type)]
        others = [field for field in schema if not pa.types.is_float64(field.type)]
        width = max(1, min(len(names), _CHUNK_COLUMNS))
        self._step, self._rows = max(1, _CHUNK_BYTES // (8 * width)), 0
        group = _library().create_group(str(path), zarr_format=3)
        chunks, attributes = (self._step, width), {"columns": names}
        self._array = group.create_array(
            _ARRAY, shape=(0, len(names)), chunks=chunks, dtype="f8", compressors=None, attributes=attributes
        )
        self._index = CsvSink(path / "index.csv", pa.schema(others)) if others else None
        self._others = [field.name for field in others]
        self._names, self._buffer = names, np.empty((0, len(names)))

    def write(self, batch: pa.RecordBatch) -> None:
        numbers = np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in self._names])
        keys = batch.column(self._others[0]) if self._others else None
        self.write_rows(keys, numbers, batch.schema)

    def write_rows(self, keys: pa.Array | None, numbers: np.ndarray, schema: pa.Schema) -> None:
        if keys is not None and self._index is not None:
            self._index.write(pa.RecordBatch.from_arrays([keys], names=self._others))
        elif keys is not None:  # a float64 index is a column of the array
            numbers = np.column_stack([keys.to_numpy(zero_copy_only=False), numbers])
        self._buffer = np.concatenate([self._buffer, numbers]) if len(self._buffer) else numbers.copy()
        whole = len(self._buffer) // self._step * self._step
        if whole:
            self._append(self._buffer[:whole])
            self._buffer = self._buffer[whole:]

    def close(self) -> None:
        self._append(self._buffer)
        if self._index is not None:
            self._index.close()

    def _append(self, rows: np.ndarray) -> None:
        if len(rows):
            first, self._rows = self._rows, self._rows + len(rows)
            self._array.resize((self._rows, self._array.shape[1]))
            self._array[first:] = rows


def _library() -> Any:
    try:
        import zarr
    except ImportError:
        raise UsageError("Zarr is not installed; pip install 'mvnjac[zarr]'.") from None
    return zarr


FORMAT = TableFormat((".zarr",), ZarrSource, ZarrSink, is_folder=True)
