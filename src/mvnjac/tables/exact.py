"""Exact conversion to float64: integers beyond 2⁵³ and longer floating-point numbers that float64 cannot represent are errors.

Decimal numbers, as text or as a decimal type, are read as the nearest float64, as is usual.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from mvnjac.errors import TableError

_LARGEST = 2**53


class InexactError(TableError):
    """A stored number that float64 cannot represent exactly.

    Attributes:
        column, row, value: its column, its row (from 0, within the converted array), and the number.
    """

    def __init__(self, column: str, row: int, value: Any) -> None:
        self.column, self.row, self.value = column, row, value
        super().__init__(f"{column!r} is {value} at row {row + 1}, {self.explanation()}")

    def explanation(self) -> str:
        """Why the number is refused, and what to do."""
        return (
            f"which is {float(self.value)!r} as a float64; mvnjac does not round numbers. Leave the column out with --columns, or "
            "store it as floating-point numbers if rounding is intended."
        )

    def __reduce__(self) -> Any:
        return type(self), (self.column, self.row, self.value)


def column_as_float64(name: str, column: pa.Array) -> pa.Array:
    """A numeric column as float64.

    Raises:
        InexactError: an integer that float64 cannot represent.
    """
    if pa.types.is_integer(column.type) and column.type.bit_width == 64:
        _require_exact(name, column.fill_null(0).to_numpy(zero_copy_only=False))
        return column.cast(pa.float64(), safe=False)
    return column.cast(pa.float64())


def array_as_float64(names: list[str], block: np.ndarray) -> np.ndarray:
    """A (rows, columns) array as float64.

    Raises:
        InexactError: a number that float64 cannot represent.
    """
    if block.dtype.itemsize > 8 or (block.dtype.itemsize == 8 and block.dtype.kind in "iu"):
        for j, name in enumerate(names):
            _require_exact(name, block[:, j])
    return np.asarray(block, dtype=np.float64)


def _require_exact(name: str, values: np.ndarray) -> None:
    rows = np.flatnonzero(_inexact(values))
    if len(rows):
        raise InexactError(name, int(rows[0]), values[rows[0]])


def _inexact(values: np.ndarray) -> np.ndarray:
    """A mask of the numbers that float64 cannot represent; it may be empty if there are none."""
    if values.dtype.kind == "f":
        rounded = values.astype(np.float64)
        return (rounded != values) & ~np.isnan(values)
    if not len(values) or (int(values.max()) <= _LARGEST and int(values.min()) >= -_LARGEST):
        return np.zeros(0, dtype=bool)
    negative = values < 0
    size = np.where(negative, -values, values).astype(np.uint64)  # −(−2⁶³) overflows to −2⁶³, whose bits are those of 2⁶³
    lowest_bit = np.where(size == 0, 1, size & (~size + np.uint64(1)))
    inexact: np.ndarray = size // lowest_bit > _LARGEST  # the significand has more than 53 bits
    return inexact
