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
from mvnjac.gaussian import Gaussian
from mvnjac.inference.likelihood import MARGINALISE
from mvnjac.sample import Sample


def step(sample: Sample, mean: Tensor, covariance_matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(µ⁺, Σ⁺), Σ⁺ symmetric to the last bit."""
    J = Gaussian(mean, covariance_matrix, missing=MARGINALISE).jacobian(sample.rows)
    totals = J.sum(weights=sample.weights)
    change = covariance_matrix @ totals["mean"] / sample.total
    moved = covariance_matrix + 2 * covariance_matrix @ totals["covariance_matrix"] @ covariance_matrix / sample.total
    return mean + change, 0.5 * (moved + moved.mT) - torch.outer(change, change)


def improved(sample: Sample, covariance_matrix: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The mean and Σ after some steps from the sample's own mean.

    Raises:
        NotPositiveDefiniteError: they lead to a singular Σ: the variables are named.
    """
    mean = torch.zeros_like(sample.origin)
    for _ in range(steps):
        mean, covariance_matrix = step(sample, mean, covariance_matrix)
        refuse_combination(sample, covariance_matrix, VANISHED)
    return mean, covariance_matrix


def factor_step(
    sample: Sample, mean: Tensor, W: Tensor, v: Tensor, lower: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of EM for a factor model whose factors, but not whose missing entries, are what is completed.

    Given what a row observes, its factors z have the mean ŵ = C⁻¹ Bᵀu and the covariance C⁻¹, C = I + BᵀB over what is observed; each
    variable is then regressed on (z, 1) over the rows that have it, and what is left is its unique variance, or the bound.

    Source: Rubin & Thayer 1982, *EM algorithms for ML factor analysis*.
    """
    k, seen = W.shape[-1], (~sample.rows.isnan()).to(W)
    root = v.sqrt()
    B, u = W / root.unsqueeze(-1), (sample.rows - mean).nan_to_num() / root
    squares = torch.einsum("ia,ib->iab", B, B).reshape(len(B), k * k)
    C = torch.eye(k, dtype=W.dtype, device=W.device) + (seen @ squares).reshape(-1, k, k)
    covariances = torch.cholesky_inverse(torch.linalg.cholesky(C))
    z = (covariances @ (u @ B).unsqueeze(-1)).squeeze(-1)
    z = torch.cat([z, torch.ones_like(z[:, :1])], -1)  # the last regressor is 1
    moments = torch.einsum("ma,mb->mab", z, z)
    moments[:, :k, :k] += covariances
    weights = sample.weights.unsqueeze(-1) * seen
    x = sample.rows.nan_to_num()
    normal = (weights.mT @ moments.reshape(len(moments), -1)).reshape(-1, k + 1, k + 1)
    right = (weights * x).mT @ z
    slopes = torch.linalg.solve(normal, right)
    left = (weights * x * x).sum(0) - (slopes * right).sum(-1)
    return slopes[:, k], slopes[:, :k], (left / weights.sum(0)).clamp(min=lower)


def improved_factors(
    sample: Sample, W: Tensor, v: Tensor, lower: float, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean, W and v after some steps from the sample's own mean."""
    mean = torch.zeros_like(sample.origin)
    for _ in range(steps):
        mean, W, v = factor_step(sample, mean, W, v, lower)
    return mean, W, v
