"""Returns between consecutive rows: log pₜ − log pₜ₋₁, or (pₜ − pₜ₋₁)/pₜ₋₁; a missing price makes two of them missing.

Nothing is imputed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from mvnjac.errors import TableError
from mvnjac.tables.base import Source
from mvnjac.tables.slices import Slice
from mvnjac.tables.sorting import Ordered


class Returns(Source):
    """The returns of a table of prices, as a table with one row fewer.

    With an index, the rows are first sorted by it, ascending. A return has the index of the later of its two rows. A missing
    price makes the return of its row and of the next row missing.

    Args:
        source: the prices.
        index: the column of row labels; None: the rows are in the order of time.
        logarithmic: whether the returns are log pₜ − log pₜ₋₁; otherwise they are (pₜ − pₜ₋₁)/pₜ₋₁.

    Raises:
        TableError: a price is not positive; the message names its column and its row or index.
    """

    def __init__(self, source: Source, index: str | None, logarithmic: bool = True) -> None:
        source.use_index(index)
        self._logarithmic = logarithmic
        self._source = source if index is None else Ordered(source, index)
        self.path, self.schema, self.index, self._index = source.path, source.schema, index, index
        self.states_types = source.states_types

    def inputs(self) -> list[str]:
        return self._source.inputs()

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        before: np.ndarray | None = None  # the prices, or their logarithms, of the last row of the previous batch
        variables = [name for name in columns if name != self._index]
        row = 0
        for batch in self._source.batches(columns):
            prices = self._prices(batch, variables, row)
            levels = np.log(prices) if self._logarithmic else prices
            row += batch.num_rows
            stacked = levels if before is None else np.vstack([before, levels])
            before = levels[-1:] if len(levels) else before
            returns = np.diff(stacked, axis=0)
            if not self._logarithmic:
                returns /= stacked[:-1]
            if len(returns):
                yield self._batch(batch.slice(batch.num_rows - len(returns)), columns, variables, returns)

    def _prices(self, batch: pa.RecordBatch, variables: list[str], first: int) -> np.ndarray:
        prices = np.empty((batch.num_rows, len(variables)))
        for j, name in enumerate(variables):
            prices[:, j] = batch.column(name).to_numpy(zero_copy_only=False)
        bad = np.argwhere(prices <= 0)
        if len(bad):
            i, j = bad[0]
            place = f"row {first + i + 1}" if self._index is None else f"{self._index} {batch.column(self._index)[int(i)]}"
            what = "log returns" if self._logarithmic else "returns"
            raise TableError(f"{self.path}: {variables[j]!r} is {prices[i, j]} at {place}; {what} need positive prices.")
        return prices

    def _batch(self, rows: pa.RecordBatch, columns: Sequence[str], variables: list[str], returns: np.ndarray) -> pa.RecordBatch:
        arrays = [
            rows.column(name) if name == self._index else pa.array(np.ascontiguousarray(returns[:, variables.index(name)]))
            for name in columns
        ]
        return pa.RecordBatch.from_arrays(arrays, names=list(columns))
