"""For tests of `fit`: whether an estimate is a maximum, by the scores of the library and of the textbook."""

from __future__ import annotations

import torch
from torch import Tensor

import mvnjac
from mvnjac.covariance.samples import Maker
from tests.covariance import missing
from tests.covariance.reference import KINDS, unique

#: the largest total score of a fit, in units of the square root of its information
REQUIRED = 1e-6
#: the value at which the search stops
GOAL = 1e-8


def ratio(estimate: mvnjac.Fit, x: Tensor, weights: Tensor | None = None) -> float:
    """The largest total score of a column, divided by the root of its information, computed by the library. At a bound, the score must
    point outwards."""
    weights = torch.ones(len(x), dtype=torch.float64) if weights is None else weights
    J = mvnjac.jacobian(x, estimate.mean, estimate.covariance, missing="marginalise")
    observed = ~x.isnan()
    information = torch.zeros(len(J.columns()), dtype=torch.float64)
    for pattern in observed.unique(dim=0):
        share = weights[(observed == pattern).all(-1)].sum()
        F = mvnjac.fisher_information(estimate.mean, estimate.covariance, observed=pattern.unsqueeze(0))
        information += share * F.matrix().diagonal()
    totals, bound = J.rmatvec(weights), at_bound(estimate)
    assert bool((totals[bound] <= 0).all())
    return float((totals.abs() / information.sqrt())[~bound].max())


def at_bound(estimate: mvnjac.Fit) -> Tensor:
    """(p,) a mask of the columns at a bound."""
    columns = estimate.gaussian.jacobian(torch.zeros(1, estimate.gaussian.model.d).double()).columns()
    assert set(estimate.boundary) <= set(columns)
    return torch.tensor([column in estimate.boundary for column in columns])


def textbook_scores(estimate: mvnjac.Fit, x: Tensor) -> Tensor:
    """(n, p) scores by reverse-mode autodiff of the definition, row by row."""
    gradients = missing.own_gradients(x, estimate.mean, estimate.covariance)
    parts = [unique(gradients[name], KINDS.get(name, "entrywise")) for name in ("mean", *estimate.covariance.parameters)]
    return torch.cat([part if part.ndim > 1 else part.unsqueeze(-1) for part in parts], -1)


def assert_maximum(estimate: mvnjac.Fit, x: Tensor, goal: float = REQUIRED) -> None:
    """Require that the estimate is a maximum by both kinds of scores, and check its log-likelihood."""
    assert estimate.converged, estimate.message
    assert ratio(estimate, x) < goal
    scores = textbook_scores(estimate, x)
    deviations = (scores * scores).sum(0).sqrt()  # about the root of the information
    assert float((scores.sum(0).abs() / deviations.clamp(min=1e-300))[~at_bound(estimate)].max()) < 10 * goal
    expected = missing.log_density(x, estimate.mean, estimate.covariance.dense(x.shape[1])).sum()
    torch.testing.assert_close(torch.tensor(estimate.log_likelihood, dtype=torch.float64), expected, rtol=1e-10, atol=1e-9)


def sample(n: int, d: int, k: int = 2, seed: int = 0) -> Tensor:
    """(n, d) rows with k common factors, in very different units, far from 0."""
    make = Maker(seed=seed)
    W, noise = make.normal(d, k), make.positive(d)
    x = make.normal(n, k) @ W.mT + noise.sqrt() * make.normal(n, d)
    return x * torch.logspace(-2, 2, d, dtype=torch.float64) + 50


def with_gaps(x: Tensor, share: float, seed: int = 1) -> Tensor:
    """The rows with entries missing at random; all entries of the last row are missing."""
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.rand(x.shape, generator=generator) < share
    gaps[-1] = True
    return torch.where(gaps, torch.nan, x)
