"""Cholesky factors, triangular solves, and the triangles of symmetric matrices.

Differentiable code uses only `cholesky_ex` and `solve_triangular`: in torch 2.13 forward-mode derivatives of
`cholesky_inverse` and `cholesky_solve` are wrong, without an error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.linalg.symmetric_products import symmetrize
from mvnjac.tensors.tracing import is_concrete, is_on_host, is_traced, nan_where


def cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """L with A = L Lᵀ, and LAPACK's info (*batch); on failure L is NaN and nothing is raised. Reads the lower triangle."""
    factor, info = torch.linalg.cholesky_ex(A)
    if is_concrete(info) and is_on_host(info) and not info.any():
        return factor, info
    return factor * nan_where(info != 0, factor.dtype)[..., None, None], info


def flipped_cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """U upper triangular with A = U Uᵀ, and info, which counts variables from the last one backwards."""
    factor, info = cholesky(A.flip(-2, -1))
    return factor.flip(-2, -1), info


def inverse_triangle(triangle: Tensor) -> Tensor:
    """The inverse of a lower triangle."""
    identity = torch.eye(triangle.shape[-1], dtype=triangle.dtype, device=triangle.device)
    return torch.linalg.solve_triangular(triangle, identity.expand_as(triangle), upper=False)


def solve_rows(rows: Tensor, triangle: Tensor, *, transposed: bool = False) -> Tensor:
    """L⁻¹ r, or L⁻ᵀ r, for each row r: rows (..., N, d), triangle L (..., d, d) lower."""
    if transposed:
        return torch.linalg.solve_triangular(triangle.mT, rows.mT, upper=True).mT
    return torch.linalg.solve_triangular(triangle, rows.mT, upper=False).mT


def solve_triangle(triangle: Tensor, X: Tensor, *, upper: bool) -> Tensor:
    """The triangular solve for X (..., d, k); for an unbatched triangle with all columns of all X in one solve."""
    if triangle.ndim > 2 or X.ndim == 2:
        return torch.linalg.solve_triangular(triangle, X, upper=upper)
    columns = X.movedim(-2, 0)
    return torch.linalg.solve_triangular(triangle, columns.flatten(1), upper=upper).reshape(columns.shape).movedim(0, -2)


def halved(A: Tensor) -> Tensor:
    """Φ(A): the lower triangle with half of the diagonal, so that Φ(A) + Φ(A)ᵀ = A for symmetric A."""
    return A.tril() - 0.5 * torch.diag_embed(A.diagonal(dim1=-2, dim2=-1))


def twice_symmetric(A: Tensor) -> Tensor:
    """A + Aᵀ."""
    return A + A.mT


def symmetric_part(A: Tensor, *, upper: bool = False) -> Tensor:
    """A, or if traced, the matrix whose triangles both equal the factorised one, as a function of A with symmetric derivatives.

    upper: whether the upper triangle is factorised (`flipped_cholesky`), else the lower one.
    """
    if not is_traced(A):
        return A
    mean, values = symmetrize(A), A.detach()
    mirrored = values.triu() + values.triu(1).mT if upper else values.tril() + values.tril(-1).mT
    return mean + (mirrored - mean.detach())  # the second term is a constant of the size of rounding errors


def gram(A: Tensor) -> Tensor:
    """A Aᵀ, exactly symmetric."""
    return symmetrize(A @ A.mT)
