"""Mahalanobis distances of the rows, and the quantiles that they have under the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.score.jacobian import Jacobian

#: a row is extraordinary if a distance like its own has at most this probability under the model
EXTRAORDINARY = 0.001
#: the most extraordinary rows in the table
TOP = 15
#: steps of Newton's method; a dozen suffice
_STEPS = 25


@dataclass(frozen=True)
class ExtraordinaryRow:
    """A row with a large distance.

    Attributes:
        label: of the row.
        distance: the squared Mahalanobis distance (x − µ)ᵀ Σ⁻¹ (x − µ) of the observed entries.
        observed: the number of observed entries k; under the model the distance has a χ²_k distribution.
        p_value: P(χ²_k > distance).
    """

    label: Any
    distance: float
    observed: int
    p_value: float


@dataclass(frozen=True)
class Distances:
    """Squared Mahalanobis distances, in ascending order, without rows that have no entry.

    Attributes:
        labels: of the rows, in this order.
        observed: as χ²_d: rows with fewer than d observed entries have the quantile with the same normal score, in the
            approximation of Wilson and Hilferty.
        expected: the χ²_d quantiles (i − ½)/n.
        beyond: the number of rows whose p-value is at most `EXTRAORDINARY`.
        top: the most extraordinary rows, in descending order.
    """

    labels: list[Any]
    observed: list[float]
    expected: list[float]
    beyond: int
    top: list[ExtraordinaryRow]


def distances(J: Jacobian, labels: Sequence[Any]) -> Distances:
    """The distances of all rows."""
    rows = J.evaluation.rows
    residuals = (rows.x - J.model.mean).nan_to_num(0.0)
    squares = -(residuals * J["x"]).sum(-1)  # J["x"] is −Σ⁻¹ (x − µ), 0 where an entry is missing
    counts = (~rows.x.isnan()).sum(-1)
    kept = counts.nonzero().squeeze(-1)
    d, n = rows.x.shape[1], len(kept)
    squares, counts = squares[kept].clamp(min=0), counts[kept].to(squares.dtype)
    scores = _normal_scores(squares, counts)
    order = scores.argsort(stable=True)
    converted = torch.where(counts == d, squares, _quantiles(scores, d))[order]
    expected = _expected((torch.arange(n, dtype=squares.dtype, device=squares.device) + 0.5) / n, d)
    p_values = torch.special.gammaincc(0.5 * counts, 0.5 * squares)
    found = kept[order].tolist()
    places = order.flip(0)[:TOP].tolist()
    top = [ExtraordinaryRow(labels[int(kept[i])], float(squares[i]), int(counts[i]), float(p_values[i])) for i in places]
    beyond = int((p_values <= EXTRAORDINARY).sum())
    return Distances([labels[i] for i in found], converted.tolist(), expected.tolist(), beyond, top)


def _normal_scores(squares: Float[Tensor, "n"], df: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """χ² statistics as quantiles of the normal distribution (Wilson & Hilferty 1931), which do not overflow in the tail."""
    return ((squares / df) ** (1 / 3) - (1 - 2 / (9 * df))) / (2 / (9 * df)).sqrt()


def _quantiles(scores: Float[Tensor, "n"], df: int) -> Float[Tensor, "n"]:
    """The inverse of `_normal_scores` for one number of degrees of freedom."""
    return df * (1 - 2 / (9 * df) + scores * math.sqrt(2 / (9 * df))).clamp(min=0) ** 3


def _expected(probabilities: Float[Tensor, "n"], df: int) -> Float[Tensor, "n"]:
    """The χ² quantiles of these probabilities, by Newton's method for the logarithm of the quantile."""
    half = torch.tensor(0.5 * df, dtype=probabilities.dtype, device=probabilities.device)
    start = _quantiles(torch.special.ndtri(probabilities), df)
    logarithm = (0.5 * start.clamp(min=1e-3 * df)).log()
    for _ in range(_STEPS):
        x = logarithm.exp()
        density = (half * logarithm - x - torch.lgamma(half)).exp()  # of the logarithm
        step = (torch.special.gammainc(half.expand_as(x), x) - probabilities) / density
        logarithm = logarithm - step.nan_to_num(0.0).clamp(-1, 1)
    return 2 * logarithm.exp()
