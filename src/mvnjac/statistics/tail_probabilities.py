"""Tail probabilities of χ² and of Student's t (by the incomplete beta function), and quantiles of t, in double precision."""

from __future__ import annotations

import math

import torch


def chi_squared_p_value(statistic: float, df: int) -> float:
    """P(χ²_df > x); 1 if df = 0."""
    if df == 0:
        return 1.0
    half = torch.tensor([df / 2, max(statistic, 0.0) / 2], dtype=torch.float64, device="cpu")
    return float(torch.special.gammaincc(half[0], half[1]))


#: the largest number of terms of the continued fraction, and the smallest absolute value of its denominators
_TERMS, _TINY = 10_000, 1e-300


def two_sided_p_value(t: float, df: float) -> float:
    """P(|T| > |t|) for T with df degrees of freedom: the regularised incomplete beta function I_x(df/2, 1/2), x = df/(df + t²).

    Source: Abramowitz & Stegun 1964, 26.7.1 and 26.5.27.
    """
    if math.isnan(t):
        return math.nan
    if t == 0:
        return 1.0
    a, x, y = 0.5 * df, df / (df + t * t), t * t / (df + t * t)
    logarithm = _log_gamma_ratio(a) - 0.5 * math.log(math.pi) - a * math.log1p(t * t / df) + 0.5 * math.log(y)
    front = math.exp(logarithm)  # x^a y^½ / B(a, ½)
    if x < (a + 1) / (a + 2.5):
        return front * _continued_fraction(x, a, 0.5) / a
    return 1.0 - 2 * front * _continued_fraction(y, 0.5, a)


def quantile(probability: float, df: float) -> float:
    """The t with P(|T| ≤ t) = probability, by bisection."""
    low, high = 0.0, 1.0
    while two_sided_p_value(high, df) > 1 - probability and high < 1e300:
        low, high = high, 2 * high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if two_sided_p_value(middle, df) > 1 - probability:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _log_gamma_ratio(a: float) -> float:
    """log Γ(a + ½)/Γ(a); for large a by its asymptotic expansion, since the difference of log Γ loses accuracy."""
    if a < 100:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    return 0.5 * math.log(a) - 1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5) + 17 / (14336 * a**7)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function (Abramowitz & Stegun 26.5.8), by Lentz's method."""
    c, d = 1.0, 1 / _bounded(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / _bounded(1 + even * d), _bounded(1 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / _bounded(1 + odd * d), _bounded(1 + odd / c)
        value *= d * c
        if abs(d * c - 1) < 1e-16:
            break
    return value


def _bounded(x: float) -> float:
    """x, replaced by a tiny value if it is closer to 0."""
    return x if abs(x) > _TINY else _TINY
