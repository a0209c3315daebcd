"""The information and the Hessian by the mean and Σ, entry by entry: pairs of unique elements, no Kronecker product.

For unique elements (i,j) and (k,l), with multiplicities m (1 on the diagonal, 2 off it), the matrix Dᵀ (A ⊗ B) D made symmetric
has the entries ¼ m_ij m_kl (A_ik B_jl + A_il B_jk + A_jk B_il + A_jl B_ik).
"""

from __future__ import annotations

import torch
from torch import Size, Tensor

from mvnjac.kernels import cpu
from mvnjac.parameters.coordinates import symmetric
from mvnjac.tensors.tracing import constant_size, is_traced
from mvnjac.whitening.factor import DenseFactor
from mvnjac.whitening.sums import WhitenedMoments

Pair = tuple[Tensor, Tensor]
#: rows of the p×p matrix that are formed at a time: the temporaries stay small beside it
_ROWS = 512


def fisher_matrix(factor: DenseFactor, batch: Size) -> Tensor:
    """(*batch, p, p) P, and ½ Dᵀ (P ⊗ P) D."""
    P = factor.precision_matrix
    P = P.expand((*batch, *P.shape[-2:]))
    return _assembled(P, None, (P, P), 0.5)


def fisher_inverse_diagonal(factor: DenseFactor, batch: Size) -> Tensor:
    """(*batch, p) σ_ii, and σ_ii σ_jj + σ_ij²."""
    sigma = factor.covariance_matrix
    variances = sigma.diagonal(dim1=-2, dim2=-1)
    products = variances.unsqueeze(-1) * variances.unsqueeze(-2) + sigma * sigma
    packed = torch.cat([variances, symmetric(constant_size(sigma)).pack(products)], -1)
    return packed.expand((*batch, packed.shape[-1]))


def hessian_matrix(factor: DenseFactor, sums: WhitenedMoments) -> Tensor:
    """(*param_batch, p, p) −n P, −Dᵀ (s ⊗ P), and −½ Dᵀ (P ⊗ Q) D with s and Q summed over the rows."""
    whole = (
        None
        if is_traced(*factor.tensors(), sums.second)
        else cpu.hessian(factor.scale_tril, sums.first, sums.second, sums.count)
    )
    if whole is not None:
        return whole
    P = factor.precision_matrix
    identity = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    n = sums.count[..., None, None]
    Q = factor.unwhiten_gradient(2 * sums.second - n * identity)
    Q = 0.5 * (Q + Q.mT)
    P = P.expand(Q.shape)
    s = factor.solve_triangular(sums.first.unsqueeze(-1), transpose=True).squeeze(-1)
    return _assembled(-n * P, (s, P), (P, Q), -0.5)


def elements(d: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(q,) row and column of each unique element of Σ (d, d), and of how many entries it is the value."""
    kind = symmetric(d)
    positions = kind.positions(like.device)
    multiplicity = kind.multiplicity(positions)
    assert multiplicity is not None
    return positions // d, positions % d, multiplicity.to(like.dtype)


def joined(by_mean: Tensor, cross: Tensor | None) -> Tensor:
    """(*batch, d + q, d + q) of the blocks by the mean (*batch, d, d) and by both (*batch, q, d), if any; that by Σ is 0."""
    d = constant_size(by_mean)
    p = d + symmetric(d).size
    full = by_mean.new_zeros(*by_mean.shape[:-2], p, p)
    full[..., :d, :d] = by_mean
    if cross is not None:
        full[..., d:, :d] = cross
        full[..., :d, d:] = cross.mT
    return full


def _assembled(by_mean: Tensor, cross: Pair | None, by_matrix: Pair, coefficient: float) -> Tensor:
    """The block by the mean, that by both, −½ m (s_i P_jk + s_j P_ik), and coefficient · Dᵀ (A ⊗ B) D made symmetric."""
    d = constant_size(by_mean)
    i, j, weight = elements(d, by_mean)
    block = None
    if cross is not None:
        s, P = cross
        block = -0.5 * weight[:, None] * (s[..., i, None] * P[..., j, :] + s[..., j, None] * P[..., i, :])
    full = joined(by_mean, block)
    A, B = by_matrix
    if not cpu.pairs(A, B, coefficient, full[..., d:, d:]):
        _write_pairs(A, B, coefficient * weight, (i, j), weight, full[..., d:, d:])
    return full


def _write_pairs(A: Tensor, B: Tensor, factor: Tensor, at: Pair, weight: Tensor, out: Tensor) -> None:
    """factor_ij m_kl ¼ (A_ik B_jl + A_il B_jk + A_jk B_il + A_jl B_ik), some rows (i, j) at a time."""
    for first in range(0, len(weight), _ROWS):
        some = slice(first, first + _ROWS)
        i, j = at[0][some, None], at[1][some, None]
        k, l = at  # noqa: E741
        total = A[..., i, k] * B[..., j, l] + A[..., i, l] * B[..., j, k]
        total = 2 * total if A is B else total + B[..., i, k] * A[..., j, l] + B[..., i, l] * A[..., j, k]
        out[..., some, :] = 0.25 * factor[some, None] * weight * total
