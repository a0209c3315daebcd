"""The content of a report: distances, standard deviations, alerts, and missing entries, compared with direct computations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import mvnjac
from mvnjac.inference import covariance_of_estimates
from mvnjac.report.analysis.alerts import alerts
from mvnjac.report.analysis.diagnostics import missing_entries
from mvnjac.report.analysis.distances import distances
from mvnjac.report.analysis.estimates_table import estimated
from mvnjac.report.analysis.volatilities import volatilities

DAYS = [day.date() for day in pd.bdate_range("2020-01-01", periods=300)]


@pytest.fixture
def x() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_t(5, size=(300, 4)) @ rng.normal(size=(4, 4))


@pytest.mark.parametrize("structure", ["dense", "low-rank:1", "precision"])
def test_distances_of_complete_rows(x: np.ndarray, structure: str) -> None:
    fit = mvnjac.fit(torch.tensor(x), structure)
    found = distances(fit.gaussian.jacobian(torch.tensor(x)), DAYS)
    r = x - fit.mean.numpy()
    squares = np.einsum("ni,ij,nj->n", r, np.linalg.inv(fit.covariance.dense().numpy()), r)
    order = np.argsort(squares)
    np.testing.assert_allclose(found.observed, squares[order], rtol=1e-9)
    assert found.labels == [DAYS[i] for i in order]
    np.testing.assert_allclose(found.expected, stats.chi2.ppf((np.arange(300) + 0.5) / 300, 4), rtol=1e-8)
    p_values = stats.chi2.sf(squares, 4)
    assert found.beyond == (p_values <= 0.001).sum()
    assert found.top[0].label == DAYS[order[-1]]
    assert found.top[0].p_value == pytest.approx(p_values[order[-1]], rel=1e-9)


def test_distances_of_incomplete_rows(x: np.ndarray) -> None:
    """Each is compared with the distribution for the number of its observed entries; a row without entries is left out."""
    x[::3, 1], x[::5, 2], x[7] = np.nan, np.nan, np.nan
    sigma = np.cov(np.random.default_rng(1).normal(size=(50, 4)).T)
    gaussian = mvnjac.Gaussian(torch.zeros(4, dtype=torch.float64), torch.tensor(sigma), missing="marginalise")
    found = distances(gaussian.jacobian(torch.tensor(x)), DAYS)
    assert len(found.observed) == 299
    assert DAYS[7] not in found.labels
    for row in found.top:
        i = DAYS.index(row.label)
        o = ~np.isnan(x[i])
        square = x[i, o] @ np.linalg.solve(sigma[np.ix_(o, o)], x[i, o])
        assert (row.distance, row.observed) == (pytest.approx(square, rel=1e-9), o.sum())
        assert row.p_value == pytest.approx(stats.chi2.sf(square, o.sum()), rel=1e-6)
    normal = np.random.default_rng(2).multivariate_normal(np.zeros(4), sigma, size=300)
    normal[::2, :3] = np.nan
    found = distances(gaussian.jacobian(torch.tensor(normal)), DAYS)
    seen = ~np.isnan(normal)
    parts = [(row[o], sigma[np.ix_(o, o)]) for row, o in zip(normal, seen, strict=True)]
    squares, k = np.array([row @ np.linalg.solve(S, row) for row, S in parts]), seen.sum(1)
    scores = ((squares / k) ** (1 / 3) - (1 - 2 / (9 * k))) / np.sqrt(2 / (9 * k))  # Wilson & Hilferty 1931
    converted = np.where(k == 4, squares, 4 * np.maximum(1 - 2 / 36 + scores * np.sqrt(2 / 36), 0) ** 3)
    np.testing.assert_allclose(found.observed, converted[np.argsort(scores, kind="stable")], rtol=1e-9)


@pytest.mark.parametrize("structure", ["dense", "low-rank:1", "scale-correlation", "cholesky"])
def test_standard_deviations_have_robust_errors(x: np.ndarray, structure: str) -> None:
    gaussian = mvnjac.fit(torch.tensor(x), structure, names=list("abcd")).gaussian
    J = gaussian.jacobian(torch.tensor(x))
    table, _ = estimated(J, "expected")
    found = volatilities(J, list("abcd"), table, True)
    np.testing.assert_allclose(found.values, gaussian.parameter("scale"), rtol=1e-12)
    if structure == "low-rank:1":  # it restricts the correlations, so the errors have no formula by variable
        expected = covariance_of_estimates(J, "sandwich", wrt="scale").standard_errors
    else:
        np.testing.assert_allclose(found.values, x.std(0), rtol=1e-9)
        expected = ((x - x.mean(0)) ** 2).std(0) / np.sqrt(300) / (2 * x.std(0))
    np.testing.assert_allclose(found.robust_errors, expected, rtol=1e-6)
    np.testing.assert_allclose(np.diag(found.correlation), 1)
    assert table.words[0] == "mean of a"
    assert volatilities(J, list("abcd"), table, False).robust_errors is None


def test_stale_series_and_few_entries(x: np.ndarray) -> None:
    x[100:112, 1] = x[100, 1]
    x[105, 1] = np.nan  # a gap does not end the run
    x[20:, 2] = np.nan
    x[:, 3] = np.random.default_rng(0).integers(1, 4, size=300)  # a scale with few values has runs by chance
    found = alerts(torch.tensor(x), list("abcd"), DAYS, 14)
    (run,) = found.stale
    assert (run.variable, run.rows, run.first, run.last) == ("b", 11, DAYS[100], DAYS[111])
    assert found.few == [("c", 20)]
    assert found.rows_per_parameter == pytest.approx(300 / 14)


def test_missing_entries_by_variable(x: np.ndarray) -> None:
    x[:50, 0], x[-20:, 0], x[100:110, 0], x[:, 1] = np.nan, np.nan, np.nan, np.nan
    found = missing_entries(torch.tensor(x), list("abcd"), DAYS)
    a, b, c, _ = found.variables
    assert (a.observed, a.first, a.last, a.longest_gap) == (220, DAYS[50], DAYS[279], 10)
    assert a.share == pytest.approx(80 / 300)
    assert (b.observed, b.share, b.first, b.last, b.longest_gap) == (0, 1, None, None, 0)
    assert (c.observed, c.share, c.longest_gap) == (300, 0, 0)
    assert found.timeline is not None
    shares = np.array(found.timeline.shares)
    assert shares.shape == (4, len(found.timeline.first)) == (4, 240)
    assert np.nanmin(shares[1]) == 1
    assert shares[0, 0] == 1
    assert np.nanmax(shares[2:]) == 0
    assert missing_entries(torch.tensor(x[:, 2:]), list("cd"), DAYS).timeline is None


@pytest.mark.parametrize(("n", "d"), [(1, 1), (10, 1), (20_000, 2), (7000, 17), (3000, 200)])
def test_expected_quantiles(n: int, d: int) -> None:
    x = torch.zeros(n, d, dtype=torch.float64)
    found = distances(mvnjac.Gaussian(x[0], torch.eye(d, dtype=x.dtype)).jacobian(x), list(range(n)))
    np.testing.assert_allclose(found.expected, stats.chi2.ppf((np.arange(n) + 0.5) / n, d), rtol=1e-7)
