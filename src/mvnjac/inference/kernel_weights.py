"""Kernels of a long-run covariance: how much the scores of rows that lie apart count, and how far apart that goes.

Names and formulas are those of R's `sandwich` (`kweights`, `bwAndrews`, `bwNeweyWest`; Zeileis 2004).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvnjac.errors import NotIdentifiedError


@dataclass(frozen=True)
class Kernel:
    """A weight for each distance in units of the bandwidth.

    Attributes:
        weights: x ≥ 0 → weights, 1 at 0.
        order: q, for which (1 − weight)/x^q has a limit at 0 that is neither 0 nor infinite (0: none).
        constant: c of the bandwidth c (α n)^(1/(2q + 1)) that is best by Andrews 1991, table I.
        lags: r of Newey and West's number of lags, which grows like n^r; None where they give none.
        semidefinite: whether the covariance is always positive semidefinite.
    """

    weights: Callable[[Tensor], Tensor]
    order: int
    constant: float
    lags: float | None
    semidefinite: bool


def _parzen(x: Tensor) -> Tensor:
    inner, outer = 1 - 6 * x**2 + 6 * x**3, 2 * (1 - x).clamp(min=0) ** 3
    return torch.where(x < 0.5, inner, outer)


def _quadratic_spectral(x: Tensor) -> Tensor:
    """3/y² (sin y/y − cos y) with y = 6πx/5; near 0, where that cancels, its series."""
    y = 1.2 * math.pi * x
    y2 = y.square()
    near = 1 - y2 / 10 + y2**2 / 280 - y2**3 / 15120 + y2**4 / 1330560
    far = torch.where(y < 0.1, 1.0, y)
    return torch.where(y < 0.1, near, 3 / far.square() * (far.sin() / far - far.cos()))


KERNELS: dict[str, Kernel] = {
    "Bartlett": Kernel(lambda x: (1 - x).clamp(min=0), 1, 1.1447, 2 / 9, True),
    "Parzen": Kernel(_parzen, 2, 2.6614, 4 / 25, True),
    "Quadratic Spectral": Kernel(_quadratic_spectral, 2, 1.3221, 2 / 25, True),
    "Truncated": Kernel(lambda x: (x <= 1).to(x), 2, 0.6611, None, False),
    "Tukey-Hanning": Kernel(lambda x: torch.where(x <= 1, 0.5 * (1 + (math.pi * x).cos()), 0.0), 2, 1.7462, None, False),
}


def newey_west_bandwidth(series: Tensor, n: int, prewhite: int, kernel: str = "Bartlett") -> float:
    """The bandwidth of Newey & West 1994, *Automatic lag selection in covariance matrix estimation* (R: `bwNeweyWest`).

    c ((s_q/s₀)²)^(1/(2q + 1)) n^(1/(2q + 1)) with s₀ = Σ γⱼ and s_q = Σ |j|^q γⱼ over lags up to ⌊4 (n/100)^r⌋ (3 where prewhitened), γ
    the autocovariances of the sum of all scores. For Bartlett's kernel its integer part is the lag.

    Args:
        series: (n − prewhite,) the sum over the columns. n: rows before prewhitening.
    """
    chosen = KERNELS[kernel]
    assert chosen.lags is not None
    most = math.floor((3 if prewhite else 4) * (n / 100) ** chosen.lags)
    m = len(series)
    covariances = torch.stack([(series[: m - j] * series[j:]).sum() / m for j in range(min(most, m - 1) + 1)])
    lags = torch.arange(len(covariances), dtype=series.dtype, device=series.device)
    s0 = covariances[0] + 2 * covariances[1:].sum()
    sq = 2 * (lags**chosen.order * covariances)[1:].sum()
    rate = 1 / (2 * chosen.order + 1)
    return float(chosen.constant * ((sq / s0) ** 2) ** rate * n**rate)


def andrews_bandwidth(function: str, series: Tensor, kernel: str) -> float:
    """The bandwidth of Andrews 1991, *Heteroskedasticity and autocorrelation consistent covariance matrix estimation*, if each score
    were an autoregression of order 1 (R: `bwAndrews`, `approx = "AR(1)"`, all scores counting alike).

    Args:
        series: (m, p) the scores, prewhitened or not.

    Raises:
        NotIdentifiedError: fewer than 3 rows, or a score that is the same in all rows.
    """
    chosen = KERNELS[kernel]
    before, after = series[:-1], series[1:]
    before, after = before - before.mean(0), after - after.mean(0)
    squares = before.square().sum(0)
    if len(series) < 3 or not bool((squares > 0).all()):
        raise NotIdentifiedError(
            f"{function}: there is no autoregression of {len(series)} rows of scores, one of which is constant: say bandwidth=, "
            "as a number."
        )
    rho = (before * after).sum(0) / squares
    sigma4 = (after - rho * before).square().mean(0).square()
    total = (sigma4 / (1 - rho) ** 4).sum()
    if chosen.order == 1:
        alpha = (4 * rho**2 * sigma4 / ((1 - rho) ** 6 * (1 + rho) ** 2)).sum() / total
    else:
        alpha = (4 * rho**2 * sigma4 / (1 - rho) ** 8).sum() / total
    return float(chosen.constant * (len(series) * alpha) ** (1 / (2 * chosen.order + 1)))
