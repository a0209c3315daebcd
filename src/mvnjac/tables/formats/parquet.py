"""Parquet: a file, or a folder of files that are read in the order of their names, possibly in subfolders KEY=VALUE."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from mvnjac.errors import TableError
from mvnjac.tables.base import Sink, Source, TableFormat, as_float64, batch_rows, table_errors
from mvnjac.tables.partitions import partitioned_files, typed_values
from mvnjac.tables.slices import Slice, slices_of_blocks
from mvnjac.tables.storage import entry, is_remote, open_file

_SUFFIX = ".parquet"
#: Row groups with fewer than 5000 rows are slow to read; row groups of more than 64 MB need much memory to write.
_GROUP_ROWS, _GROUP_BYTES = 5_000, 64 * 2**20


class ParquetSource(Source):
    """One file or all `*.parquet` files of a folder.

    The partition columns of a Hive-partitioned folder follow the columns of the files. They are labels, not variables.
    """

    states_types = True

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._constants = _parts(path)
        self._parts = list(self._constants)
        self._groups: list[list[int]] = []  # the number of rows of each row group, by file
        for i, part in enumerate(self._parts):
            schema, groups = _footer(part)
            for key, value in self._constants[part].items():
                if key in schema.names:
                    raise TableError(f"{part}: the column {key!r} is in the file and in the names of the folders.")
                schema = schema.append(pa.field(key, value.type))
            self._groups.append(groups)
            if i == 0:
                self.schema = schema
            elif not schema.equals(self.schema):
                first = PurePosixPath(self._parts[0]).name
                raise TableError(
                    f"{part}: {_difference(schema, self.schema)} in {first}; all files of a table need the same schema."
                )

    def slices(self, rows: int) -> list[Slice]:
        found, row = list[Slice](), 0
        for part, groups in zip(self._parts, self._groups, strict=True):
            constants = tuple(self._constants[part].items())
            found += [dataclasses.replace(at, constants=constants) for at in slices_of_blocks(part, groups, rows, row)]
            row += sum(groups)
        return found

    def labels(self) -> list[str]:
        return [*super().labels(), *self._constants[self._parts[0]]]

    def inputs(self) -> list[str]:
        return self._parts

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        parts = [Slice(part, constants=tuple(self._constants[part].items())) for part in self._parts]
        for whole in parts if at is None else [at]:
            constants = dict(whole.constants)
            with table_errors(whole.path):
                for batch in _read(whole, [name for name in columns if name not in constants]):
                    yield as_float64(_with_constants(batch, columns, constants), self.index)


class ParquetSink(Sink):
    """Writes row groups of at least 5000 rows (or 64 MB), without dictionary encoding, because scores rarely repeat."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, use_dictionary=False)
        self._pending: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        self._pending.append(batch)
        rows = sum(b.num_rows for b in self._pending)
        if rows >= _GROUP_ROWS or rows * len(self._schema) * 8 >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._pending:
            table = pa.Table.from_batches(self._pending, self._schema)
            self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
            self._pending = []


def _read(at: Slice, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a slice; a row group is always read from its start."""
    # Without memory mapping pyarrow would read whole row groups.
    with pq.ParquetFile(open_file(at.path), memory_map=not is_remote(at.path)) as file:
        groups = range(at.first, file.num_row_groups if at.last is None else at.last)
        skip, left = at.skip, at.take
        for batch in file.iter_batches(batch_rows(len(columns)), list(groups), list(columns)):
            batch, skip = batch.slice(skip), max(0, skip - batch.num_rows)
            if left is not None:
                batch = batch.slice(0, left)
                left -= batch.num_rows
            if batch.num_rows:
                yield batch
            if left == 0:
                return


def _parts(path: str | Path) -> dict[str, dict[str, pa.Scalar]]:
    """The files of a table, with the values of the partition columns of each."""
    there = entry(path)
    if there is None or not there.folder:
        return {str(path): {}}
    found = partitioned_files(path, _SUFFIX)
    if not found:
        raise TableError(f"{path}: the folder has no .parquet files.")
    return typed_values(found)


def _with_constants(batch: pa.RecordBatch, columns: Sequence[str], constants: dict[str, pa.Scalar]) -> pa.RecordBatch:
    """The columns of a batch, and those that have one value in all its rows."""
    arrays = [pa.repeat(constants[name], batch.num_rows) if name in constants else batch.column(name) for name in columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _footer(part: str) -> tuple[pa.Schema, list[int]]:
    """The schema of a file, and the number of rows of each of its row groups."""
    with table_errors(part), pq.ParquetFile(open_file(part)) as file:  # the error names the file rather than the folder
        metadata = file.metadata
        return file.schema_arrow, [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def _difference(here: pa.Schema, there: pa.Schema) -> str:
    for name in [*here.names, *there.names]:
        one, other = (str(schema.field(name).type) if name in schema.names else "absent" for schema in (here, there))
        if one != other:
            return f"column {name!r} is {one} here and {other}"
    return "the columns are in another order than"


FORMAT = TableFormat((_SUFFIX,), ParquetSource, ParquetSink, is_remote=True)
