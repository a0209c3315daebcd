"""The information and the Hessian by the mean and Σ, entry by entry: pairs of unique elements, no Kronecker product.

For unique elements (i,j) and (k,l), with multiplicities m (1 on the diagonal, 2 off it), the matrix Dᵀ (A ⊗ B) D made symmetric
has the entries ¼ m_ij m_kl (A_ik B_jl + A_il B_jk + A_jk B_il + A_jl B_ik).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Size, Tensor

from mvnjac.coordinates import symmetric
from mvnjac.covariance.factor import DenseFactor
from mvnjac.whitened import Sums

Pair = tuple[Tensor, Tensor]
#: (rows, columns, weights) → that block of the part by Σ
ByMatrix = Callable[[Pair, Pair, Tensor], Tensor]

#: rows of the p×p matrix that are formed at a time: the temporaries stay small beside it
_ROWS = 512


def fisher_matrix(factor: DenseFactor, batch: Size) -> Tensor:
    """(*batch, p, p) P, and ½ Dᵀ (P ⊗ P) D."""
    P = factor.precision_matrix
    P = P.expand((*batch, *P.shape[-2:]))
    return _assembled(P, None, lambda rows, columns, weight: 0.5 * weight * (_pair(P, P, rows, columns)))


def fisher_inverse_diagonal(factor: DenseFactor, batch: Size) -> Tensor:
    """(*batch, p) σ_ii, and σ_ii σ_jj + σ_ij²."""
    sigma = factor.covariance_matrix
    variances = sigma.diagonal(dim1=-2, dim2=-1)
    products = variances.unsqueeze(-1) * variances.unsqueeze(-2) + sigma * sigma
    packed = torch.cat([variances, symmetric(sigma.shape[-1]).pack(products)], -1)
    return packed.expand((*batch, packed.shape[-1]))


def hessian_matrix(factor: DenseFactor, sums: Sums) -> Tensor:
    """(*own, p, p) −n P, −Dᵀ (s ⊗ P), and −½ Dᵀ (P ⊗ Q) D with s and Q summed over the rows."""
    P = factor.precision_matrix
    identity = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    n = sums.count[..., None, None]
    Q = factor.unwhiten_gradient(2 * sums.second - n * identity)
    Q = 0.5 * (Q + Q.mT)
    P = P.expand(Q.shape)
    s = factor.up(sums.first.unsqueeze(-1)).squeeze(-1)
    return _assembled(
        -n * P,
        (s, P),
        lambda rows, columns, weight: -0.25 * weight * (_pair(P, Q, rows, columns) + _pair(Q, P, rows, columns)),
    )


def _pair(A: Tensor, B: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
    """½ (A_ik B_jl + A_il B_jk), by rows (i, j) and columns (k, l)."""
    (i, j), (k, l) = rows, columns  # noqa: E741
    return 0.5 * (A[..., i[:, None], k] * B[..., j[:, None], l] + A[..., i[:, None], l] * B[..., j[:, None], k])


def _assembled(by_mean: Tensor, cross: tuple[Tensor, Tensor] | None, by_matrix: ByMatrix) -> Tensor:
    d = by_mean.shape[-1]
    kind = symmetric(d)
    positions = kind.positions(by_mean.device)
    multiplicity = kind.multiplicity(positions)
    assert multiplicity is not None
    weight = multiplicity.to(by_mean.dtype)
    i, j = positions // d, positions % d
    p = d + kind.size
    full = by_mean.new_zeros(*by_mean.shape[:-2], p, p)
    full[..., :d, :d] = by_mean
    if cross is not None:
        s, P = cross
        block = -0.5 * weight[:, None] * (s[..., i, None] * P[..., j, :] + s[..., j, None] * P[..., i, :])
        full[..., d:, :d] = block
        full[..., :d, d:] = block.mT
    for first in range(0, kind.size, _ROWS):
        at = slice(first, first + _ROWS)
        full[..., d + first : d + first + len(i[at]), d:] = by_matrix((i[at], j[at]), (i, j), weight[at, None] * weight)
    return full
