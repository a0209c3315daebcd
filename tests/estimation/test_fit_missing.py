"""fit with missing entries: the EM step against its textbook form, maxima, and data that do not identify the parameters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import mvnjac
from mvnjac import errors
from mvnjac.covariance.samples import Maker
from mvnjac.estimation import em
from mvnjac.statistics.sufficient import SufficientStatistics
from tests.covariance import missing
from tests.oracles.factanal import RATES
from tests.support.fitting import REQUIRED, assert_maximum, ratio, sample, with_gaps

nan = float("nan")
#: the cement data (Hald; Draper & Smith) with the gaps of Little & Rubin, *Statistical Analysis with Missing Data*, table 7.4
CEMENT = torch.tensor(
    [
        [7, 26, 6, 60, 78.5],
        [1, 29, 15, 52, 74.3],
        [11, 56, 8, 20, 104.3],
        [11, 31, 8, 47, 87.6],
        [7, 52, 6, 33, 95.9],
        [11, 55, 9, 22, 109.2],
        [3, 71, 17, nan, 102.7],
        [1, 31, 22, nan, 72.5],
        [2, 54, 18, nan, 93.1],
        [nan, nan, 4, nan, 115.9],
        [nan, nan, 23, nan, 83.8],
        [nan, nan, 9, nan, 113.3],
        [nan, nan, 8, nan, 109.4],
    ],
    dtype=torch.float64,
)
#: the maximum-likelihood means that the book gives
CEMENT_MEANS = torch.tensor([6.655, 49.965, 11.769, 27.047, 95.423], dtype=torch.float64)


def textbook_step(x: Tensor, mean: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook EM step: conditional means in place of missing entries, and their conditional covariances."""
    filled, extra = x.clone(), torch.zeros_like(sigma)
    for i, row in enumerate(x):
        m, o = row.isnan(), ~row.isnan()
        B = sigma[m][:, o] @ torch.linalg.inv(sigma[o][:, o])
        filled[i, m] = mean[m] + B @ (row - mean)[o]
        extra[torch.outer(m, m)] += (sigma[m][:, m] - B @ sigma[o][:, m]).flatten()
    new = filled.mean(0)
    return new, ((filled - new).mT @ (filled - new) + extra) / len(x)


def test_the_step_from_the_scores_is_the_textbooks() -> None:
    x = CEMENT
    mean, sigma = x.nanmean(0), torch.diag(torch.tensor([10.0, 200, 30, 200, 200]).double()) + 5
    found = SufficientStatistics.of(x, None, str)
    assert found is not None
    moved, Sigma = em.step(found, mean - found.origin, sigma)
    new, expected = textbook_step(x, mean, sigma)
    torch.testing.assert_close(moved + found.origin, new)
    torch.testing.assert_close(Sigma, expected)


def test_little_and_rubin() -> None:
    estimate = mvnjac.fit(CEMENT, missing="marginalise")
    torch.testing.assert_close(estimate.mean, CEMENT_MEANS, atol=6e-4, rtol=0)
    assert_maximum(estimate, CEMENT)
    mean, sigma = textbook_step(CEMENT, estimate.mean, estimate.covariance.dense())
    torch.testing.assert_close(mean, estimate.mean, rtol=1e-7, atol=0)  # a fixed point of EM
    torch.testing.assert_close(sigma, estimate.covariance.dense(), rtol=1e-6, atol=0)


STRUCTURES = [
    *("dense", "scale-correlation", "precision", "diagonal", "isotropic", "low-rank:2"),
    *("toeplitz", "compound-symmetric", "banded-precision:1", "banded-precision:6", "kronecker:1x7", "ar:2"),
]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_maxima(structure: str) -> None:
    x = with_gaps(sample(120, 7), 0.15)
    estimate = mvnjac.fit(x, structure, missing="marginalise")
    assert estimate.rows == 119  # the last row has no observed entry
    assert_maximum(estimate, x)


def test_a_matrix_with_gaps() -> None:
    x = with_gaps(sample(120, 6), 0.1)
    assert_maximum(mvnjac.fit(x, "kronecker:2x3", missing="marginalise"), x)


def test_without_a_gap_nothing_changes() -> None:
    x = sample(60, 5)
    a, b = mvnjac.fit(x, "low-rank:1"), mvnjac.fit(x, "low-rank:1", missing="marginalise")
    torch.testing.assert_close(a.covariance.dense(), b.covariance.dense(), rtol=0, atol=0)
    assert mvnjac.fit(x, missing="marginalise").iterations == 0


def test_independent_variables_are_estimated_one_by_one() -> None:
    x = with_gaps(sample(60, 4), 0.3)
    estimate = mvnjac.fit(x, "diagonal", missing="marginalise")
    torch.testing.assert_close(estimate.mean, x.nanmean(0))
    torch.testing.assert_close(estimate.covariance.parameters["cov_diag"], (x - x.nanmean(0)).square().nanmean(0))


def test_weights_count_rows() -> None:
    x = with_gaps(sample(80, 4), 0.2)
    weights = torch.ones(80).double()
    weights[5] = 2
    a = mvnjac.fit(x, weights=weights, missing="marginalise")
    b = mvnjac.fit(torch.cat([x, x[5:6]]), missing="marginalise")
    torch.testing.assert_close(a.covariance.dense(), b.covariance.dense(), rtol=1e-6, atol=0)
    assert ratio(a, x, weights) < REQUIRED


def test_a_functions_mean_with_gaps() -> None:
    """One mean that all variables share: each counts by its number of values and its variance."""
    x = with_gaps(Maker(seed=2).normal(60, 3) * torch.tensor([1.0, 2, 3]).double() + 5, 0.2)

    def shared(theta: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return theta["level"].expand(3), torch.diag_embed(theta["log_variance"].exp())

    start = {"level": torch.tensor(0.0).double(), "log_variance": torch.zeros(3).double()}
    estimate = mvnjac.fit(x, mvnjac.Parametric(shared, start), missing="marginalise")
    level, log_variance = estimate.covariance.parameters.values()
    weights = (~x.isnan()).sum(0) / log_variance.exp()
    torch.testing.assert_close(level, (weights * x.nanmean(0)).sum() / weights.sum())
    torch.testing.assert_close(log_variance.exp(), (x - level).square().nanmean(0))


def test_standard_errors_are_from_the_observed_information() -> None:
    """By finite differences of the textbook scores."""
    x = with_gaps(sample(100, 3), 0.2) / torch.logspace(-2, 2, 3, dtype=torch.float64)
    estimate = mvnjac.fit(x, missing="marginalise")
    mean, sigma = estimate.mean, estimate.covariance.dense()

    def total(theta: Tensor) -> Tensor:
        return missing.log_density(x, theta[:3], mvnjac.unvech(theta[3:])).sum()

    theta = torch.cat([mean, mvnjac.vech(sigma)])
    H = torch.autograd.functional.hessian(total, theta)
    errors_ = torch.linalg.inv(-H).diagonal().sqrt()
    found = estimate.standard_errors()
    torch.testing.assert_close(found["mean"], errors_[:3], rtol=1e-6, atol=0)
    torch.testing.assert_close(mvnjac.vech(found["covariance_matrix"]), errors_[3:], rtol=1e-6, atol=0)


def hide(x: Tensor, *at: tuple[slice, int]) -> Tensor:
    x = x.clone()
    for rows, column in at:
        x[rows, column] = nan
    return x


X = sample(40, 4)
TWIN = torch.cat([X[:, :3], X[:, :1] + X[:, 1:2]], 1)
REFUSED = {
    "no value": (hide(X, (slice(None), 2)), "diagonal", errors.NotIdentifiedError, "'TSLA': there is no value at all"),
    "never together": (
        hide(X, (slice(0, 20), 1), (slice(20, 40), 3)),
        "dense",
        errors.NotIdentifiedError,
        "never observed in the same row.*: 'MSFT' and 'NVDA'\\. .*low-rank",
    ),
    "two pairs": (
        hide(X, (slice(0, 20), 1), (slice(20, 40), 3), (slice(0, 20), 0)),
        "cholesky",
        errors.NotIdentifiedError,
        "'AAPL' and 'NVDA'; 'MSFT' and 'NVDA'",
    ),
    "neighbours never together": (
        hide(X, (slice(0, 20), 1), (slice(20, 40), 2)),
        "banded-precision:1",
        errors.NotIdentifiedError,
        "never observed in the same row.*: 'MSFT' and 'TSLA'\\. ",
    ),
    "constant": (hide(X.clone().index_fill(1, torch.tensor([1]), 2.0), (slice(0, 9), 1)), "dense",
                 errors.NotPositiveDefiniteError, "'MSFT' is constant wherever observed"),
    "a combination": (hide(TWIN, (slice(0, 9), 2)), "dense", errors.NotPositiveDefiniteError, "linear combination of"),
    "few rows": (hide(X[:4], (slice(0, 1), 2)), "dense", errors.NotPositiveDefiniteError, "4 rows for 4 variables"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    x, structure, error, says = REFUSED[case]
    with pytest.raises(error, match=f"^fit: .*{says}"):
        mvnjac.fit(x, structure, missing="marginalise", names=["AAPL", "MSFT", "TSLA", "NVDA"])


def test_nothing_at_all() -> None:
    with pytest.raises(errors.NotIdentifiedError, match="no entry that is not missing"):
        mvnjac.fit(torch.full((3, 2), nan), missing="marginalise")


def test_pairs_that_are_never_together_do_not_matter_to_factors() -> None:
    x = sample(200, 6, k=1)
    x[:100, 1], x[100:, 4] = nan, nan
    estimate = mvnjac.fit(x, "low-rank:1", missing="marginalise")
    assert ratio(estimate, x) < REQUIRED


def test_pairs_that_are_never_together_do_not_matter_outside_a_band() -> None:
    x = hide(sample(60, 4), (slice(0, 30), 0), (slice(30, 60), 3))
    assert_maximum(mvnjac.fit(x, "banded-precision:1", missing="marginalise"), x)


def currencies() -> tuple[Tensor, list[str]]:
    rates = pd.read_csv(RATES, na_values="N/A", index_col="Date").sort_index().dropna(axis=1, how="all")
    return torch.from_numpy(np.log(rates.to_numpy(float))).diff(dim=0), list(rates.columns)


@pytest.mark.slow
def test_currencies_that_come_and_go() -> None:
    """34 currencies with variances over orders of magnitude, two of them pegged to the euro; errors name those without a fit."""
    x, names = currencies()
    remaining = [name for name in names if name != "EEK"]
    with pytest.raises(errors.NotPositiveDefiniteError, match="'EEK' is constant wherever observed"):
        mvnjac.fit(x, missing="marginalise", names=names)
    with pytest.raises(errors.NotIdentifiedError, match=r"never observed in the same row.*'TR[LY]' and|'ROL' and") as caught:
        mvnjac.fit(x[:, [names.index(name) for name in remaining]], missing="marginalise", names=remaining)
    assert "more pairs" in str(caught.value)
    gone = {"EEK", "CYP", "MTL", "ROL", "SIT", "SKK", "TRL"}
    remaining = [name for name in names if name not in gone]
    some = x[:, [names.index(name) for name in remaining]]
    for structure in ("dense", "low-rank:3"):
        estimate = mvnjac.fit(some, structure, missing="marginalise", names=remaining)
        assert estimate.converged
        assert ratio(estimate, some) < REQUIRED
