"""A given mean and covariance, read from tables and matched to the variables by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mvnjac.errors import TableError
from mvnjac.tables.base import is_numeric, open_source


def read_mean(path: Path, names: Sequence[str]) -> torch.Tensor:
    """(d,) from a table of one row under the variables' names, in any order; or an .npy of shape (d,) or (1, d), in order.

    Raises:
        TableError: a variable without a value, more than one row, a wrong shape.
    """
    if path.suffix == ".npy":
        return torch.from_numpy(_array(path, [(len(names),), (1, len(names))]).reshape(-1))
    columns = _columns(path, names)
    if len(columns[0]) != 1:
        raise TableError(f"{path}: {len(columns[0])} rows; a mean is one row under the variables' names.")
    return torch.from_numpy(np.array([column[0] for column in columns]))


def read_covariance(path: Path, names: Sequence[str]) -> torch.Tensor:
    """(d, d) from a header of names and a row a variable; an optional column of names says which row is which.

    Without such a column the rows are in the order of the header. Variables beyond `names` are left out. An .npy of shape (d, d)
    is taken in order.

    Raises:
        TableError: a variable without a row or a column, or rows that do not match the header.
    """
    if path.suffix == ".npy":
        return torch.from_numpy(_array(path, [(len(names), len(names))]))
    table = _table(path)
    labels = [field.name for field in table.schema if not is_numeric(field.type) or field.name.startswith("__index")]
    if len(labels) > 1:
        raise TableError(f"{path}: the columns {', '.join(map(repr, labels))} are not numeric; expected at most one, of names.")
    header = [name for name in table.schema.names if name not in labels]
    rows = [str(value) for value in table.column(labels[0]).to_pylist()] if labels else header
    if len(rows) != table.num_rows or len(set(rows)) != len(rows):
        raise TableError(
            f"{path}: {table.num_rows} rows for the {len(set(rows))} variables of its header; expected one a variable."
        )
    missing = [name for name in names if name not in rows or name not in header]
    if missing:
        raise TableError(f"{path}: no row or no column for {', '.join(map(repr, missing))}.")
    order = [rows.index(name) for name in names]
    return torch.from_numpy(np.stack([_numbers(path, table, name)[order] for name in names], axis=1))


def _columns(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    table = _table(path)
    missing = [name for name in names if name not in table.schema.names]
    if missing:
        raise TableError(f"{path}: no column for {', '.join(map(repr, missing))}; it has {', '.join(table.schema.names)}.")
    return [_numbers(path, table, name) for name in names]


def _numbers(path: Path, table: pa.Table, name: str) -> np.ndarray:
    if not is_numeric(table.schema.field(name).type):
        raise TableError(f"{path}: column {name!r} is not numeric ({table.schema.field(name).type}).")
    return table.column(name).cast(pa.float64()).to_numpy()


def _table(path: Path) -> pa.Table:
    source = open_source(path)
    names = [name for name in source.names if name or not pa.types.is_null(source.schema.field(name).type)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TableError(f"{path}: the column name {repeated[0]!r} occurs more than once.")
    batches = list(source.batches(names))
    if not batches:
        raise TableError(f"{path}: has no rows.")
    return pa.Table.from_batches(batches)


def _array(path: Path, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    if not path.exists():
        raise TableError(f"{path}: no such file.")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise TableError(f"{path}: cannot be read ({error}).") from error
    if array.shape not in shapes or array.dtype.kind not in "fiu":
        expected = " or ".join(map(str, shapes))
        raise TableError(f"{path}: holds {array.dtype} of shape {array.shape}; expected numbers of shape {expected}.")
    return array.astype(np.float64)
