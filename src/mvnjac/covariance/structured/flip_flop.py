"""The matrix normal distribution by turns: A at a given B, B at a given A. Where the search for the maximum of `Kronecker` starts.

Source: Dutilleul 1999, *The MLE algorithm for the matrix normal distribution*.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, NotPositiveDefiniteError, ShapeError, counted
from mvnjac.linalg.triangular import cholesky, solve_rows
from mvnjac.statistics.sufficient import SufficientStatistics

#: turns: each multiplies the distance from the maximum by a factor below 1
_TURNS = 5


def sides(option: str | None) -> tuple[int, int]:
    """(m, q) of "3x4"."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", option or "")
    if match is None:
        raise ArgumentError(f"fit: the structure kronecker:{option} needs its rows and columns, as in kronecker:3x4.")
    return int(match[1]), int(match[2])


def require_rows(sample: SufficientStatistics, m: int, q: int) -> None:
    """Each side is estimated from the rows times the other side.

    Raises:
        ShapeError: the variables are no m × q.
        NotPositiveDefiniteError: there are too few rows: the likelihood has no maximum.
    """
    if m * q != sample.d:
        raise ShapeError(f"{sample.name}: {m} × {q} are {m * q} variables, but x has {sample.d} columns: choose as many.")
    least = max(-(-m // q), -(-q // m)) + 1
    if sample.count < least:
        raise NotPositiveDefiniteError(
            f"{sample.name}: {counted(sample.count, 'row')} for matrices of {m} × {q}: the likelihood has no maximum; "
            f"use at least {counted(least, 'row')}."
        )


def starting_values(sample: SufficientStatistics, m: int, q: int) -> tuple[Tensor, Tensor]:
    """(A, B) after some turns from A = I; missing entries are as at their mean."""
    X = sample.scaled_rows.reshape(-1, m, q)
    A = torch.eye(m, dtype=X.dtype, device=X.device)
    B = torch.eye(q, dtype=X.dtype, device=X.device)
    for _ in range(_TURNS):
        B = _side(X.mT, A) / m
        A = _side(X, B) / q
    return A, B


def _side(X: Tensor, other: Tensor) -> Tensor:
    """Σ X other⁻¹ Xᵀ over matrices X (N, m, q), other (q, q)."""
    root, _ = cholesky(other)  # NaN, where there is none: what comes of it is refused with its name
    Z = solve_rows(X.reshape(-1, X.shape[-1]), root).reshape(X.shape).transpose(0, 1).flatten(1)
    return Z @ Z.mT
