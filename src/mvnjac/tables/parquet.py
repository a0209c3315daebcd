"""Parquet: a file, or a folder of parts read in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mvnjac.errors import TableError
from mvnjac.tables.base import Sink, Source, as_float64, batch_rows, unreadable

SUFFIXES = (".parquet",)

#: Row groups below 5000 rows read slowly; above 64 MB they need too much memory to write.
_GROUP_ROWS, _GROUP_BYTES = 5_000, 64 * 2**20


class ParquetSource(Source):
    """One file or all `*.parquet` files of a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = _parts(path)
        self.schema = _schema(self._parts[0])
        for part in self._parts[1:]:
            schema = _schema(part)
            if not schema.equals(self.schema):
                raise TableError(
                    f"{part}: {_difference(schema, self.schema)} in {self._parts[0].name}; all parts need one schema."
                )

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for part in self._parts:
            try:
                with pq.ParquetFile(part, memory_map=True) as file:  # else a row group is read whole
                    for batch in file.iter_batches(batch_size=batch_rows(len(columns)), columns=list(columns)):
                        yield as_float64(batch.select(list(columns)), self.index)
            except (pa.ArrowException, OSError) as error:
                raise unreadable(part, error) from error


class ParquetSink(Sink):
    """Row groups of at least 5000 rows (or 64 MB), without dictionaries: scores hardly repeat."""

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


def _parts(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    shown = [each for each in sorted(path.iterdir()) if not each.name.startswith((".", "_"))]  # no temporaries, no markers
    nested = [each.name for each in shown if each.is_dir()]
    if nested:
        raise TableError(f"{path}: holds the folder {nested[0]!r}; the parts must lie in one folder, not in further ones.")
    parts = [each for each in shown if each.name.lower().endswith(SUFFIXES)]
    if not parts:
        raise TableError(f"{path}: the folder has no .parquet files.")
    return parts


def _schema(part: Path) -> pa.Schema:
    try:
        return pq.read_schema(part)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(part, error) from error  # the part, not the folder


def _difference(here: pa.Schema, there: pa.Schema) -> str:
    for name in [*here.names, *there.names]:
        mine, theirs = (str(schema.field(name).type) if name in schema.names else "absent" for schema in (here, there))
        if mine != theirs:
            return f"column {name!r} is {mine} here and {theirs}"
    return "the columns stand in another order than"


def open_source(path: Path) -> Source:
    return ParquetSource(path)


def open_sink(path: Path, schema: pa.Schema) -> Sink:
    return ParquetSink(path, schema)
