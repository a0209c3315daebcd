"""The flip-flop algorithm for the matrix normal distribution, which alternates between A given B and B given A.

It gives the starting values of the search for the maximum of the likelihood of `Kronecker`.

Source: Dutilleul 1999, *The MLE algorithm for the matrix normal distribution*.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, NotPositiveDefiniteError, ShapeError, counted
from mvnjac.linalg.triangular import cholesky, solve_rows
from mvnjac.statistics.sufficient import SufficientStatistics

#: iterations; each multiplies the distance from the maximum by a factor below 1
_ITERATIONS = 5


def sides(option: str | None) -> tuple[int, int]:
    """(m, q) of "3x4"."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", option or "")
    if match is None:
        raise ArgumentError(
            f"fit: the structure kronecker:{option} needs its numbers of rows and columns, as in kronecker:3x4."
        )
    return int(match[1]), int(match[2])


def require_rows(sample: SufficientStatistics, m: int, q: int) -> None:
    """Raise if the sample does not determine a matrix normal distribution of m × q matrices.

    Raises:
        ShapeError: if the number of variables is not m · q.
        NotPositiveDefiniteError: if there are too few rows, so that the likelihood has no maximum.
    """
    if m * q != sample.d:
        raise ShapeError(
            f"{sample.name}: {m} × {q} are {m * q} variables, but x has {sample.d} columns; choose sides whose product is {sample.d}."
        )
    least = max(-(-m // q), -(-q // m)) + 1
    if sample.count < least:
        raise NotPositiveDefiniteError(
            f"{sample.name}: {counted(sample.count, 'row')} for matrices of {m} × {q}: the likelihood has no maximum; "
            f"use at least {counted(least, 'row')}."
        )


def starting_values(sample: SufficientStatistics, m: int, q: int) -> tuple[Tensor, Tensor]:
    """(A, B) after some iterations from A = I; missing entries are replaced by their mean."""
    X = sample.scaled_rows.reshape(-1, m, q)
    A = torch.eye(m, dtype=X.dtype, device=X.device)
    B = torch.eye(q, dtype=X.dtype, device=X.device)
    for _ in range(_ITERATIONS):
        B = _side(X.mT, A) / m
        A = _side(X, B) / q
    return A, B


def _side(X: Tensor, other: Tensor) -> Tensor:
    """The sum of X other⁻¹ Xᵀ over the matrices X (N, m, q); other is (q, q)."""
    root, _ = cholesky(other)  # NaN if it fails: the resulting parameters are refused by name
    Z = solve_rows(X.reshape(-1, X.shape[-1]), root).reshape(X.shape).transpose(0, 1).flatten(1)
    return Z @ Z.mT
