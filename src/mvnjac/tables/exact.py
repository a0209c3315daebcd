"""Numbers that a float64 holds exactly, and those that it does not: integers beyond 2⁵³, and floats of more digits.

A table that stores such numbers would be altered by reading it. Decimal numbers, in text or as a type, are no such case: what is
read is the nearest float64, as everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from mvnjac.errors import TableError

_LARGEST = 2**53


class InexactError(TableError):
    """A stored number that no float64 is equal to.

    Attributes:
        column, row, value: where it is, the row counted from 0 within what was converted, and the number.
    """

    def __init__(self, column: str, row: int, value: Any) -> None:
        self.column, self.row, self.value = column, row, value
        super().__init__(f"{column!r} is {value} at row {row + 1}, {self.explanation()}")

    def explanation(self) -> str:
        """Why it is not read, and what to do."""
        return (
            f"which is {float(self.value)!r} as a float64: numbers are never altered. Leave the column out by --columns, or store it "
            "as floating-point numbers if it is meant to be rounded."
        )

    def __reduce__(self) -> Any:
        return type(self), (self.column, self.row, self.value)


def column_as_float64(name: str, column: pa.Array) -> pa.Array:
    """A numeric column as float64.

    Raises:
        InexactError: an integer that is not exactly a float64.
    """
    if pa.types.is_integer(column.type) and column.type.bit_width == 64:
        _refuse(name, column.fill_null(0).to_numpy(zero_copy_only=False))
        return column.cast(pa.float64(), safe=False)
    return column.cast(pa.float64())


def array_as_float64(names: list[str], block: np.ndarray) -> np.ndarray:
    """(rows, columns) numbers as float64.

    Raises:
        InexactError: a number that is not exactly a float64.
    """
    if block.dtype.itemsize > 8 or (block.dtype.itemsize == 8 and block.dtype.kind in "iu"):
        for j, name in enumerate(names):
            _refuse(name, block[:, j])
    return np.asarray(block, dtype=np.float64)


def _refuse(name: str, values: np.ndarray) -> None:
    wrong = np.flatnonzero(_inexact(values))
    if len(wrong):
        raise InexactError(name, int(wrong[0]), values[wrong[0]])


def _inexact(values: np.ndarray) -> np.ndarray:
    """Which of the numbers are no float64."""
    if values.dtype.kind == "f":
        rounded = values.astype(np.float64)
        return (rounded != values) & ~np.isnan(values)
    if not len(values) or (int(values.max()) <= _LARGEST and int(values.min()) >= -_LARGEST):
        return np.zeros(0, dtype=bool)
    negative = values < 0
    size = np.where(negative, -values, values).astype(np.uint64)  # −2⁶³ stays what it is, and its bits are those of 2⁶³
    lowest = np.where(size == 0, 1, size & (~size + np.uint64(1)))  # what is left of it after that is held by 53 bits, or not
    inexact: np.ndarray = size // lowest > _LARGEST
    return inexact
