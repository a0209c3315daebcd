"""Distributions of functionals of k independent Brownian bridges B, the limits of cumulative scores.

All are computed from the exact distribution, for any number of components, without tables or simulation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mvnjac.errors import ArgumentError

Table = NDArray[np.float64]
Path = NDArray[np.complexfloating]
#: the numbers of polynomials and quadrature nodes: more do not change the first 12 digits
_POLYNOMIALS, _NODES = 50, 200
#: below this the p-value of a supremum is from an expansion of the tail, since 1 minus a probability would lose all digits
_TAIL = 1e-9
#: a χ_k variable is within this distance of √k except with probability 1e-11
_WIDTH = 4.7


def double_max_p_value(statistic: float, k: int) -> float:
    """P(max over components and time of |B| > x) = 1 − (1 − 2 Σⱼ (−1)ʲ⁻¹ exp(−2 j² x²))ᵏ (Kolmogorov 1933)."""
    if statistic <= 0:
        return 1.0
    if statistic < 0.5:  # the same series by Jacobi's identity, which converges faster here
        terms = [math.exp(-((2 * j - 1) ** 2) * math.pi**2 / (8 * statistic**2)) for j in range(1, 20)]
        return 1 - (math.sqrt(2 * math.pi) / statistic * sum(terms)) ** k
    one = 2 * sum((-1) ** (j - 1) * math.exp(-2 * j * j * statistic**2) for j in range(1, 60))
    return 1.0 if one >= 1 else -math.expm1(k * math.log1p(-one))


def mean_square_p_value(statistic: float, k: int) -> float:
    """P(∫ |B|² dt > x), by inversion of the moment generating function (r / sin r)^(k/2), r = √(2t) (Nyblom 1989).

    ∫|B|² is distributed as Σⱼ χ²_k / (jπ)², with cumulant generating function K(t) = −(k/2) log(sin r / r). The contour of
    P = (1/2πi) ∫ exp(K(t) − tx) dt / t passes through the saddle point, at 45° in the plane of r, where exp(−tx) decays.
    """
    if statistic <= 0:
        return 1.0
    start = max(_saddle_point(statistic, k), min(1.0, math.sqrt(12 / k)))
    steps = np.logspace(-5, 3, 400)
    size = _log_integrand(start + (1 + 1j) * steps, statistic, k).real
    last = steps[np.flatnonzero(size > size.max() - 40)[-1]]
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    r = start + (1 + 1j) * 0.5 * last * (nodes + 1)
    values = np.exp(_log_integrand(r, statistic, k)) * 2 / r * (1 + 1j)  # dt / t = 2 dr / r
    return float(min(max((0.5 * last * weights * values).sum().imag / math.pi, 0.0), 1.0))


def _log_integrand(r: Path, x: float, k: int) -> Path:
    """K(t) − tx, with the continuous logarithm of sin r = ½i e^(−ir) (1 − e^(2ir)) above the real axis."""
    log_sine = math.log(0.5) + 0.5j * math.pi - 1j * r + np.log1p(-np.exp(2j * r))
    return 0.5 * k * (np.log(r) - log_sine) - 0.5 * r * r * x


def _saddle_point(x: float, k: int) -> float:
    """r in (0, π) with K′ = x; 0 if x is below the mean."""
    low, high = 1e-3, math.pi
    if 0.5 * k * (1 / low**2 - 1 / (low * math.tan(low))) > x:
        return 0.0
    for _ in range(60):
        r = 0.5 * (low + high)
        low, high = (r, high) if 0.5 * k * (1 / r**2 - 1 / (r * math.tan(r))) < x else (low, r)
    return low


def supremum_p_value(statistic: float, k: int, trim: tuple[float, float]) -> float:
    """P(sup over π₁ ≤ t ≤ π₂ of |B|²/(t(1 − t)) > x), for Andrews' supremum of Lagrange multiplier statistics.

    In the time log(t/(1 − t)), |B|²/(t(1 − t)) is the squared norm of a stationary k-dimensional Ornstein–Uhlenbeck process.
    The probability that it stays below x for a time T is Σⱼ cⱼ² exp(−µⱼ T), with the eigenvalues µⱼ of the generator with
    absorption at √x, computed by the Galerkin method with polynomials. Andrews 1993, *Tests for parameter instability and
    structural change with unknown change point*, tabulated quantiles by simulation; Hansen 1997 approximated the p-values by
    regression on such a table, and R's strucchange uses his approximation. The far tail is the expansion of DeLong 1981,
    *Crossing probabilities for a square root boundary by a Bessel process*.
    """
    first, last = trim
    if not 0 < first < last < 1:
        raise ArgumentError(f"supremum_p_value: the trimmed range is {trim}; expected 0 < from < to < 1.")
    if statistic <= 0:
        return 1.0
    duration = math.log(last * (1 - first) / (first * (1 - last)))
    tail = _crossing_tail(statistic, k, duration)
    return tail if tail < _TAIL and statistic > k else min(max(1 - _probability_below(statistic, k, duration), 0.0), 1.0)


def _crossing_tail(x: float, k: int, duration: float) -> float:
    log_density = 0.5 * k * math.log(x / 2) - x / 2 - math.lgamma(k / 2)
    return math.exp(log_density) * (duration * (1 - k / x) + 2 / x) if x > k else 1.0


def _probability_below(x: float, k: int, duration: float) -> float:
    """The probability that |X|² stays below x, for the stationary solution of dX = −X/2 dt + dW."""
    at, weights, values, derivatives = _polynomials()
    end = math.sqrt(x)
    first = max(math.sqrt(k) - _WIDTH, 0.0)  # the probability of smaller values is negligible
    length = end - first
    if length <= 0:
        return 0.0
    r = first + length * at
    log_density = (k - 1) * np.log(r) - 0.5 * r**2 - (0.5 * k - 1) * math.log(2) - math.lgamma(k / 2)
    root = np.sqrt(length * weights * np.exp(log_density))[:, None]
    Q, R = np.linalg.qr(root * values)  # an orthonormal basis under the stationary distribution, without a Gram matrix
    energy = np.linalg.solve(R.T, (root * derivatives / length).T).T
    rates, vectors = np.linalg.eigh(0.5 * energy.T @ energy)
    start = (Q.T @ root[:, 0]) @ vectors
    return float((start**2 * np.exp(-rates * duration)).sum())


@functools.cache
def _polynomials() -> tuple[Table, Table, Table, Table]:
    """Nodes and weights on [0, 1], and the polynomials (1 − t) Tₘ(2t − 1), which vanish at 1, with their derivatives."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    t = 0.5 * (nodes + 1)
    chebyshev = np.polynomial.chebyshev
    values = chebyshev.chebvander(nodes, _POLYNOMIALS - 1)
    slopes = np.stack([chebyshev.chebval(nodes, chebyshev.chebder(row)) for row in np.eye(_POLYNOMIALS)], -1)
    left = (1 - t)[:, None]
    return t, 0.5 * weights, left * values, 2 * left * slopes - values


def require_level(function: str, level: float) -> None:
    if not 0 < level < 1:
        raise ArgumentError(f"{function}: level is {level!r}; expected a probability between 0 and 1.")


def critical_value(p_value: Callable[[float], float], level: float) -> float:
    """The statistic whose p-value is `level`, by bisection."""
    require_level("critical_value", level)
    low, high = 0.0, 1.0
    while p_value(high) > level:
        low, high = high, 2 * high
    while high - low > 1e-10 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if p_value(middle) > level else (low, middle)
    return 0.5 * (low + high)
