"""What tests of `fit` share: whether an estimate is a maximum, by the library's own scores and by the textbook's."""

from __future__ import annotations

import torch
from torch import Tensor

import mvnjac
from mvnjac.covariance.samples import Maker
from tests.covariance import missing
from tests.covariance.reference import KINDS, unique

#: what is required of a fit: every total score, in units of the square root of its information
REQUIRED = 1e-6
#: what the search goes on to
GOAL = 1e-8


def ratio(estimate: mvnjac.Fit, x: Tensor, weights: Tensor | None = None) -> float:
    """The largest total score at the rows themselves, column by column, by the root of its information: by the library. At a bound the
    score points outwards, and no more."""
    weights = torch.ones(len(x), dtype=torch.float64) if weights is None else weights
    J = mvnjac.jacobian(x, estimate.mean, estimate.covariance, missing="marginalise")
    observed = ~x.isnan()
    information = torch.zeros(len(J.columns()), dtype=torch.float64)
    for pattern in observed.unique(dim=0):
        share = weights[(observed == pattern).all(-1)].sum()
        F = mvnjac.fisher_information(estimate.mean, estimate.covariance, observed=pattern.unsqueeze(0))
        information += share * F.matrix().diagonal()
    totals, there = J.rmatvec(weights), at_bound(estimate)
    assert bool((totals[there] <= 0).all())
    return float((totals.abs() / information.sqrt())[~there].max())


def at_bound(estimate: mvnjac.Fit) -> Tensor:
    """(p,) which columns stand at a bound."""
    columns = estimate.gaussian.jacobian(torch.zeros(1, estimate.gaussian.model.d).double()).columns()
    assert set(estimate.boundary) <= set(columns)
    return torch.tensor([column in estimate.boundary for column in columns])


def textbook_scores(estimate: mvnjac.Fit, x: Tensor) -> Tensor:
    """(n, p) by reverse-mode autodiff of the definition, row by row."""
    gradients = missing.own_gradients(x, estimate.mean, estimate.covariance)
    parts = [unique(gradients[name], KINDS.get(name, "entrywise")) for name in ("mean", *estimate.covariance.parameters)]
    return torch.cat([part if part.ndim > 1 else part.unsqueeze(-1) for part in parts], -1)


def assert_maximum(estimate: mvnjac.Fit, x: Tensor, goal: float = REQUIRED) -> None:
    """By both; and the log-likelihood is that of these rows."""
    assert estimate.converged, estimate.message
    assert ratio(estimate, x) < goal
    scores = textbook_scores(estimate, x)
    deviations = (scores * scores).sum(0).sqrt()  # about the root of the information
    assert float((scores.sum(0).abs() / deviations.clamp(min=1e-300))[~at_bound(estimate)].max()) < 10 * goal
    expected = missing.log_density(x, estimate.mean, estimate.covariance.dense(x.shape[1])).sum()
    torch.testing.assert_close(torch.tensor(estimate.log_likelihood, dtype=torch.float64), expected, rtol=1e-10, atol=1e-9)


def sample(n: int, d: int, k: int = 2, seed: int = 0) -> Tensor:
    """(n, d) of k common factors, in very different units, far from 0."""
    make = Maker(seed=seed)
    W, noise = make.normal(d, k), make.positive(d)
    x = make.normal(n, k) @ W.mT + noise.sqrt() * make.normal(n, d)
    return x * torch.logspace(-2, 2, d, dtype=torch.float64) + 50


def with_gaps(x: Tensor, share: float, seed: int = 1) -> Tensor:
    """Some entries missing, at random; a last row without any entry."""
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.rand(x.shape, generator=generator) < share
    gaps[-1] = True
    return torch.where(gaps, torch.nan, x)
