"""Padding of the last dimensions, empty ones among them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad(t: Tensor, amounts: Sequence[int], value: float = 0.0) -> Tensor:
    """`torch.nn.functional.pad` by a constant, also where the result has no entries, which torch 2.8 refuses.

    amounts: before and after, from the last dimension on; negative ones cut.
    """
    shape = list(t.shape)
    for i in range(len(amounts) // 2):
        shape[-1 - i] += amounts[2 * i] + amounts[2 * i + 1]
    if 0 in shape:
        return t.new_zeros(shape) + t.sum()  # a function of t, as its graph must have it
    return torch.nn.functional.pad(t, tuple(amounts), value=value)
