"""Arrays and columns of other libraries as tensors: NumPy arrays, Series of pandas and polars, Arrow arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvnjac.errors import DtypeError

#: the largest integer up to which float64 represents every integer
_EXACT = 2**53


def is_array(value: object) -> bool:
    """Whether `as_tensor` converts this object: a NumPy array, a Series, or an Arrow array."""
    return isinstance(value, np.ndarray) or (hasattr(value, "to_numpy") and not hasattr(value, "columns"))


def as_tensor(function: str, argument: str, value: Any) -> Tensor:
    """An array as a tensor on the CPU; numbers keep their values. Floating-point arrays share their memory if possible.

    Integers become float64, and masked or null entries NaN. Other objects are returned unchanged, for the checks that follow.

    Raises:
        DtypeError: the array is not numeric, or has an integer that float64 cannot represent.
    """
    if isinstance(value, Tensor) or not is_array(value):
        return value
    array = _numpy(function, argument, value)
    if array.dtype.kind in "iu":
        if array.size and max(abs(int(array.min())), abs(int(array.max()))) > _EXACT:
            raise DtypeError(
                f"{function}: {argument} has integers above 2**53, which float64 cannot represent; convert it to floating "
                "point if rounding is intended."
            )
        array = array.astype(np.float64)
    if array.dtype.kind not in "fb" or array.dtype.itemsize > 8:
        raise DtypeError(f"{function}: {argument} is an array of {array.dtype}; expected numbers (float64 or float32).")
    if not array.dtype.isnative or not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
    return torch.from_numpy(array)


def _numpy(function: str, argument: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.filled(value.astype(np.float64), np.nan)
    array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    if array.dtype.kind != "O":
        return array
    try:  # nullable columns of pandas, Decimal
        return value.to_numpy(dtype=np.float64, na_value=np.nan) if hasattr(value, "iloc") else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"{function}: {argument} is not numeric: {str(error).splitlines()[0]}.") from None
