"""Reads a mean and a covariance from tables, matched to the variables by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mvnjac.errors import TableError, counted
from mvnjac.tables.base import format_of, open_source
from mvnjac.tables.columns import is_numeric
from mvnjac.tables.exact import InexactError, array_as_float64
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.rows import exact_batches

#: options for the observations that apply to the files of the mean and the covariance, too
_CONVENTIONS = ("decimal", "thousands", "encoding")


def read_mean(path: Path, names: Sequence[str], options: ReadOptions | None = None) -> torch.Tensor:
    """The mean (d,), from a table with one row and the variables as columns, or from an .npy array of shape (d,) or (1, d).

    The columns of a table may be in any order; the entries of an array are in the order of `names`. The decimal point, the
    grouping of digits and the encoding are those of the observations' `options`.

    Raises:
        TableError: a variable has no value, the table does not have one row, or the array has another shape.
    """
    if _is_unnamed_array(path):
        return torch.from_numpy(_array(path, [(len(names),), (1, len(names))]).reshape(-1))
    columns = _columns(path, names, options)
    if len(columns[0]) != 1:
        raise TableError(
            f"{path}: {counted(len(columns[0]), 'row')}; expected one row, with the variables' names in the header."
        )
    return torch.from_numpy(np.array([column[0] for column in columns]))


def read_covariance(path: Path, names: Sequence[str], options: ReadOptions | None = None) -> torch.Tensor:
    """The covariance (d, d), from a table with one column and one row per variable, or from an .npy array of shape (d, d).

    A column of names labels the rows; without one, the rows are in the order of the header. Variables that are not in `names`
    are left out. An array is in the order of `names`, unless there is a file of column names beside it.

    Raises:
        TableError: a variable has no row or no column, or the rows do not match the header.
    """
    if _is_unnamed_array(path):
        return torch.from_numpy(_array(path, [(len(names), len(names))]))
    table = _table(path, options)
    labels = _labels(table, names)
    if len(labels) > 1:
        raise TableError(
            f"{path}: the columns {', '.join(map(repr, labels))} are not numeric; expected at most one column of names."
        )
    header = [name for name in table.schema.names if name not in labels]
    rows = [_label(value) for value in table.column(labels[0]).to_pylist()] if labels else header
    repeated = sorted({name for name in rows if rows.count(name) > 1})
    if repeated:
        raise TableError(f"{path}: the rows {', '.join(map(repr, repeated))} occur more than once.")
    if len(rows) != table.num_rows:
        raise TableError(
            f"{path}: {counted(table.num_rows, 'row')} for the {counted(len(rows), 'variable')} of its header; expected one row per "
            "variable."
        )
    missing = [name for name in names if name not in rows or name not in header]
    if missing:
        raise TableError(f"{path}: no row or no column for {', '.join(map(repr, missing))}.")
    order = [rows.index(name) for name in names]
    return torch.from_numpy(np.stack([_numbers(path, table, name)[order] for name in names], axis=1))


def _columns(path: Path, names: Sequence[str], options: ReadOptions | None) -> list[np.ndarray]:
    table = _table(path, options)
    missing = [name for name in names if name not in table.schema.names]
    if missing:
        raise TableError(
            f"{path}: no column for {', '.join(map(repr, missing))}; the columns are {', '.join(table.schema.names)}."
        )
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
    """The columns with the names of the rows.

    These are the columns that are not numeric; otherwise the first column of a d × (d + 1) table, if it contains the names of
    the other columns.
    """
    found = [field.name for field in table.schema if not is_numeric(field.type) or field.name.startswith("__index")]
    first = table.schema.names[0]
    if found or first in names or table.num_rows != table.num_columns - 1:
        return found
    return [first] if {_label(value) for value in table.column(0).to_pylist()} == set(table.schema.names[1:]) else []


def _label(value: object) -> str:
    """A row's name as in the header: the names 1, 2, … have been read as numbers."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_unnamed_array(path: Path) -> bool:
    return path.suffix == ".npy" and not path.with_suffix(".columns.txt").exists()


def _table(path: Path, options: ReadOptions | None) -> pa.Table:
    source = open_source(path, options=_applicable(path, options))
    names = [name for name in source.names if name or not pa.types.is_null(source.schema.field(name).type)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TableError(f"{path}: the column name {repeated[0]!r} occurs more than once.")
    batches = list(exact_batches(source, names, None))
    if not batches:
        raise TableError(f"{path}: has no rows.")
    return pa.Table.from_batches(batches)


def _applicable(path: Path, options: ReadOptions | None) -> ReadOptions | None:
    """The conventions for numbers and text, as far as they apply to a file of this format."""
    if options is None or not path.is_file():
        return None
    return options.limited_to(set(_CONVENTIONS) & set(format_of(path).options))


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
