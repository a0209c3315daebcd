"""Kernels and automatic bandwidths for long-run covariances.

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
    """A kernel: weights as a function of the lag in units of the bandwidth.

    Attributes:
        weights: x ≥ 0 → weights, 1 at 0.
        order: the characteristic exponent q: (1 − weight)/x^q has a limit at 0 that is neither 0 nor infinite.
        constant: c in the optimal bandwidth c (α n)^(1/(2q + 1)) of Andrews 1991, table I.
        lag_exponent: r, where Newey and West's number of lags is of order n^r; None if they give none.
    """

    weights: Callable[[Tensor], Tensor]
    order: int
    constant: float
    lag_exponent: float | None


def _parzen(x: Tensor) -> Tensor:
    inner, outer = 1 - 6 * x**2 + 6 * x**3, 2 * (1 - x).clamp(min=0) ** 3
    return torch.where(x < 0.5, inner, outer)


def _quadratic_spectral(x: Tensor) -> Tensor:
    """3/y² (sin y/y − cos y) with y = 6πx/5; its series near 0, where the difference cancels."""
    y = 1.2 * math.pi * x
    y2 = y.square()
    near = 1 - y2 / 10 + y2**2 / 280 - y2**3 / 15120 + y2**4 / 1330560
    far = torch.where(y < 0.1, 1.0, y)
    return torch.where(y < 0.1, near, 3 / far.square() * (far.sin() / far - far.cos()))


KERNELS: dict[str, Kernel] = {
    "Bartlett": Kernel(lambda x: (1 - x).clamp(min=0), 1, 1.1447, 2 / 9),
    "Parzen": Kernel(_parzen, 2, 2.6614, 4 / 25),
    "Quadratic Spectral": Kernel(_quadratic_spectral, 2, 1.3221, 2 / 25),
    "Truncated": Kernel(lambda x: (x <= 1).to(x), 2, 0.6611, None),
    "Tukey-Hanning": Kernel(lambda x: torch.where(x <= 1, 0.5 * (1 + (math.pi * x).cos()), 0.0), 2, 1.7462, None),
}


def newey_west_bandwidth(series: Tensor, n: int, prewhite: int, kernel: str = "Bartlett") -> float:
    """The bandwidth of Newey & West 1994, *Automatic lag selection in covariance matrix estimation* (R: `bwNeweyWest`).

    It is c ((s_q/s₀)²)^(1/(2q + 1)) n^(1/(2q + 1)), with s₀ = Σ γⱼ and s_q = Σ |j|^q γⱼ over lags up to ⌊4 (n/100)^r⌋ (3
    instead of 4 with prewhitening), and γ the autocovariances of the sum of all scores. Its integer part is the lag of the
    Bartlett kernel.

    Args:
        series: (n − prewhite,) the sum over the columns.
        n: the number of rows before prewhitening.
    """
    properties = KERNELS[kernel]
    assert properties.lag_exponent is not None
    most = math.floor((3 if prewhite else 4) * (n / 100) ** properties.lag_exponent)
    m = len(series)
    covariances = torch.stack([(series[: m - j] * series[j:]).sum() / m for j in range(min(most, m - 1) + 1)])
    lags = torch.arange(len(covariances), dtype=series.dtype, device=series.device)
    s0 = covariances[0] + 2 * covariances[1:].sum()
    sq = 2 * (lags**properties.order * covariances)[1:].sum()
    rate = 1 / (2 * properties.order + 1)
    return float(properties.constant * ((sq / s0) ** 2) ** rate * n**rate)


def andrews_bandwidth(function: str, series: Tensor, kernel: str) -> float:
    """The bandwidth of Andrews 1991, *Heteroskedasticity and autocorrelation consistent covariance matrix estimation*, with an
    AR(1) approximation of each score and equal weights (R: `bwAndrews`, `approx = "AR(1)"`).

    Args:
        series: (m, p) the scores, prewhitened or not.

    Raises:
        NotIdentifiedError: there are fewer than 3 rows, or a score is the same in all rows.
    """
    properties = KERNELS[kernel]
    before, after = series[:-1], series[1:]
    before, after = before - before.mean(0), after - after.mean(0)
    squares = before.square().sum(0)
    if len(series) < 3 or not bool((squares > 0).all()):
        raise NotIdentifiedError(
            f"{function}: the automatic bandwidth needs 3 rows or more and scores that vary, but there are {len(series)} rows, "
            "or a score is constant; pass a number as bandwidth=."
        )
    rho = (before * after).sum(0) / squares
    sigma4 = (after - rho * before).square().mean(0).square()
    total = (sigma4 / (1 - rho) ** 4).sum()
    if properties.order == 1:
        alpha = (4 * rho**2 * sigma4 / ((1 - rho) ** 6 * (1 + rho) ** 2)).sum() / total
    else:
        alpha = (4 * rho**2 * sigma4 / (1 - rho) ** 8).sum() / total
    return float(properties.constant * (len(series) * alpha) ** (1 / (2 * properties.order + 1)))
