"""Matrix products that the BLAS behind torch offers only in a general, twice as expensive form."""

from __future__ import annotations

from torch import Tensor

from mvnjac.arithmetic import tracked

_BLOCK = 256  # columns: large enough for gemm's full speed, small enough that little of the upper half is computed


def add_symmetric_product(total: Tensor, A: Tensor, weights: Tensor | None = None) -> Tensor:
    """total + Aᵀ diag(w) A, (..., p, p), symmetric to the last bit: A (..., N, p), weights (..., N).

    Only the blocks on and below the diagonal are computed; the rest is mirrored. Where nothing watches, `total` is changed in
    place, and no second p×p is needed.
    """
    B = A if weights is None else A * weights.unsqueeze(-1)
    p = A.shape[-1]
    if tracked(total, A, B):
        product = A.mT @ B
        return total + 0.5 * (product + product.mT)
    for first in range(0, p, _BLOCK):
        last = min(first + _BLOCK, p)
        panel = A[..., first:].mT @ B[..., first:last]
        square = panel[..., : last - first, :]
        total[..., first:last, first:last] += 0.5 * (square + square.mT)
        below = panel[..., last - first :, :]
        total[..., last:, first:last] += below
        total[..., first:last, last:] += below.mT
    return total
