"""From batches of a table to tensors: the last step before the numbers are used, and the first that looks at each of them."""

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
    """Some rows: x (n, d) float64, and the values of the index, if there is one."""

    x: torch.Tensor
    index: pa.Array | None


def tensor_batches(
    source: Source, variables: Sequence[str], index: str | None, gaps: bool = False, at: Slice | None = None
) -> Iterator[Rows]:
    """The rows of a table, or of a slice of it, as tensors; gaps: a missing value is NaN.

    x lies in memory column after column, as tables are read.

    Raises:
        TableError: a value that is infinite or, without gaps, missing: its file, row (from 1) or index, and column.
    """
    columns = [*variables, index] if index else list(variables)
    first = 0
    for batch in exact_batches(source, columns, at):
        x = torch.empty(
            len(variables), batch.num_rows, dtype=torch.float64, device="cpu"
        ).mT  # torch's memory is aligned: so are sums
        numbers = x.numpy()
        for j in range(len(variables)):
            numbers[:, j] = batch.column(j).to_numpy(zero_copy_only=False)
        keys = batch.column(len(variables)) if index else None
        if not bool(torch.isfinite(x.sum())):  # a sum that overflows is looked at, too
            bad = np.isinf(numbers) if gaps else ~np.isfinite(numbers)
            if bad.any():
                before = first + (0 if at is None else source.rows_before(at))
                raise _not_usable(source, variables, index, numbers, np.argwhere(bad)[0], keys, before)
        first += batch.num_rows
        if batch.num_rows:
            yield Rows(x, keys)


def exact_batches(source: Source, columns: Sequence[str], at: Slice | None) -> Iterator[pa.RecordBatch]:
    """The batches; a number that is no float64 is told with its row in the table."""
    rows = 0
    try:
        for batch in source.batches(columns, at):
            yield batch
            rows += batch.num_rows
    except InexactError as error:
        row = rows + error.row + 1 + (0 if at is None else source.rows_before(at))
        raise TableError(f"{source.path}: {error.column!r} is {error.value} at row {row}, {error.explanation()}") from None


def _not_usable(
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
    what = "missing" if np.isnan(numbers[i, j]) else f"{numbers[i, j]}"
    return TableError(
        f"{source.path}: {variables[j]!r} is {what} at {place}; choose complete columns by --columns, take the rows "
        "that have gaps out of the table, or say --missing marginalise."
    )
