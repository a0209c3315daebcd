"""NumPy's .npy: a 2-D array of numbers, with column names in `<stem>.columns.txt` and the index in `<stem>.index.csv`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mvnjac.errors import TableError, counted
from mvnjac.tables.base import Sink, Source, TableFormat, batch_rows
from mvnjac.tables.exact import array_as_float64
from mvnjac.tables.formats.csv import CsvSink
from mvnjac.tables.slices import Slice


class NpySource(Source):
    """One .npy file, memory-mapped. `<stem>.columns.txt` has one column name a line; without it the names are "0", "1", …"""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        if self._array.ndim != 2 or self._array.dtype.kind not in "fiu":
            raise TableError(
                f"{path}: holds {self._array.dtype} of shape {self._array.shape}; expected numbers of shape (rows, columns)."
            )
        names = _names_file(path)
        labels = (
            names.read_text(encoding="utf-8").splitlines() if names.exists() else [str(i) for i in range(self._array.shape[1])]
        )
        if len(labels) != self._array.shape[1]:
            raise TableError(
                f"{names}: {counted(len(labels), 'name')} for the {counted(self._array.shape[1], 'column')} of {path.name}."
            )
        self.schema = pa.schema([(label, pa.float64()) for label in labels])

    def slices(self, rows: int) -> list[Slice]:
        bounds = [*range(0, len(self._array), rows), len(self._array)]
        return [Slice(str(self.path), a, b, a, b - a) for a, b in itertools.pairwise(bounds)]

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        positions = [self.schema.get_field_index(name) for name in columns]
        rows, array = batch_rows(self._array.shape[1]), self._array if at is None else self._array[at.first : at.last]
        for first in range(0, len(array), rows):
            block = array_as_float64(list(columns), array[first : first + rows][:, positions])
            arrays = [pa.array(np.ascontiguousarray(column)) for column in block.T]
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))


class NpySink(Sink):
    """Appends rows; the header, which contains their number, is rewritten at the end."""

    row_major = True

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._rows = path, 0
        self._names = [field.name for field in schema if pa.types.is_float64(field.type)]
        others = [field for field in schema if not pa.types.is_float64(field.type)]
        _names_file(path).write_text("".join(f"{name}\n" for name in self._names), encoding="utf-8")
        self._index = CsvSink(_index_file(path), pa.schema(others)) if others else None
        self._other_names = [field.name for field in others]
        self._file = path.open("wb")
        self._header()

    def write(self, batch: pa.RecordBatch) -> None:
        block = np.empty((batch.num_rows, len(self._names)))
        for j, name in enumerate(self._names):
            block[:, j] = batch.column(batch.schema.get_field_index(name)).to_numpy(zero_copy_only=False)
        self.write_rows(None, block, batch.schema)
        if self._index is not None:
            self._index.write(batch.select(self._other_names))

    def write_rows(self, keys: pa.Array | None, numbers: np.ndarray, schema: pa.Schema) -> None:
        if keys is not None and self._index is not None:
            self._index.write(pa.RecordBatch.from_arrays([keys], names=self._other_names))
        elif keys is not None:  # a float64 index is a column of the array
            numbers = np.column_stack([keys.to_numpy(zero_copy_only=False), numbers])
        self._file.write(np.ascontiguousarray(numbers).data)
        self._rows += len(numbers)

    def close(self) -> None:
        self._file.seek(0)
        self._header()
        self._file.close()
        if self._index is not None:
            self._index.close()

    def _header(self) -> None:
        # NumPy pads the header so that the length of the first axis can be rewritten in place.
        description = {"descr": "<f8", "fortran_order": False, "shape": (self._rows, len(self._names))}
        np.lib.format.write_array_header_1_0(self._file, description)


def _names_file(path: Path) -> Path:
    return path.with_suffix(".columns.txt")


def _index_file(path: Path) -> Path:
    return path.with_suffix(".index.csv")


FORMAT = TableFormat((".npy",), NpySource, NpySink, companions=lambda path: [_names_file(path), _index_file(path)])
