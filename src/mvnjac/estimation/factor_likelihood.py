"""The likelihood of a factor model at rows with missing entries, as an objective of the search: in a metric free of rotations."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from mvnjac.covariance.structured.factor_analysis import Scoring
from mvnjac.covariance.structured.low_rank import LowRank
from mvnjac.errors import UnsolvedError
from mvnjac.estimation import incomplete_factors
from mvnjac.estimation.likelihood import TOLERANCE, Likelihood, Point
from mvnjac.gaussian import Gaussian
from mvnjac.linalg.solvers import conjugate_gradients
from mvnjac.statistics.sufficient import SufficientStatistics


class FactorLikelihood(Likelihood):
    """θ: the mean, the loadings and the logarithms of the unique variances, which have a bound.

    Of rows that stand for more of them (`StandIn`) value and score are those of all, by passes over the table.
    """

    def __init__(self, sample: SufficientStatistics, mean: Tensor, W: Tensor, v: Tensor, lower: float) -> None:
        super().__init__(sample, mean, LowRank(W, v))
        self.lower[-sample.d :] = math.log(lower)

    def at(self, theta: Tensor) -> FactorPoint:
        """The likelihood there."""
        return FactorPoint(self, theta, self.gaussian(theta))

    def totals(self, gaussian: Gaussian) -> tuple[float, dict[str, Tensor]]:
        """The log-likelihood, and its gradients by the parameters."""
        if self.sample.held() is not self.sample:
            return super().totals(gaussian)
        return incomplete_factors.totals(self.sample, gaussian.mean, *gaussian.covariance.parameters.values())


class FactorPoint(Point):
    """The log-likelihood at one θ. Informations leave out what a rotation of the factors changes."""

    def natural(self, gradient: Tensor) -> Tensor:
        """The inverse of the information of complete rows, of what is not held, times a gradient: closed form."""
        parts, sample = self._likelihood.split(gradient), self._likelihood.sample
        W, _ = self.structure.parameters.values()
        _, factor = self.gaussian.model.prepared()
        by_factor, by_log = self._scoring.solve(parts["cov_factor"].reshape(W.shape), parts["cov_diag"])
        change = [self.structure.times(factor, parts["mean"]), by_factor.reshape(-1), by_log]
        return torch.cat(change) / sample.total

    @cached_property
    def score_ratio(self) -> float:
        """√(sᵀ I⁻¹ s) of what is not held, I the information of the patterns: by iteration; NaN where that does not end."""
        sample, free = self._likelihood.sample, ~self.held
        W, v = self.structure.parameters.values()

        def product(change: Tensor) -> Tensor:
            named = self._likelihood.split(change * free)
            named["cov_factor"] = named["cov_factor"].reshape(W.shape)
            image = incomplete_factors.information(sample, W, v, named)
            return torch.cat([part.reshape(-1) for part in image.values()]) * free

        score = self.score * free
        try:
            solution = conjugate_gradients("fit", product, score, self.natural, TOLERANCE)
        except UnsolvedError:
            return math.nan
        return abs(float(score @ solution)) ** 0.5

    @cached_property
    def _scoring(self) -> Scoring:
        W, v = self.structure.parameters.values()
        return Scoring(W, v, self._likelihood.split(self.held)["cov_diag"])
