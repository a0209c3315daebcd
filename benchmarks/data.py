"""Well-conditioned float64 operands, the same in every process."""

from __future__ import annotations

import numpy as np

from benchmarks.generate_gaps import returns
from benchmarks.workload import Data


def _covariance(generator: np.random.Generator, d: int, *batch: int) -> np.ndarray:
    A = generator.standard_normal((*batch, d, 2 * d))
    return A @ A.swapaxes(-1, -2) / (2 * d)


def shared(n: int, d: int) -> Data:
    """n observations of one Gaussian: x (n, d), mean (d,), covariance (d, d)."""
    generator = np.random.default_rng(n + d)
    return {
        "x": generator.standard_normal((n, d)),
        "mean": generator.standard_normal(d) / 10,
        "covariance": _covariance(generator, d),
    }


def one_per_row(n: int, d: int) -> Data:
    """n Gaussians with one observation each: x (n, d), mean (n, d), covariance (n, d, d)."""
    generator = np.random.default_rng(n + d)
    return {
        "x": generator.standard_normal((n, d)),
        "mean": generator.standard_normal((n, d)) / 10,
        "covariance": _covariance(generator, d, n),
    }


def low_rank(n: int, d: int, k: int) -> Data:
    """A factor model: x (n, d), mean (d,), cov_factor (d, k), cov_diag (d,)."""
    generator = np.random.default_rng(k)
    return {
        "x": generator.standard_normal((n, d)),
        "mean": generator.standard_normal(d) / 10,
        "cov_factor": generator.standard_normal((d, k)),
        "cov_diag": generator.uniform(0.5, 1.5, d),
    }


def table(n: int, d: int, late: int, missing: float) -> Data:
    """Returns of assets, some of which start late, with missing entries: x (n, d), NaN where an entry is missing."""
    return {"x": returns(n, d, late, missing, seed=0)}


def with_gaps(n: int, d: int, gaps: str) -> Data:
    """`shared`, and "holes": x with NaN where an entry is missing.

    Args:
        gaps: "few patterns": 20 patterns; "drop-out": each row is observed up to some variable; otherwise the share of missing entries.
    """
    data = shared(n, d)
    generator = np.random.default_rng(1)
    if gaps == "drop-out":
        observed = np.arange(d) < generator.integers(1, d + 1, (n, 1))
    elif gaps == "few patterns":
        observed = (generator.random((20, d)) > 0.1)[generator.integers(20, size=n)]
    else:
        observed = generator.random((n, d)) > float(gaps)
    return {**data, "holes": np.where(observed, data["x"], np.nan)}
