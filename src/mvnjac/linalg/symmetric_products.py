"""Matrix products that the BLAS behind torch offers only in a general, twice as expensive form."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.kernels import cpu
from mvnjac.tensors.tracing import is_on_host, is_traced

_BLOCK = 256  # columns: large enough for gemm's full speed, small enough that little of the upper half is computed


def add_symmetric_product(total: Tensor, A: Tensor, weights: Tensor | None = None) -> Tensor:
    """total + Aᵀ diag(w) A, (..., p, p), symmetric to the last bit: A (..., N, p), weights (..., N).

    Only the blocks on and below the diagonal are computed; the rest is mirrored. Where nothing watches, `total` is changed in
    place, and no second p×p is needed.
    """
    p = A.shape[-1]
    watched = is_traced(total, A) or (weights is not None and is_traced(weights))
    if not watched and cpu.outer_products(A, weights, total):
        return total
    B = A if weights is None else A * weights.unsqueeze(-1)
    if watched:
        product = A.mT @ B
        return total + 0.5 * (product + product.mT)
    block = _BLOCK if p > 2 * _BLOCK else _BLOCK // 2
    for first in range(0, p, block):
        last = min(first + block, p)
        panel = A[..., first:].mT @ B[..., first:last]
        square = panel[..., : last - first, :]
        total[..., first:last, first:last] += 0.5 * (square + square.mT)
        below = panel[..., last - first :, :]
        total[..., last:, first:last] += below
        total[..., first:last, last:] += below.mT
    return total


def rows_times(rows: Tensor, A: Tensor) -> Tensor:
    """rows A, (..., N, k) for A (..., m, k); of one column by multiplication: autograd's own vmap drops it from a product."""
    return rows * A if A.shape[-2:] == (1, 1) else rows @ A


def symmetrised(A: Tensor) -> Tensor:
    """½(A + Aᵀ), symmetric to the last bit: (..., d, d). A itself is changed where nothing watches."""
    d = A.shape[-1]
    if is_traced(A) or d <= _BLOCK:
        return 0.5 * (A + A.mT)
    if cpu.equals_transpose(A):
        return A
    for first in range(0, d, _BLOCK):  # block by block, so that both halves are in the cache
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
