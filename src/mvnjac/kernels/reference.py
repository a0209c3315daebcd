"""What the kernels compute, in plain torch: their specification and the reference in tests; not written for speed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """Which entries of outer products are packed, and with which factors.

        Gᵢⱼ = coefficient · (leftᵢ rightⱼ, + rightᵢ leftⱼ if `both`), times `diagonal`ᵢ for i = j, if given

    Attributes:
        coefficient: a factor of all entries.
        both: whether the transpose is added.
        mirrored: whether the matrix is symmetric, so that off-diagonal elements count twice.
        strict: whether the diagonal is excluded (it is not a parameter).
    """

    coefficient: float = 1.0
    both: bool = False
    mirrored: bool = True
    strict: bool = False

    def size(self, d: int) -> int:
        """The number of unique elements of a d×d matrix."""
        return d * (d - 1) // 2 if self.strict else d * (d + 1) // 2


class Patterns(NamedTuple):
    """Rows with missing entries: the offset of each row, and the elements that are 0.

    Attributes:
        pattern: (n,) int64, the index of each row's pattern in the offsets (P, p).
        observed: (n, d) bool.
        by_row: whether element i, j is 0 if variable i is missing; all elements of a row without observed entries are 0.
        by_column: whether element i, j is 0 if variable j is missing.
    """

    pattern: Tensor
    observed: Tensor
    by_row: bool
    by_column: bool


@dataclass(frozen=True)
class PackedProduct:
    """The operands of the packed derivative with respect to a matrix: unique elements of n outer products plus an offset.

        out[n, k(i, j)] = m Gᵢⱼ + offset[k],        m = 2 off the diagonal of a mirrored matrix, else 1

    k runs over the lower triangle, column by column; `Form` defines G.

    Attributes:
        left: (n, d).
        right: (n, d).
        offset: (p,), shared by the rows; or (n, p); or (P, p) with `patterns`. It is packed, multiplicities included.
        out: (n, p), the result, with any stride between rows; only its elements are written.
        form: which products.
        diagonal: (d,) or (n, d).
        patterns: for rows with missing entries.
    """

    left: Tensor
    right: Tensor
    offset: Tensor
    out: Tensor
    form: Form
    diagonal: Tensor | None = None
    patterns: Patterns | None = None


class Gaussians(NamedTuple):
    """The results of `small_gaussians`; NaN for Gaussians with nonzero info.

    Attributes:
        log_prob: (B,).
        scaled: (B, d), a = Σ⁻¹(x − µ).
        gradient: (B, d, d), ½ (a aᵀ − Σ⁻¹), exactly symmetric; or None.
        info: (B,) int32, 0 for success, or the order of the first leading minor of Σ that is not positive; with checks, −1 if
            Σ is not symmetric or log p is not finite.
    """

    log_prob: Tensor
    scaled: Tensor
    gradient: Tensor | None
    info: Tensor


def packed(operands: PackedProduct) -> Tensor:
    """Evaluate a `PackedProduct` into `operands.out`, which is returned.

    Example:
        >>> import torch
        >>> a = torch.tensor([[1.0, 2.0]])
        >>> packed(PackedProduct(a, a, torch.zeros(3), torch.empty(1, 3), Form(coefficient=0.5)))
        tensor([[0.5000, 2.0000, 2.0000]])
    """
    left, right, form, patterns = operands.left, operands.right, operands.form, operands.patterns
    d = left.shape[-1]
    columns, rows = torch.triu_indices(d, d, 1 if form.strict else 0, device=left.device)
    product = form.coefficient * left[:, rows] * right[:, columns]
    if form.both:
        product = product + form.coefficient * right[:, rows] * left[:, columns]
    if form.mirrored:
        product = torch.where(rows == columns, product, 2 * product)
    if operands.diagonal is not None:
        product = torch.where(rows == columns, product * operands.diagonal[..., rows], product)
    if patterns is None:
        return operands.out.copy_(product + operands.offset)
    observed = patterns.observed
    nonzero = observed.any(-1, keepdim=True)
    if patterns.by_row:
        nonzero = nonzero & observed[:, rows]
    if patterns.by_column:
        nonzero = nonzero & observed[:, columns]
    return operands.out.copy_((product + operands.offset[patterns.pattern]) * nonzero)


def small_gaussians(
    x: Tensor, mean: Tensor, covariance: Tensor, *, gradient: bool = True, symmetry: float | None = None
) -> Gaussians:
    """Log-densities and gradients of a batch of Gaussians, one row and one covariance each.

        Σ = L Lᵀ    C = L⁻¹    z = L⁻¹ (x − µ)    log p = −½ (d log 2π + ‖z‖²) − Σᵢ log Lᵢᵢ    a = Cᵀ z    ½ (a aᵀ − Cᵀ C)

    ∂ log p / ∂x = −a, ∂ log p / ∂µ = a, ∂ log p / ∂Σ = ½ (a aᵀ − Σ⁻¹) (Magnus & Neudecker, *Matrix Differential Calculus*).

    Args:
        x: (B, d).
        mean: (B, d), in units of x.
        covariance: (B, d, d); the lower triangle is read.
        gradient: whether to form the gradient with respect to Σ.
        symmetry: check that |Σᵢⱼ − Σⱼᵢ| ≤ symmetry · √(Σᵢᵢ Σⱼⱼ) and that log p is finite; None omits both checks.

    Returns:
        `Gaussians`. Errors are reported in `info`: nothing is raised, and no device is synchronised.

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
    gradient_sigma = 0.5 * (a.unsqueeze(-1) * a.unsqueeze(-2) - 0.5 * (precision + precision.mT)) if gradient else None
    if symmetry is None:
        return Gaussians(log_prob, a, gradient_sigma, info)
    scale = covariance.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    symmetric = (covariance - covariance.mT).abs() <= symmetry * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    invalid = (info == 0) & ~(symmetric.all(-1).all(-1) & log_prob.isfinite())
    info = torch.where(invalid, -1, info)
    log_prob = torch.where(invalid, torch.nan, log_prob)
    a = torch.where(invalid[:, None], torch.nan, a)
    gradient_sigma = None if gradient_sigma is None else torch.where(invalid[:, None, None], torch.nan, gradient_sigma)
    return Gaussians(log_prob, a, gradient_sigma, info)
