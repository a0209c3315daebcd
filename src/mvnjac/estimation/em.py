"""EM for an unrestricted Σ and missing entries, by the scores: the way to a start from which a faster search goes on.

With s and G the total score by the mean and the full total gradient by Σ of n rows, each the marginal of what it observes,

    µ⁺ = µ + Σ s / n        Σ⁺ = Σ + 2 Σ G Σ / n − (µ⁺ − µ)(µ⁺ − µ)ᵀ

is the step that imputes each row's conditional mean and adds its conditional covariance (Dempster, Laird & Rubin 1977; Little &
Rubin, *Statistical Analysis with Missing Data*, ch. 11): it never lowers the likelihood, and Σ⁺ is positive definite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.covariance.estimation import VANISHED, refuse_combination
from mvnjac.estimation.likelihood import MARGINALISE
from mvnjac.gaussian import Gaussian
from mvnjac.statistics.sufficient import SufficientStatistics


def step(sample: SufficientStatistics, mean: Tensor, covariance_matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(µ⁺, Σ⁺), Σ⁺ symmetric to the last bit."""
    J = Gaussian(mean, covariance_matrix, missing=MARGINALISE).jacobian(sample.rows)
    totals = J.sum(weights=sample.weights)
    change = covariance_matrix @ totals["mean"] / sample.total
    moved = covariance_matrix + 2 * covariance_matrix @ totals["covariance_matrix"] @ covariance_matrix / sample.total
    return mean + change, 0.5 * (moved + moved.mT) - torch.outer(change, change)


def improved(sample: SufficientStatistics, covariance_matrix: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The mean and Σ after some steps from the sample's own mean.

    Raises:
        NotPositiveDefiniteError: they lead to a singular Σ: the variables are named.
    """
    mean = torch.zeros_like(sample.origin)
    for _ in range(steps):
        mean, covariance_matrix = step(sample, mean, covariance_matrix)
        refuse_combination(sample, covariance_matrix, VANISHED)
    return mean, covariance_matrix
