"""A given mean and covariance, read from tables and matched to the variables by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mvnjac.errors import TableError, counted
from mvnjac.tables.base import open_source
from mvnjac.tables.columns import is_numeric
from mvnjac.tables.exact import InexactError, array_as_float64
from mvnjac.tables.rows import exact_batches


def read_mean(path: Path, names: Sequence[str]) -> torch.Tensor:
    """(d,) from a table of one row under the variables' names, in any order; or an .npy of shape (d,) or (1, d), in order.

    Raises:
        TableError: a variable without a value, more than one row, a wrong shape.
    """
    if _nameless(path):
        return torch.from_numpy(_array(path, [(len(names),), (1, len(names))]).reshape(-1))
    columns = _columns(path, names)
    if len(columns[0]) != 1:
        raise TableError(f"{path}: {counted(len(columns[0]), 'row')}; a mean is one row under the variables' names.")
    return torch.from_numpy(np.array([column[0] for column in columns]))


def read_covariance(path: Path, names: Sequence[str]) -> torch.Tensor:
    """(d, d) from a header of names and a row a variable; an optional column of names says which row is which.

    Without such a column the rows are in the order of the header. Variables beyond `names` are left out. An .npy of shape (d, d)
    is taken in order, unless a file of column names lies beside it.

    Raises:
        TableError: a variable without a row or a column, or rows that do not match the header.
    """
    if _nameless(path):
        return torch.from_numpy(_array(path, [(len(names), len(names))]))
    table = _table(path)
    labels = _labels(table, names)
    if len(labels) > 1:
        raise TableError(f"{path}: the columns {', '.join(map(repr, labels))} are not numeric; expected at most one, of names.")
    header = [name for name in table.schema.names if name not in labels]
    rows = [_label(value) for value in table.column(labels[0]).to_pylist()] if labels else header
    twice = sorted({name for name in rows if rows.count(name) > 1})
    if twice:
        raise TableError(f"{path}: the rows {', '.join(map(repr, twice))} occur more than once.")
    if len(rows) != table.num_rows:
        raise TableError(
            f"{path}: {counted(table.num_rows, 'row')} for the {counted(len(rows), 'variable')} of its header; expected one a variable."
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
    values = table.column(name).cast(pa.float64()).to_numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise TableError(f"{path}: column {name!r} has no finite number in row {bad[0] + 1}.")
    return values


def _labels(table: pa.Table, names: Sequence[str]) -> list[str]:
    """The column of row names: what is not numeric; else a first column beyond a square, that is no variable and names the others."""
    found = [field.name for field in table.schema if not is_numeric(field.type) or field.name.startswith("__index")]
    first = table.schema.names[0]
    if found or first in names or table.num_rows != table.num_columns - 1:
        return found
    return [first] if {_label(value) for value in table.column(0).to_pylist()} == set(table.schema.names[1:]) else []


def _label(value: object) -> str:
    """A row's name as it stands in the header: variables that are called 1, 2, … have come as numbers."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _nameless(path: Path) -> bool:
    return path.suffix == ".npy" and not path.with_suffix(".columns.txt").exists()


def _table(path: Path) -> pa.Table:
    source = open_source(path)
    names = [name for name in source.names if name or not pa.types.is_null(source.schema.field(name).type)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TableError(f"{path}: the column name {repeated[0]!r} occurs more than once.")
    batches = list(exact_batches(source, names, None))
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
    try:
        names = [str(i) for i in range(array.shape[-1])]
        return array_as_float64(names, array.reshape(-1, len(names))).reshape(array.shape)
    except InexactError as error:
        raise TableError(f"{path}: {error}") from None
