"""The profile likelihood of a factor model for complete rows, as a function of the unique variances alone.

With θ_1 ≥ θ_2 ≥ … the eigenvalues of S* = diag(v)^-½ S diag(v)^-½ and u_j the eigenvectors, the optimal loadings given v are
the columns √v ∘ u_j √(θ_j − 1) for those j ≤ k with θ_j > 1, K of them. With these loadings

    −2 ℓ / n = d log 2π + Σ_i log v_i + Σ_{j ∈ K} (log θ_j + 1) + Σ_{j ∉ K} θ_j −2/n ∂ℓ/∂log v_i = Σ_{j ∉ K} (1 − θ_j) u_ij²

The profile likelihood does not depend on rotations of the factors. With fewer rows than variables the further θ_j are 0.

Source: Jöreskog 1967, *Some contributions to maximum likelihood factor analysis*; Lawley & Maxwell 1971, ch. 4.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from mvnjac.covariance.structured.factor_analysis import residual_solve, spectrum
from mvnjac.covariance.structured.low_rank import LowRank
from mvnjac.estimation.likelihood import rounding_error
from mvnjac.estimation.quasi_newton import active_bounds
from mvnjac.gaussian import Gaussian
from mvnjac.statistics.sufficient import SufficientStatistics


class FactorProfile:
    """An `Objective` of θ = log v (d,).

    Args:
        sample: the number of observations.
        rows: (m, d) with Gram matrix S.
        k: the number of factors.
        start: (d,) starting values of v.
        lower: (d,) its lower bounds.
    """

    def __init__(self, sample: SufficientStatistics, rows: Tensor, k: int, start: Tensor, lower: Tensor) -> None:
        self.sample, self.rows, self.k = sample, rows, k
        self.start, self.lower = start.log(), lower.log()
        self.spread = 1 / float(lower.min())

    def evaluate(self, theta: Tensor) -> ProfilePoint:
        return ProfilePoint(self, theta)

    def largest_log_change(self, change: Tensor) -> float:
        return float(change.abs().max())

    def rounding_error(self, value: float) -> float:
        return rounding_error(self.sample, value)


class ProfilePoint:
    """The log-likelihood at one log v and the optimal loadings for it: a `Point` of the search."""

    def __init__(self, profile: FactorProfile, theta: Tensor) -> None:
        self._profile, self.theta, d = profile, theta, len(theta)
        self._total, self._root = profile.sample.total, (0.5 * theta).exp()
        values, vectors = spectrum(profile.rows / self._root, profile.spread)
        k = min(profile.k, int((values > 1).sum()))
        self._values, self._U = values[:k], vectors[:, :k]
        log_det = float(theta.sum() + self._values.log().sum())
        self.value = -0.5 * self._total * (d * math.log(2 * math.pi) + log_det + k + float(values[k:].sum()))
        residual = (1 - self._U.square().sum(-1)) - vectors[:, k:].square() @ values[k:]
        self.score = -0.5 * self._total * residual
        self.active = active_bounds(theta, profile.lower, self.score)

    @functools.cached_property
    def structure(self) -> LowRank:
        loadings = self._root.new_zeros(len(self._root), self._profile.k)
        loadings[:, : len(self._values)] = self._root.unsqueeze(-1) * self._U * (self._values - 1).sqrt()
        return LowRank(loadings, self.theta.exp())

    @property
    def gaussian(self) -> Gaussian:
        """The density, centred at the sample mean."""
        return Gaussian(torch.zeros_like(self.theta), self.structure)

    def score_of(self, name: str) -> Tensor:
        """The score with respect to cov_diag; 0 for the loadings, which are optimal."""
        return self.score if name == "cov_diag" else torch.zeros_like(self.structure.parameters[name])

    def natural_gradient(self, gradient: Tensor) -> Tensor:
        """The inverse total information of log v, with the loadings estimated too, times a gradient."""
        return residual_solve(self._U, 2 / self._total * gradient, ~self.active)

    @functools.cached_property
    def score_ratio(self) -> float:
        """√(sᵀ I⁻¹ s) over the inactive elements."""
        score = self.score.masked_fill(self.active, 0)
        return abs(float(score @ self.natural_gradient(score))) ** 0.5
