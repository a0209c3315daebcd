"""The log-likelihood of a factor model for rows with missing entries, with an information metric that is free of rotations."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from mvnjac.covariance.structured.factor_analysis import Scoring
from mvnjac.covariance.structured.low_rank import LowRank
from mvnjac.errors import UnsolvedError
from mvnjac.estimation import incomplete_factors
from mvnjac.estimation.likelihood import CG_TOLERANCE, Likelihood, LikelihoodPoint
from mvnjac.gaussian import Gaussian
from mvnjac.linalg.solvers import conjugate_gradients
from mvnjac.statistics.sufficient import SufficientStatistics


class FactorLikelihood(Likelihood):
    """θ: the mean, the loadings and the logarithms of the unique variances, which have a lower bound.

    If the sample holds only a subsample of its table, value and score still cover all rows, by passes over the table.
    """

    def __init__(self, sample: SufficientStatistics, mean: Tensor, W: Tensor, v: Tensor, lower: float) -> None:
        super().__init__(sample, mean, LowRank(W, v))
        self.lower[-sample.d :] = math.log(lower)

    def evaluate(self, theta: Tensor) -> FactorPoint:
        return FactorPoint(self, theta, self.gaussian(theta))

    def totals(self, gaussian: Gaussian) -> tuple[float, dict[str, Tensor]]:
        if self.sample.held() is not self.sample:
            return super().totals(gaussian)
        return incomplete_factors.totals(self.sample, gaussian.mean, *gaussian.covariance.parameters.values())


class FactorPoint(LikelihoodPoint):
    """The log-likelihood at one θ. Its informations leave out the rotations of the factors, which do not change Σ."""

    def natural_gradient(self, gradient: Tensor) -> Tensor:
        """The inverse information of complete rows, over the inactive elements, times a gradient: closed form."""
        parts, sample = self._likelihood.split(gradient), self._likelihood.sample
        W, _ = self.structure.parameters.values()
        _, factor = self.gaussian.model.prepared()
        by_factor, by_log = self._scoring.solve(parts["cov_factor"].reshape(W.shape), parts["cov_diag"])
        change = [self.structure.times(factor, parts["mean"]), by_factor.reshape(-1), by_log]
        return torch.cat(change) / sample.total

    @cached_property
    def score_ratio(self) -> float:
        """√(sᵀ I⁻¹ s) over the inactive elements, I the information of the patterns; NaN if the iteration does not converge."""
        sample, inactive = self._likelihood.sample, ~self.active
        W, v = self.structure.parameters.values()

        def product(change: Tensor) -> Tensor:
            by_name = self._likelihood.split(change * inactive)
            by_name["cov_factor"] = by_name["cov_factor"].reshape(W.shape)
            image = incomplete_factors.information(sample, W, v, by_name)
            return torch.cat([part.reshape(-1) for part in image.values()]) * inactive

        score = self.score * inactive
        try:
            solution = conjugate_gradients("fit", product, score, self.natural_gradient, CG_TOLERANCE)
        except UnsolvedError:
            return math.nan
        return abs(float(score @ solution)) ** 0.5

    @cached_property
    def _scoring(self) -> Scoring:
        W, v = self.structure.parameters.values()
        return Scoring(W, v, self._likelihood.split(self.active)["cov_diag"])
