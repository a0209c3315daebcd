"""Batches of Gaussians: on a grid, K factors are shared by n rows; or every row has a covariance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import mvnjac
from mvnjac.covariance.samples import Maker
from tests.support.work import Written

N, K, D, RANK = 400, 6, 30, 3


def densities(kind: str, batch: tuple[int, ...]) -> tuple[Tensor, mvnjac.Covariance]:
    make = Maker(batch=batch, seed=1)
    if kind == "Dense":
        return make.normal(D), mvnjac.Dense(make.definite(D))
    return make.normal(D), mvnjac.LowRank(make.normal(D, RANK), make.positive(D))


def rows(*batch: int) -> Tensor:
    return Maker(batch=batch, seed=2).normal(D)


@pytest.mark.parametrize("kind", ["Dense", "LowRank"])
def test_a_grid_equals_the_densities_one_by_one(kind: str) -> None:
    """x (n, 1, d) and K densities: blocks (n, K, …), and for the mixture weights (n, K) the totals of each density."""
    mean, covariance = densities(kind, (K,))
    x, w = rows(N, 1), Maker(batch=(N, K), seed=3).positive()
    J = mvnjac.jacobian(x, mean, covariance)
    total, gram = J.sum(w), J.gram(w)
    for k in range(K):
        single = covariance.at([value[k] for value in covariance.parameters.values()])
        alone = mvnjac.jacobian(x[:, 0], mean[k], single)
        torch.testing.assert_close(J.log_prob[:, k], alone.log_prob)
        torch.testing.assert_close(J.matrix()[:, k], alone.matrix())
        torch.testing.assert_close(gram[k], alone.gram(w[:, k]))
        for name, value in alone.sum(w[:, k]).items():
            torch.testing.assert_close(total[name][k], value)


def operations(kind: str, n: int, k: int) -> int:
    mean, covariance = densities(kind, (k,))
    with FlopCounterMode(display=False) as counter:
        J = mvnjac.jacobian(rows(n, 1), mean, covariance)
        J.sum()
        _ = J.log_prob
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["Dense", "LowRank"])
def test_grid_shares_its_factors(kind: str) -> None:
    """The products cost n·K·d² (d·k for a factor model); twice the rows cost twice as much, without a second factorisation."""
    once, twice = operations(kind, N, K), operations(kind, 2 * N, K)
    width = D if kind == "Dense" else RANK
    assert twice - once <= 2.5 * 2 * 3 * N * K * D * width
    assert operations(kind, N, 2 * K) <= 2.01 * once


@pytest.mark.parametrize("kind", ["Dense", "LowRank"])
def test_grid_stores_no_matrix_per_row(kind: str) -> None:
    """No array exceeds n×K×d entries; n×K×d×d would be thirty times larger."""
    mean, covariance = densities(kind, (K,))
    x = rows(4 * N, 1)

    with Written() as counter:
        J = mvnjac.jacobian(x, mean, covariance)
        J.sum()
        _ = J.log_prob
    assert counter.largest <= 2 * 4 * N * K * D


@pytest.mark.parametrize("kind", ["Dense", "LowRank"])
def test_a_covariance_for_every_row(kind: str) -> None:
    """x (B, d) with B covariances: one row each, without sums over rows."""
    mean, covariance = densities(kind, (5,))
    x = rows(5)
    J = mvnjac.jacobian(x, mean, covariance)
    for b in range(5):
        single = covariance.at([value[b] for value in covariance.parameters.values()])
        alone = mvnjac.jacobian(x[b], mean[b], single)
        torch.testing.assert_close(J.matrix()[b], alone.matrix())
        for name, value in alone.sum().items():
            torch.testing.assert_close(J.sum()[name][b], value)
