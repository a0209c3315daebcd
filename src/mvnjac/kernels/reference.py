"""What the kernels compute, in plain torch: to be read, and to be compared with. Neither is written for speed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """Which outer products are packed, and how.

        Gᵢⱼ = coefficient · (leftᵢ rightⱼ, + rightᵢ leftⱼ if `both`), times `diagonal`ᵢ where i = j, if that is given

    Attributes:
        coefficient: one number for all entries.
        both: the transpose is added.
        mirrored: the matrix is symmetric, so that an element off the diagonal counts twice.
        strict: the diagonal is no parameter and is left out.
    """

    coefficient: float = 1.0
    both: bool = False
    mirrored: bool = True
    strict: bool = False

    def size(self, d: int) -> int:
        """The number of unique elements of a d×d matrix."""
        return d * (d - 1) // 2 if self.strict else d * (d + 1) // 2


class Patterns(NamedTuple):
    """Which of the offsets a row takes, and what its missing entries set to 0.

    pattern (n,) int64: the row of the offsets (P, p). observed (n, d) bool. by_row, by_column: whether the element i, j is 0
    where variable i, or j, is missing; where all are, it is 0 anyway.
    """

    pattern: Tensor
    observed: Tensor
    by_row: bool
    by_column: bool


class Gaussians(NamedTuple):
    """What `small_gaussians` gives; NaN throughout where info is not 0.

    log_prob (B,); scaled (B, d): a = Σ⁻¹(x − µ); gradient (B, d, d): ½ (a aᵀ − Σ⁻¹), symmetric to the last bit, or None; info
    (B,) int32: 0, or the order of the first leading minor of Σ that is not positive, or −1 where the numbers were looked at and Σ
    is not symmetric, or log p not finite.
    """

    log_prob: Tensor
    scaled: Tensor
    gradient: Tensor | None
    info: Tensor


def packed(
    left: Tensor,
    right: Tensor,
    offset: Tensor,
    out: Tensor,
    form: Form,
    diagonal: Tensor | None = None,
    patterns: Patterns | None = None,
) -> Tensor:
    """The unique elements of n outer products plus an offset: the lower triangle, column after column.

        out[n, k(i, j)] = m Gᵢⱼ + offset[k],        m = 2 off the diagonal of a mirrored matrix, else 1

    Args:
        left: (n, d).
        right: (n, d).
        offset: (p,), shared by the rows; or (n, p); or (P, p) with `patterns`. Already packed: what is to be doubled is doubled.
        out: (n, p) with any stride between rows; nothing beside its elements is written.
        form: which products.
        diagonal: (d,) or (n, d).
        patterns: of rows with missing entries.

    Returns:
        out.

    Example:
        >>> import torch
        >>> a = torch.tensor([[1.0, 2.0]])
        >>> packed(a, a, torch.zeros(3), torch.empty(1, 3), Form(coefficient=0.5))
        tensor([[0.5000, 2.0000, 2.0000]])
    """
    d = left.shape[-1]
    columns, rows = torch.triu_indices(d, d, 1 if form.strict else 0, device=left.device)
    product = form.coefficient * left[:, rows] * right[:, columns]
    if form.both:
        product = product + form.coefficient * right[:, rows] * left[:, columns]
    if form.mirrored:
        product = torch.where(rows == columns, product, 2 * product)
    if diagonal is not None:
        product = torch.where(rows == columns, product * diagonal[..., rows], product)
    if patterns is None:
        return out.copy_(product + offset)
    observed = patterns.observed
    kept = observed.any(-1, keepdim=True)
    if patterns.by_row:
        kept = kept & observed[:, rows]
    if patterns.by_column:
        kept = kept & observed[:, columns]
    return out.copy_((product + offset[patterns.pattern]) * kept)


def small_gaussians(
    x: Tensor, mean: Tensor, covariance: Tensor, *, gradient: bool = True, symmetry: float | None = None
) -> Gaussians:
    """Value and gradients of many Gaussians, each with a covariance of its own.

        Σ = L Lᵀ    C = L⁻¹    z = L⁻¹ (x − µ)    log p = −½ (d log 2π + ‖z‖²) − Σᵢ log Lᵢᵢ    a = Cᵀ z    ½ (a aᵀ − Cᵀ C)

    ∂ log p / ∂x = −a, ∂ log p / ∂µ = a, ∂ log p / ∂Σ = ½ (a aᵀ − Σ⁻¹) (Magnus & Neudecker, *Matrix Differential Calculus*).

    Args:
        x: (B, d).
        mean: (B, d), in units of x.
        covariance: (B, d, d); the lower triangle is read.
        gradient: form that by Σ.
        symmetry: look at the numbers: |Σᵢⱼ − Σⱼᵢ| ≤ symmetry · √(Σᵢᵢ Σⱼⱼ), and log p finite.

    Returns:
        `Gaussians`. Errors are data: nothing raises, nothing is waited for.

    Example:
        >>> import torch
        >>> values = small_gaussians(torch.ones(1, 2), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
        >>> values.log_prob, values.info
        (tensor([-2.8379]), tensor([0], dtype=torch.int32))
        >>> values.gradient
        tensor([[[0.0000, 0.5000],
                 [0.5000, 0.0000]]])
    """
    d = x.shape[-1]
    L, info = torch.linalg.cholesky_ex(covariance)
    L = torch.where((info == 0)[:, None, None], L, torch.nan)
    z = torch.linalg.solve_triangular(L, (x - mean).unsqueeze(-1), upper=False)
    C = torch.linalg.solve_triangular(L, torch.eye(d, dtype=L.dtype, device=L.device).expand_as(L), upper=False)
    squares = (z * z).sum((-2, -1))
    log_prob = -0.5 * (d * math.log(2 * math.pi) + squares) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    a = (C.mT @ z).squeeze(-1)
    precision = C.mT @ C
    by_matrix = 0.5 * (a.unsqueeze(-1) * a.unsqueeze(-2) - 0.5 * (precision + precision.mT)) if gradient else None
    if symmetry is None:
        return Gaussians(log_prob, a, by_matrix, info)
    scale = covariance.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    symmetric = (covariance - covariance.mT).abs() <= symmetry * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    strange = (info == 0) & ~(symmetric.all(-1).all(-1) & log_prob.isfinite())
    info = torch.where(strange, -1, info)
    log_prob = torch.where(strange, torch.nan, log_prob)
    a = torch.where(strange[:, None], torch.nan, a)
    by_matrix = None if by_matrix is None else torch.where(strange[:, None, None], torch.nan, by_matrix)
    return Gaussians(log_prob, a, by_matrix, info)
