"""Cholesky factors, triangular solves, and the triangles of symmetric matrices.

Only `cholesky_ex` and `solve_triangular` are used where a derivative is watched: in torch 2.13 forward mode through
`cholesky_inverse` and `cholesky_solve` is wrong without an error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.tensors.tracing import is_concrete, is_on_host, is_traced, nan_where


def cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """L with A = L Lᵀ, and info (*batch); L is NaN where there is none. Reads the lower triangle, never raises."""
    factor, info = torch.linalg.cholesky_ex(A)
    if is_concrete(info) and is_on_host(info) and not info.any():
        return factor, info
    return factor * nan_where(info != 0, factor.dtype)[..., None, None], info


def flipped_cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """U upper triangular with A = U Uᵀ, and info counted from the last variable backwards."""
    factor, info = cholesky(A.flip(-2, -1))
    return factor.flip(-2, -1), info


def inverse_triangle(triangle: Tensor) -> Tensor:
    """The inverse of a lower triangle."""
    identity = torch.eye(triangle.shape[-1], dtype=triangle.dtype, device=triangle.device)
    return torch.linalg.solve_triangular(triangle, identity.expand_as(triangle), upper=False)


def solve_rows(rows: Tensor, triangle: Tensor, *, transposed: bool = False) -> Tensor:
    """Each row r → L⁻¹ r, or L⁻ᵀ r: rows (..., N, d), triangle (..., d, d) lower."""
    if transposed:
        return torch.linalg.solve_triangular(triangle.mT, rows.mT, upper=True).mT
    return torch.linalg.solve_triangular(triangle, rows.mT, upper=False).mT


def solve_triangle(triangle: Tensor, X: Tensor, *, upper: bool) -> Tensor:
    """A triangle, or many, against X (..., d, k): one triangle meets all columns of all X at once."""
    if triangle.ndim > 2 or X.ndim == 2:
        return torch.linalg.solve_triangular(triangle, X, upper=upper)
    columns = X.movedim(-2, 0)
    return torch.linalg.solve_triangular(triangle, columns.flatten(1), upper=upper).reshape(columns.shape).movedim(0, -2)


def halved(A: Tensor) -> Tensor:
    """Φ(A): the lower triangle with half of the diagonal, so that Φ(A) + Φ(A)ᵀ = A where A is symmetric."""
    return A.tril() - 0.5 * torch.diag_embed(A.diagonal(dim1=-2, dim2=-1))


def twice_symmetric(A: Tensor) -> Tensor:
    """A + Aᵀ."""
    return A + A.mT


def symmetric_part(A: Tensor, *, upper: bool = False) -> Tensor:
    """A itself; where a derivative is watched, the triangle that is factorised and its mirror image, as a function of A whose
    cotangents and tangents are symmetric.

    upper: the upper triangle is factorised (`flipped_cholesky`), else the lower.
    """
    if not is_traced(A):
        return A
    half, given = 0.5 * (A + A.mT), A.detach()
    mirrored = given.triu() + given.triu(1).mT if upper else given.tril() + given.tril(-1).mT
    return half + (mirrored - half.detach())  # the bracket is rounding in A alone, and no function of it


def gram(A: Tensor) -> Tensor:
    """A Aᵀ, symmetric to the last bit."""
    product = A @ A.mT
    return 0.5 * (product + product.mT)
