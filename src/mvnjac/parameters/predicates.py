"""Predicates of tensors, evaluated by a compiled kernel or block by block, without temporary arrays of the same size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvnjac.kernels import cpu
from mvnjac.tensors.tracing import is_on_host

#: side of the blocks, such that a block and its transposed block fit in the cache
_BLOCK = 128


def all_finite(value: Tensor) -> Tensor | bool:
    """Whether all values are finite. Without the kernel their sum is tested, which may also overflow for finite values."""
    known = cpu.finite(value.detach())
    if known is not None:
        return known
    total = value.detach().sum()
    return math.isfinite(total) if is_on_host(total) else torch.isfinite(total)


def equals_transpose(A: Tensor) -> bool:
    """Whether A (..., d, d) is exactly symmetric."""
    known = cpu.equals_transpose(A)
    if known is not None:
        return known
    return all(
        torch.equal(A[..., i : i + _BLOCK, j : j + _BLOCK], A[..., j : j + _BLOCK, i : i + _BLOCK].mT)
        for i in range(0, A.shape[-1], _BLOCK)
        for j in range(0, i + 1, _BLOCK)
    )


def is_lower_triangular(A: Tensor) -> bool:
    """Whether A (..., d, d) is zero above the diagonal and without NaN."""
    d = A.shape[-1]
    if d <= 2 * _BLOCK:
        return torch.equal(A, A.tril())
    for first in range(0, d, _BLOCK):
        rows = A[..., first : first + _BLOCK, :]
        inner, outer = rows[..., first : first + _BLOCK], rows[..., first + _BLOCK :]
        if not torch.equal(inner, inner.tril()) or bool((outer != 0).any()) or bool(rows[..., :first].sum().isnan()):
            return False
    return True
