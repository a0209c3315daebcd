"""Batches of a table as tensors, with a check of every value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from mvnjac.errors import TableError
from mvnjac.tables.base import Source
from mvnjac.tables.exact import InexactError
from mvnjac.tables.slices import Slice


@dataclass(frozen=True)
class Rows:
    """Rows of a table: x (n, d) float64, and the values of the index if there is one."""

    x: torch.Tensor
    index: pa.Array | None

    def complete(self) -> Rows:
        """The rows without missing values, in the same memory order."""
        kept = ~self.x.isnan().any(-1)
        if bool(kept.all()):
            return self
        index = None if self.index is None else self.index.filter(pa.array(kept.numpy()))
        return Rows(self.x.mT[:, kept].contiguous().mT, index)


def tensor_batches(
    source: Source,
    variables: Sequence[str],
    index: str | None,
    allow_missing: bool = False,
    at: Slice | None = None,
    complete: bool = False,
) -> Iterator[Rows]:
    """The rows of a table, or of a slice of it, as tensors in column-major order; missing values are NaN.

    Args:
        source: the table.
        variables: the columns of x.
        index: the column of row labels.
        allow_missing: whether values may be missing.
        at: the slice; None: all rows.
        complete: leave out the rows with missing values.

    Raises:
        TableError: a value is infinite, or missing without `allow_missing`; the message names file, column, and row (from 1) or
            index.
    """
    columns = [*variables, index] if index else list(variables)
    first = 0
    for batch in exact_batches(source, columns, at):
        # Allocated by torch, whose memory is aligned: the rounding of sums can depend on alignment.
        x = torch.empty(len(variables), batch.num_rows, dtype=torch.float64, device="cpu").mT
        numbers = x.numpy()
        for j in range(len(variables)):
            numbers[:, j] = batch.column(j).to_numpy(zero_copy_only=False)
        keys = batch.column(len(variables)) if index else None
        if not bool(torch.isfinite(x.sum())):  # the sum may also overflow: check each value
            bad = np.isinf(numbers) if allow_missing or complete else ~np.isfinite(numbers)
            if bad.any():
                before = first + (0 if at is None else source.rows_before(at))
                raise _unusable_value(source, variables, index, numbers, np.argwhere(bad)[0], keys, before)
        first += batch.num_rows
        rows = Rows(x, keys)
        if complete:
            rows = rows.complete()
        if len(rows.x):
            yield rows


def exact_batches(source: Source, columns: Sequence[str], at: Slice | None) -> Iterator[pa.RecordBatch]:
    """The batches; the error for a number that float64 cannot represent names its row in the table."""
    rows = 0
    try:
        for batch in source.batches(columns, at):
            yield batch
            rows += batch.num_rows
    except InexactError as error:
        row = rows + error.row + 1 + (0 if at is None else source.rows_before(at))
        raise TableError(f"{source.path}: {error.column!r} is {error.value} at row {row}, {error.explanation()}") from None


def _unusable_value(
    source: Source,
    variables: Sequence[str],
    index: str | None,
    numbers: np.ndarray,
    where: np.ndarray,
    keys: pa.Array | None,
    before: int,
) -> TableError:
    i, j = where
    place = f"row {before + i + 1}" if keys is None else f"{index} {keys[int(i)]}"
    missing = np.isnan(numbers[i, j])
    what = "missing" if missing else f"{numbers[i, j]}"
    remedy = (
        "select complete columns with --columns, leave out the rows with missing values by --missing drop, or use the observed "
        "values of each row by --missing marginalise"
        if missing
        else "correct the value, or leave the column out with --exclude"
    )
    return TableError(f"{source.path}: {variables[j]!r} is {what} at {place}; {remedy}.")
