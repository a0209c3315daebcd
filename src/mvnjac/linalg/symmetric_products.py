"""Products of matrices and symmetric results; torch offers symmetric products (BLAS syrk) only at twice the cost."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.kernels import cpu
from mvnjac.tensors.tracing import is_on_host, is_traced

_BLOCK = (
    256  # columns per block: large enough for the full speed of gemm, small enough that little above the diagonal is computed
)


def matvec(A: Tensor, v: Tensor) -> Tensor:
    """A v: A (..., m, k), v (..., k)."""
    return (A @ v.unsqueeze(-1)).squeeze(-1)


def symmetrize(A: Tensor) -> Tensor:
    """½ (A + Aᵀ), exactly symmetric: A (..., d, d)."""
    return 0.5 * (A + A.mT)


def add_symmetric_product(total: Tensor, A: Tensor, weights: Tensor | None = None) -> Tensor:
    """total + Aᵀ diag(w) A, (..., p, p), exactly symmetric: A (..., N, p), weights (..., N).

    Only the blocks on and below the diagonal are computed and then mirrored. `total` is changed in place unless an autograd
    graph, transform or compiler is active, so that no second p×p array is needed.
    """
    p = A.shape[-1]
    traced = is_traced(total, A) or (weights is not None and is_traced(weights))
    if not traced and cpu.outer_products(A, weights, total):
        return total
    B = A if weights is None else A * weights.unsqueeze(-1)
    if traced:
        return total + symmetrize(A.mT @ B)
    block = _BLOCK if p > 2 * _BLOCK else _BLOCK // 2
    for first in range(0, p, block):
        last = min(first + block, p)
        panel = A[..., first:].mT @ B[..., first:last]
        total[..., first:last, first:last] += symmetrize(panel[..., : last - first, :])
        below = panel[..., last - first :, :]
        total[..., last:, first:last] += below
        total[..., first:last, last:] += below.mT
    return total


def rows_times(rows: Tensor, A: Tensor) -> Tensor:
    """rows A, (..., N, k) for A (..., m, k); elementwise for 1×1 matrices, where autograd's internal vmap drops a dimension."""
    return rows * A if A.shape[-2:] == (1, 1) else rows @ A


def symmetrised(A: Tensor) -> Tensor:
    """½ (A + Aᵀ), exactly symmetric: A (..., d, d), which may be changed in place unless it is traced."""
    d = A.shape[-1]
    if is_traced(A) or d <= _BLOCK:
        return symmetrize(A)
    if cpu.equals_transpose(A):
        return A
    for first in range(0, d, _BLOCK):  # by blocks that fit in the cache with their transposed blocks
        last = min(first + _BLOCK, d)
        for left in range(0, last, _BLOCK):
            right = min(left + _BLOCK, d)
            below, above = A[..., first:last, left:right], A[..., left:right, first:last]
            if is_on_host(A) and torch.equal(below, above.mT):
                continue
            mean = 0.5 * (below + above.mT)
            below.copy_(mean)
            above.copy_(mean.mT)
    return A
