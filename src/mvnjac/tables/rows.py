"""From batches of a table to tensors: the last step before the numbers are used, and the first that looks at each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from mvnjac.errors import TableError
from mvnjac.tables.base import Source


@dataclass(frozen=True)
class Rows:
    """Some rows: x (n, d) float64, and the values of the index, if there is one."""

    x: torch.Tensor
    index: pa.Array | None


def tensor_batches(source: Source, variables: Sequence[str], index: str | None, gaps: bool = False) -> Iterator[Rows]:
    """The rows of a table as tensors; gaps: a missing value is NaN.

    Raises:
        TableError: a value that is infinite or, without gaps, missing: its file, row (from 1) or index, and column.
    """
    columns = [*variables, index] if index else list(variables)
    first = 0
    for batch in source.batches(columns):
        x = np.empty((batch.num_rows, len(variables)))
        for j in range(len(variables)):
            x[:, j] = batch.column(j).to_numpy(zero_copy_only=False)
        keys = batch.column(len(variables)) if index else None
        bad = np.isinf(x) if gaps else ~np.isfinite(x)
        if bad.any():
            i, j = np.argwhere(bad)[0]
            place = f"row {first + i + 1}" if keys is None else f"{index} {keys[int(i)]}"
            what = "missing" if np.isnan(x[i, j]) else f"{x[i, j]}"
            raise TableError(
                f"{source.path}: {variables[j]!r} is {what} at {place}; choose complete columns by --columns, take the rows "
                "that have gaps out of the table, or say --missing marginalise."
            )
        first += batch.num_rows
        if batch.num_rows:
            yield Rows(torch.from_numpy(x), keys)
