"""The information and the Hessian with respect to the mean and Σ, entry by entry, without forming Kronecker products.

For unique elements (i,j) and (k,l), with multiplicities m (1 on the diagonal, 2 off it), the symmetric part of Dᵀ (A ⊗ B) D has
the entries ¼ m_ij m_kl (A_ik B_jl + A_il B_jk + A_jk B_il + A_jl B_ik).
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
#: rows of the p×p matrix that are formed at a time, so that temporary arrays stay small
_ROWS = 512


def fisher_matrix(factor: DenseFactor, batch: Size) -> Tensor:
    """(*batch, p, p) with the diagonal blocks P and ½ Dᵀ (P ⊗ P) D."""
    P = factor.precision_matrix
    P = P.expand((*batch, *P.shape[-2:]))
    return _assembled(P, None, (P, P), 0.5)


def fisher_inverse_diagonal(factor: DenseFactor, batch: Size) -> Tensor:
    """(*batch, p) the diagonal of the inverse information: σ_ii for the mean, σ_ii σ_jj + σ_ij² for Σ."""
    sigma = factor.covariance_matrix
    variances = sigma.diagonal(dim1=-2, dim2=-1)
    products = variances.unsqueeze(-1) * variances.unsqueeze(-2) + sigma * sigma
    packed = torch.cat([variances, symmetric(constant_size(sigma)).pack(products)], -1)
    return packed.expand((*batch, packed.shape[-1]))


def hessian_matrix(factor: DenseFactor, moments: WhitenedMoments) -> Tensor:
    """(*param_batch, p, p) with the blocks −n P, −Dᵀ (s ⊗ P) and −½ Dᵀ (P ⊗ Q) D, where s and Q are summed over the rows."""
    if not is_traced(*factor.tensors(), moments.second):
        matrix = cpu.hessian(factor.scale_tril, moments.first, moments.second, moments.count)
        if matrix is not None:
            return matrix
    P = factor.precision_matrix
    identity = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    n = moments.count[..., None, None]
    Q = factor.unwhiten_gradient(2 * moments.second - n * identity)
    Q = 0.5 * (Q + Q.mT)
    P = P.expand(Q.shape)
    s = factor.solve_triangular(moments.first.unsqueeze(-1), transpose=True).squeeze(-1)
    return _assembled(-n * P, (s, P), (P, Q), -0.5)


def elements(d: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(q,) the row, the column and the multiplicity of each unique element of Σ (d, d)."""
    kind = symmetric(d)
    positions = kind.positions(like.device)
    multiplicity = kind.multiplicity(positions)
    assert multiplicity is not None
    return positions // d, positions % d, multiplicity.to(like.dtype)


def joined(mean_block: Tensor, cross: Tensor | None) -> Tensor:
    """(*batch, d + q, d + q) from the blocks (*batch, d, d) of the mean and (*batch, q, d) of Σ and the mean; 0 for Σ."""
    d = constant_size(mean_block)
    p = d + symmetric(d).size
    full = mean_block.new_zeros(*mean_block.shape[:-2], p, p)
    full[..., :d, :d] = mean_block
    if cross is not None:
        full[..., d:, :d] = cross
        full[..., :d, d:] = cross.mT
    return full


def _assembled(mean_block: Tensor, cross: Pair | None, kronecker: Pair, coefficient: float) -> Tensor:
    """With cross = (s, P) the block −½ m (s_i P_jk + s_j P_ik), and for Σ the symmetric part of coefficient · Dᵀ (A ⊗ B) D."""
    d = constant_size(mean_block)
    i, j, weight = elements(d, mean_block)
    block = None
    if cross is not None:
        s, P = cross
        block = -0.5 * weight[:, None] * (s[..., i, None] * P[..., j, :] + s[..., j, None] * P[..., i, :])
    full = joined(mean_block, block)
    A, B = kronecker
    if not cpu.pairs(A, B, coefficient, full[..., d:, d:]):
        _write_pairs(A, B, coefficient * weight, (i, j), weight, full[..., d:, d:])
    return full


def _write_pairs(A: Tensor, B: Tensor, factor: Tensor, at: Pair, weight: Tensor, out: Tensor) -> None:
    """Write factor_ij m_kl ¼ (A_ik B_jl + A_il B_jk + A_jk B_il + A_jl B_ik) into out, in chunks of rows (i, j)."""
    for first in range(0, len(weight), _ROWS):
        chunk = slice(first, first + _ROWS)
        i, j = at[0][chunk, None], at[1][chunk, None]
        k, l = at  # noqa: E741
        total = A[..., i, k] * B[..., j, l] + A[..., i, l] * B[..., j, k]
        total = 2 * total if A is B else total + B[..., i, k] * A[..., j, l] + B[..., i, l] * A[..., j, k]
        out[..., chunk, :] = 0.25 * factor[chunk, None] * weight * total
