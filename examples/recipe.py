"""A widespread recipe for the derivatives of a Gaussian log-density, its errors, and the correct results.

The recipe has three examples: derivatives with respect to x, to the mean, and to the covariance. Each is shown as in the recipe
(`naive_…`), and as one line of mvnjac. ``python examples/recipe.py`` prints both; docs/explanation/common_mistakes.md explains them.
"""

from __future__ import annotations

import math
import warnings

import torch

import mvnjac

X = torch.tensor([[1.0, -1.0], [2.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
MEAN = torch.tensor([0.5, 0.0], dtype=torch.float64)
SIGMA = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)


def naive_log_prob(x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """The log-density of the recipe. The line marked "wrong" has the first error, the next line the second."""
    L = torch.linalg.cholesky(covariance)
    L_inverse = torch.inverse(L)
    precision = L_inverse @ L_inverse.T  # wrong: Σ⁻¹ is L⁻ᵀ L⁻¹, this is L⁻¹ L⁻ᵀ
    n, d = x.shape  # a single observation x (d,) fails here
    r = x - mean
    log_det = 2 * torch.log(torch.diagonal(L)).sum()
    return -0.5 * (d * math.log(2 * math.pi) + log_det + ((r @ precision) * r).sum(1))


# --- with respect to x ----------------------------------------------------------------------------------------------------


def naive_by_x() -> torch.Tensor:
    """(n, n, d): all log-densities with respect to all rows; all but n·d numbers are zero, and those are wrong."""
    return torch.autograd.functional.jacobian(lambda x: naive_log_prob(x, MEAN, SIGMA), X)


def by_x() -> torch.Tensor:
    """(n, d)"""
    return mvnjac.jacobian(X, MEAN, SIGMA)["x"]


# --- with respect to the mean -------------------------------------------------------------------------------------------


def naive_by_mean() -> torch.Tensor:
    """(n, d): the right shape, with n backward passes, but wrong numbers."""
    return torch.autograd.functional.jacobian(lambda mean: naive_log_prob(X, mean, SIGMA), MEAN)


def by_mean() -> torch.Tensor:
    """(n, d)"""
    return mvnjac.jacobian(X, MEAN, SIGMA)["mean"]


# --- with respect to the unique elements of the covariance ------------------------------------------------------------


def naive_by_covariance() -> torch.Tensor | None:
    """None: Σ is replaced by a new tensor after requires_grad, so that the gradient belongs to another tensor."""
    covariance = SIGMA.clone().requires_grad_()
    covariance = (covariance + covariance.T) / 2  # "make it symmetric": no longer the leaf
    naive_log_prob(X, MEAN, covariance).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch gives a warning only
        return covariance.grad


def naive_unique_elements(gradient: torch.Tensor) -> torch.Tensor:
    """The averaged off-diagonals of the triangle: entries of the full gradient, which are half of the partial derivatives."""
    return mvnjac.vech((gradient + gradient.T) / 2)


def by_covariance() -> torch.Tensor:
    """(n, 3): with respect to σ₁₁, σ₂₁, σ₂₂; the off-diagonal derivative is doubled, because σ₂₁ occurs twice in Σ."""
    return mvnjac.jacobian(X, MEAN, SIGMA).unique("covariance_matrix")


def main() -> None:
    torch.set_printoptions(precision=4, sci_mode=False)
    print("by x, naive (its diagonal blocks):", torch.einsum("nnd->nd", naive_by_x()), "by x:", by_x(), sep="\n")
    print("\nby the mean, naive:", naive_by_mean(), "by the mean:", by_mean(), sep="\n")
    total = mvnjac.jacobian(X, MEAN, SIGMA).sum()["covariance_matrix"]
    print("\nby the covariance, naive:", naive_by_covariance(), "averaged:", naive_unique_elements(total), sep="\n")
    print(
        "by the unique elements of the covariance:",
        by_covariance().sum(0),
        "one row per observation:",
        by_covariance(),
        sep="\n",
    )


if __name__ == "__main__":
    main()
