"""The likelihood of a factor model of complete rows as a function of the unique variances alone.

With θ_1 ≥ θ_2 ≥ … the eigenvalues of S* = diag(v)^-½ S diag(v)^-½ and u_j their vectors, the best loadings for v are the columns
√v ∘ u_j √(θ_j − 1) of those j ≤ k with θ_j > 1, K of them, and with these

    −2 ℓ / n = d log 2π + Σ_i log v_i + Σ_{j ∈ K} (log θ_j + 1) + Σ_{j ∉ K} θ_j        −2/n ∂ℓ/∂log v_i = Σ_{j ∉ K} (1 − θ_j) u_ij²

No rotation of the factors is left in it. Where there are fewer rows than variables the further θ_j are 0.

Source: Jöreskog 1967, *Some contributions to maximum likelihood factor analysis*; Lawley & Maxwell 1971, ch. 4.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from mvnjac.covariance.structured.factor_analysis import residual_solve, spectrum
from mvnjac.covariance.structured.low_rank import LowRank
from mvnjac.estimation.likelihood import rounding
from mvnjac.estimation.quasi_newton import held_at
from mvnjac.gaussian import Gaussian
from mvnjac.statistics.sufficient import SufficientStatistics


class FactorProfile:
    """θ (d,): log v. `start` and `lower` as an objective of `ascend` has them.

    Args:
        rows: (m, d) whose Gram matrix is S; sample: how many observations there are.
    """

    def __init__(self, sample: SufficientStatistics, rows: Tensor, k: int, start: Tensor, least: Tensor) -> None:
        self.sample, self.rows, self.k = sample, rows, k
        self.start, self.lower = start.log(), least.log()
        self.spread = 1 / float(least.min())

    def at(self, theta: Tensor) -> ProfilePoint:
        """The likelihood there."""
        return ProfilePoint(self, theta)

    def largest_logarithm(self, change: Tensor) -> float:
        """The largest entry of a change of θ, in absolute value."""
        return float(change.abs().max())

    def rounding(self, value: float) -> float:
        """By how much a log-likelihood of about this value is uncertain."""
        return rounding(self.sample, value)


class ProfilePoint:
    """The log-likelihood at one log v and the best loadings for it: a point of a search, with its `theta`, `value`, `score`, `held`."""

    def __init__(self, profile: FactorProfile, theta: Tensor) -> None:
        self._profile, self.theta, d = profile, theta, len(theta)
        self._total, self._root = profile.sample.total, (0.5 * theta).exp()
        values, vectors = spectrum(profile.rows / self._root, profile.spread)
        k = min(profile.k, int((values > 1).sum()))
        self._values, self._U = values[:k], vectors[:, :k]
        log_det = float(theta.sum() + self._values.log().sum())
        self.value = -0.5 * self._total * (d * math.log(2 * math.pi) + log_det + k + float(values[k:].sum()))
        excess = vectors[:, k:].square() @ values[k:]
        left = (1 - self._U.square().sum(-1)) - excess
        self.score = -0.5 * self._total * left
        self.held = held_at(theta, profile.lower, self.score)

    @functools.cached_property
    def structure(self) -> LowRank:
        """Σ."""
        loadings = self._root.new_zeros(len(self._root), self._profile.k)
        loadings[:, : len(self._values)] = self._root.unsqueeze(-1) * self._U * (self._values - 1).sqrt()
        return LowRank(loadings, self.theta.exp())

    @property
    def gaussian(self) -> Gaussian:
        """The density, about the sample's mean."""
        return Gaussian(torch.zeros_like(self.theta), self.structure)

    def scores(self, name: str) -> Tensor:
        """Those by cov_diag; by the loadings there are none."""
        return self.score if name == "cov_diag" else torch.zeros_like(self.structure.parameters[name])

    def natural(self, gradient: Tensor) -> Tensor:
        """The inverse total information by log v, the loadings being estimated too, times a gradient."""
        return residual_solve(self._U, 2 / self._total * gradient, ~self.held)

    @functools.cached_property
    def score_ratio(self) -> float:
        """√(sᵀ I⁻¹ s) of what is not held at a bound."""
        score = self.score.masked_fill(self.held, 0)
        return abs(float(score @ self.natural(score))) ** 0.5
