"""Fit a multivariate normal distribution to the daily returns of 17 currencies, with three methods, and compare their times.

The methods are the natural gradient, L-BFGS with closed-form gradients, and L-BFGS with torch.distributions. The parameters of L-BFGS
are the mean and the unconstrained Cholesky factor (with the logarithm of its diagonal); the data are standardised.

    python examples/fit.py examples/data/ecb_reference_rates.csv.gz
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

import mvnjac

COMPLETE = [
    "USD",
    "JPY",
    "CZK",
    "DKK",
    "GBP",
    "HUF",
    "PLN",
    "SEK",
    "CHF",
    "NOK",
    "AUD",
    "CAD",
    "HKD",
    "KRW",
    "NZD",
    "SGD",
    "ZAR",
]


def returns(path: Path) -> Tensor:
    """(n, 17) log returns in standard deviations of each currency, by date."""
    rates = pd.read_csv(path, index_col="Date")[COMPLETE].sort_index()
    x = torch.from_numpy(rates.to_numpy(float)).log().diff(dim=0)
    x = x[x.isfinite().all(1)]
    return x / x.std(0)


def natural_gradient(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Steps of length 1 along the natural gradient with respect to mean and Σ; two steps are enough."""
    d = x.shape[1]
    mean, sigma = torch.zeros(d, dtype=x.dtype), torch.eye(d, dtype=x.dtype)
    steps, size = 0, 1.0
    while size > 1e-12 and steps < 20:
        step = mvnjac.natural_gradient(x, mean, sigma)
        mean, sigma = mean + step["mean"], sigma + step["covariance_matrix"]
        steps, size = steps + 1, max(float(change.abs().max()) for change in step.values())
    return mean, sigma, steps


def lbfgs(x: Tensor, log_prob: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor, int]:
    """L-BFGS over the mean and the log-Cholesky factor, for a function `log_prob(mean, log_scale_tril)`."""
    d = x.shape[1]
    mean = torch.zeros(d, dtype=x.dtype, requires_grad=True)
    theta = torch.zeros(d, d, dtype=x.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [mean, theta], max_iter=500, tolerance_grad=1e-9, tolerance_change=0, history_size=50, line_search_fn="strong_wolfe"
    )
    calls = 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        optimiser.zero_grad()
        value = -log_prob(mean, theta).mean()
        value.backward()
        return value

    optimiser.step(loss)
    root = scale_tril(theta.detach())
    return mean.detach(), root @ root.T, calls


def scale_tril(theta: Tensor) -> Tensor:
    return theta.tril(-1) + torch.diag_embed(theta.diagonal().exp())


def main(path: Path) -> float:
    """Print a line for each method; return the largest error of the estimates."""
    torch.set_num_threads(1)  # the arrays are too small for several threads
    x = returns(path)

    def by_torch(mean: Tensor, theta: Tensor) -> Tensor:
        return torch.distributions.MultivariateNormal(mean, scale_tril=scale_tril(theta), validate_args=False).log_prob(x)

    methods = {
        "natural gradient": lambda: natural_gradient(x),
        "L-BFGS, mvnjac": lambda: lbfgs(x, lambda mean, theta: mvnjac.log_prob(x, mean, mvnjac.LogCholesky(theta.tril()))),
        "L-BFGS, torch.distributions": lambda: lbfgs(x, by_torch),
    }
    exact = x.mean(0), torch.cov(x.T, correction=0)
    worst, reference = 0.0, None
    print(f"{x.shape[0]} days of {x.shape[1]} currencies, {torch.get_num_threads()} threads")
    for name, fit in methods.items():
        fit()  # the first run warms up
        start = time.perf_counter()
        mean, sigma, calls = fit()
        elapsed = time.perf_counter() - start
        error = max(float((mean - exact[0]).abs().max()), float((sigma - exact[1]).abs().max()))
        worst, reference = max(worst, error), elapsed
        print(f"{name:30s} {calls:4d} evaluations  {elapsed * 1e3:9.1f} ms   error of the estimate {error:.1e}")
    assert reference is not None
    return worst


if __name__ == "__main__":
    main(Path(sys.argv[1]))
