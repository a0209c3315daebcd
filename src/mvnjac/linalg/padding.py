"""Padding that also supports empty results."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad(t: Tensor, amounts: Sequence[int], value: float = 0.0) -> Tensor:
    """`torch.nn.functional.pad` with a constant value, also for empty results, which torch 2.8 does not support.

    amounts: before and after each dimension, starting with the last; negative amounts crop.
    """
    shape = list(t.shape)
    for i in range(len(amounts) // 2):
        shape[-1 - i] += amounts[2 * i] + amounts[2 * i + 1]
    if 0 in shape:
        return t.new_zeros(shape) + t.sum()  # depends on t, so that it is part of its autograd graph
    return torch.nn.functional.pad(t, tuple(amounts), value=value)
