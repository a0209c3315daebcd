"""Distributions of functionals of Brownian bridges, against closed forms, mpmath, published quantiles and simulation."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from mvnjac.errors import ArgumentError
from mvnjac.inference.limiting_distributions import critical_value, double_max_p_value, mean_square_p_value, supremum_p_value

TRIM = (0.15, 0.85)


@pytest.mark.parametrize("x", [0.2, 0.35, 0.499, 0.501, 0.8, 1.2, 2.0, 3.5])
@pytest.mark.parametrize("k", [1, 4, 90])
def test_double_max_is_kolmogorovs(x: float, k: int) -> None:
    """Kolmogorov's series, P(sup |B| > x) = 2 Σ (−1)^(j+1) exp(−2 j² x²), for the largest of k bridges."""
    with mpmath.workdps(40):
        single = 2 * mpmath.nsum(lambda j: (-1) ** (int(j) + 1) * mpmath.exp(-2 * j**2 * mpmath.mpf(x) ** 2), [1, mpmath.inf])
        expected = float(1 - (1 - single) ** k)
    assert double_max_p_value(x, k) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_double_max_of_nothing() -> None:
    assert double_max_p_value(0.0, 3) == 1.0
    assert mean_square_p_value(0.0, 3) == 1.0
    assert supremum_p_value(0.0, 3, TRIM) == 1.0


@pytest.mark.parametrize("x", [0.01, 0.05, 0.2, 0.5, 1.0, 3.0, 12.0, 40.0])
def test_mean_square_of_two_bridges_is_a_theta_series(x: float) -> None:
    """Σ (χ²₂)/(jπ)²: a sum of exponentials with rates (jπ)²/2, the distribution of Watson's statistic."""
    expected = 2 * mpmath.nsum(lambda j: (-1) ** (int(j) + 1) * mpmath.exp(-(j**2) * mpmath.pi**2 * x / 2), [1, mpmath.inf])
    assert mean_square_p_value(x, 2) == pytest.approx(float(expected), rel=1e-11)


@pytest.mark.parametrize(("level", "quantile"), [(0.1, 0.34730), (0.05, 0.46136), (0.01, 0.74346), (0.001, 1.16786)])
def test_mean_square_of_one_bridge_is_cramer_and_von_mises(level: float, quantile: float) -> None:
    """Anderson & Darling 1952, table 1; Csörgő & Faraway 1996."""
    assert mean_square_p_value(quantile, 1) == pytest.approx(level, rel=2e-4)


@pytest.mark.parametrize(("k", "x"), [(4, 1.0), (15, 3.2), (50, 9.5), (200, 35.0)])
def test_mean_square_of_many_bridges(k: int, x: float) -> None:
    """By simulation of Σ χ²_k/(jπ)²."""
    generator = np.random.default_rng(k)
    j = np.arange(1, 200)
    draws = (generator.chisquare(k, (40_000, len(j))) / (j * np.pi) ** 2).sum(1) + k / np.pi**2 * (
        np.pi**2 / 6 - (1 / j**2.0).sum()
    )
    p = mean_square_p_value(x, k)
    assert p == pytest.approx((draws > x).mean(), abs=4 * math.sqrt(p * (1 - p) / 40_000))


@pytest.mark.slow
@pytest.mark.parametrize(("k", "x"), [(1, 3.0), (1, 8.86), (2, 11.8), (3, 20.0), (7, 22.0)])
@pytest.mark.parametrize("trim", [TRIM, (0.05, 0.95), (0.2, 0.6)])
def test_supremum_by_the_zeros_of_kummers_function(k: int, x: float, trim: tuple[float, float]) -> None:
    """The generator s f″ + (k/2 − s) f′ in s = y/2, f = 0 at x/2, has the eigenvalues −µ with M(−µ, k/2, x/2) = 0 (DeLong 1981)."""
    duration, half, end = math.log(trim[1] * (1 - trim[0]) / (trim[0] * (1 - trim[1]))), mpmath.mpf(k) / 2, mpmath.mpf(x) / 2

    def mean(f) -> mpmath.mpf:
        """The stationary expectation, in √s, where the density is smooth."""
        law = lambda u: 2 * u * f(u * u) * u ** (2 * (half - 1)) * mpmath.exp(-u * u) / mpmath.gamma(half)  # noqa: E731
        return mpmath.quad(law, mpmath.linspace(0, mpmath.sqrt(end), 6))

    below = 0.0
    for rate in zeros(lambda m: mpmath.hyp1f1(-m, half, end), 25 / duration):
        first, second = (
            mean(lambda s, m=rate: mpmath.hyp1f1(-m, half, s)),
            mean(lambda s, m=rate: mpmath.hyp1f1(-m, half, s) ** 2),
        )
        below += float(first**2 / second * mpmath.exp(-rate * duration))
    assert supremum_p_value(x, k, trim) == pytest.approx(1 - below, abs=1e-8)


def zeros(f, last: float) -> list[mpmath.mpf]:
    """The roots between 0 and `last`, at least 0.05 apart."""
    grid = np.arange(0.0, last, 0.05)
    signs = [f(m) > 0 for m in grid]
    return [
        mpmath.findroot(f, (grid[i], grid[i + 1]), solver="anderson") for i in range(len(grid) - 1) if signs[i] != signs[i + 1]
    ]


@pytest.mark.parametrize(("k", "x"), [(1, 8.0), (1, 30.0), (3, 12.0)])
def test_the_tail_of_the_mean_square(k: int, x: float) -> None:
    """P ~ 2^(k/2) P(χ²_k > π² x): the largest weight 1/(jπ)² dominates (Zolotarev 1961)."""
    leading = math.sqrt(2) ** k * stats.chi2.sf(math.pi**2 * x, k)
    assert mean_square_p_value(x, k) == pytest.approx(leading, rel=0.02)


@pytest.mark.parametrize(("k", "x"), [(1, 42.0), (5, 58.0), (30, 110.0), (200, 340.0), (600, 830.0)])
def test_the_tail_of_the_supremum_meets_its_expansion(k: int, x: float) -> None:
    """The p-value is monotone, and continuous where the expansion takes over."""
    grid = np.linspace(0.8 * x, 1.2 * x, 60)
    p_values = np.array([supremum_p_value(float(y), k, TRIM) for y in grid])
    assert p_values[0] > 1e-9 > p_values[-1] > 0
    ratios = p_values[1:] / p_values[:-1]
    assert (ratios < 1).all()
    assert np.abs(np.diff(np.log(ratios))).max() < 0.1


@pytest.mark.parametrize(("k", "published"), [(1, 8.68), (2, 11.72), (5, 18.23), (10, 27.25)])
def test_critical_values_are_near_andrews(k: int, published: float) -> None:
    """Andrews 2003 (corrigendum), 5 %, π₀ = 0.15, simulated on a grid of dates: a little below continuous time."""
    found = critical_value(lambda x: supremum_p_value(x, k, TRIM), 0.05)
    assert published - 0.1 < found < published + 0.4


def test_levels_and_trims_are_checked() -> None:
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        critical_value(lambda x: 1.0, 1.5)
    with pytest.raises(ArgumentError, match="0 < from < to < 1"):
        supremum_p_value(1.0, 1, (0.5, 0.5))
