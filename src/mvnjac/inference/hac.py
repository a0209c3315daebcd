"""Heteroscedasticity and autocorrelation: the covariance of a sum of dependent scores (Newey & West).

The formulas and the meaning of the arguments are those of R's `sandwich` (Zeileis 2004, *Econometric computing with HC and HAC
covariance matrix estimators*), where these are called `NeweyWest(lag, prewhite, adjust)`, `meatHAC` and `bwNeweyWest`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ArgumentError, NotIdentifiedError
from mvnjac.inference.at_estimate import warn_unless_at_estimate
from mvnjac.inference.estimating_functions import EstimatingFunctions
from mvnjac.inference.ordering import order_of
from mvnjac.information import Wrt
from mvnjac.jacobian import Jacobian


@dataclass(frozen=True)
class Prewhitened:
    """Scores less what a vector autoregression of some order foresees of them.

    residuals: (n − order, p). recolour: (p, p), D = (I − Σ Aₖ)⁻¹, which brings the long-run covariance back.
    """

    residuals: Tensor
    recolour: Tensor


def prewhitened(function: str, scores: Tensor, order: int) -> Prewhitened:
    """By least squares, without a mean (R: `ar(…, aic = FALSE, demean = FALSE, method = "ols")`).

    Raises:
        NotIdentifiedError: fewer rows than coefficients, or scores that are linearly dependent.
    """
    n, p = scores.shape
    if n - order <= order * p:
        raise NotIdentifiedError(
            f"{function}: an autoregression of order {order} of {p} scores has {order * p} coefficients an equation, but there are "
            f"{n - order} rows; take prewhite=0, or fewer columns."
        )
    units = scores.square().mean(0).sqrt()
    units = torch.where(units > 0, units, 1)
    z = scores / units
    past = torch.cat([z[order - lag : n - lag] for lag in range(1, order + 1)], -1)
    Q, R = torch.linalg.qr(past)
    diagonal = R.diagonal().abs()
    if bool(diagonal.min() <= n * torch.finfo(z.dtype).eps * diagonal.max()):
        raise NotIdentifiedError(f"{function}: the scores are linearly dependent; take prewhite=0, or leave out columns.")
    coefficients = torch.linalg.solve_triangular(R, Q.mT @ z[order:], upper=True)
    A = coefficients.unflatten(0, (order, p)).sum(0).mT  # zₜ = Σ Aₖ zₜ₋ₖ + eₜ
    recolour = torch.linalg.inv(torch.eye(p, dtype=z.dtype, device=z.device) - A)
    return Prewhitened((z[order:] - past @ coefficients) * units, units.unsqueeze(-1) * recolour / units)


def automatic_lag(series: Tensor, n: int, prewhite: int) -> float:
    """The bandwidth of Newey & West (1994) for the Bartlett kernel, R's `bwNeweyWest`; the lag is its integer part.

    1.1447 (s₁/s₀)^⅔ n^⅓ with s₀ = Σ γⱼ and s₁ = Σ |j| γⱼ over lags up to ⌊4 (n/100)^(2/9)⌋ (3 where prewhitened), γ the
    autocovariances of the sum of all scores.

    Args:
        series: (n − prewhite,) the sum over the columns. n: rows before prewhitening.

    Source: Newey & West 1994, *Automatic lag selection in covariance matrix estimation*.
    """
    most = math.floor((3 if prewhite else 4) * (n / 100) ** (2 / 9))
    m = len(series)
    covariances = torch.stack([(series[: m - j] * series[j:]).sum() / m for j in range(min(most, m - 1) + 1)])
    lags = torch.arange(len(covariances), dtype=series.dtype, device=series.device)
    s0 = covariances[0] + 2 * covariances[1:].sum()
    s1 = 2 * (lags * covariances)[1:].sum()
    return float(1.1447 * ((s1 / s0) ** 2) ** (1 / 3) * n ** (1 / 3))


def long_run_sum(series: Tensor, lag: int) -> Tensor:
    """(k, k) Σ over |l| ≤ lag of (1 − |l|/(lag + 1)) Σₜ uₜ uₜ₊ₗᵀ, of series u (n, k): Bartlett's weights, positive semidefinite.

    Source: Newey & West 1987, *A simple, positive semi-definite, heteroskedasticity and autocorrelation consistent covariance
    matrix*.
    """
    n = len(series)
    total = series.mT @ series
    for later in range(1, min(lag, n - 1) + 1):
        cross = series[: n - later].mT @ series[later:]
        total = total + (1 - later / (lag + 1)) * (cross + cross.mT)
    return total


class LongRunScores:
    """Scores in the order of time, prewhitened or not, and the lag up to which they are taken to depend on each other."""

    def __init__(self, estimating: EstimatingFunctions, lag: int | None, prewhite: int, order_by: Iterable[Any] | None) -> None:
        _valid(estimating.function, lag, prewhite)
        self._estimating = estimating
        order = order_of(estimating.function, order_by, estimating.rows, require_unique=True)
        self._order = order.to(estimating.jacobian.device)
        self._white = prewhitened(estimating.function, estimating.scores()[self._order], prewhite) if prewhite else None
        self.lag = self._automatic(prewhite) if lag is None else lag

    def covariance_of_sum(self, directions: Tensor) -> Tensor:
        """(k, k) of the sums of the scores times directions (k, p)."""
        return long_run_sum(self._series(directions), self.lag)

    def _series(self, directions: Tensor) -> Tensor:
        if self._white is not None:
            return self._white.residuals @ (directions @ self._white.recolour).mT
        return self._estimating.products(directions)[self._order]

    def _automatic(self, prewhite: int) -> int:
        if self._white is not None:
            whole = self._white.residuals.sum(-1)
        else:
            ones = torch.ones(1, self._estimating.size, dtype=torch.float64, device=self._order.device)
            whole = self._series(ones).squeeze(-1)
        return math.floor(automatic_lag(whole, self._estimating.rows, prewhite))


def scores_covariance(
    J: Jacobian,
    *,
    known: Wrt = None,
    wrt: Wrt = None,
    lag: int | None = None,
    prewhite: int = True,
    adjust: bool = False,
    order_by: Iterable[Any] | None = None,
) -> Float[Tensor, "p p"]:
    """The long-run covariance of a score, n⁻¹ Var(Σ sᵢ), by all parameters that were estimated (R: NeweyWest(sandwich = FALSE)).

    Args:
        J: the Jacobian at the estimate.
        wrt: names the parametrisation: all of its columns are in the result.
        known, lag, prewhite, adjust, order_by: as in `covariance_of_estimates`.

    Warns:
        NotAtEstimateWarning: as in `covariance_of_estimates`.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac import inference
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> J = mvnjac.fit(x).gaussian.jacobian(x)
        >>> inference.score_process(J, scores_covariance=inference.scores_covariance(J)).sup_lm().p_value > 0.05
        True
    """
    estimating = EstimatingFunctions("scores_covariance", J, wrt, None, known)
    warn_unless_at_estimate(estimating)
    n, p = estimating.rows, estimating.size
    total = LongRunScores(estimating, lag, int(prewhite), order_by).covariance_of_sum(estimating.unit_rows(range(p)))
    return total / (n - p if adjust else n)


def _valid(function: str, lag: int | None, prewhite: int) -> None:
    """Whether these are numbers of rows."""
    if lag is not None and (isinstance(lag, bool) or not isinstance(lag, int) or lag < 0):
        raise ArgumentError(
            f"{function}: lag is {lag!r}; expected a number of rows, 0 or more, or None for Newey & West's choice."
        )
    if not isinstance(prewhite, int) or prewhite < 0:
        raise ArgumentError(
            f"{function}: prewhite is {prewhite!r}; expected the order of an autoregression: False, True, 2, …."
        )
