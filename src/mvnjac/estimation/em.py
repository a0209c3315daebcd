"""EM steps for an unrestricted Σ with missing entries, in terms of scores: they give the starting values of the L-BFGS search.

With s the total score with respect to the mean and G the full total gradient with respect to Σ, over n rows,

    µ⁺ = µ + Σ s / n        Σ⁺ = Σ + 2 Σ G Σ / n − (µ⁺ − µ)(µ⁺ − µ)ᵀ

This is the EM step, which imputes each row's conditional mean and adds its conditional covariance (Dempster, Laird & Rubin
1977; Little & Rubin, *Statistical Analysis with Missing Data*, ch. 11). It never decreases the likelihood, and Σ⁺ is positive
definite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mvnjac.covariance.estimation import VANISHED, refuse_combination
from mvnjac.estimation.likelihood import MARGINALISE
from mvnjac.gaussian import Gaussian
from mvnjac.statistics.sufficient import SufficientStatistics


def step(sample: SufficientStatistics, mean: Tensor, covariance_matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(µ⁺, Σ⁺), with Σ⁺ exactly symmetric."""
    J = Gaussian(mean, covariance_matrix, missing=MARGINALISE).jacobian(sample.rows)
    totals = J.sum(weights=sample.weights)
    change = covariance_matrix @ totals["mean"] / sample.total
    second = covariance_matrix + 2 * covariance_matrix @ totals["covariance_matrix"] @ covariance_matrix / sample.total
    return mean + change, 0.5 * (second + second.mT) - torch.outer(change, change)


def iterate(
    sample: SufficientStatistics, covariance_matrix: Tensor, steps: int, done: Callable[[], None] = lambda: None
) -> tuple[Tensor, Tensor]:
    """The mean and Σ after the given number of steps, starting at the sample mean; `done` is called after each.

    Raises:
        NotPositiveDefiniteError: the steps lead to a singular Σ; the variables are named.
    """
    mean = torch.zeros_like(sample.origin)
    for _ in range(steps):
        mean, covariance_matrix = step(sample, mean, covariance_matrix)
        refuse_combination(sample, covariance_matrix, VANISHED)
        done()
    return mean, covariance_matrix
