"""Score tests: signed expected changes and bounded statistics; score processes of weighted fits."""

from __future__ import annotations

import warnings

import pytest
import torch
from scipy import stats

import mvnjac
from mvnjac import inference
from mvnjac.errors import ArgumentError, NeverRejectsWarning, NotIdentifiedError

ZERO = "covariance_matrix[1,0]"


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(d, dtype=torch.float64) + 0.3 * torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing


def diagonal(x: torch.Tensor) -> mvnjac.Jacobian:
    return mvnjac.fit(x, "diagonal").gaussian.jacobian(x)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_expected_change_of_a_covariance_is_the_covariance(sign: float) -> None:
    """For a diagonal Σ one Newton step with the expected information reaches the sample's covariance: σ_ii σ_jj (P S P)_ij."""
    x = rows(200, 3) * torch.tensor([1.0, sign, 1.0], dtype=torch.float64)
    pairs = ["covariance_matrix[1,0]", "covariance_matrix[2,0]", "covariance_matrix[2,1]"]
    S = torch.cov(x.mT, correction=0)
    test = inference.score_test(diagonal(x), zero=pairs)
    expected = [float(S[1, 0]), float(S[2, 0]), float(S[2, 1])]
    assert test.expected_changes == pytest.approx(expected, rel=1e-9)
    assert test.to_pandas()["expected_change"].tolist() == list(test.expected_changes)
    assert inference.score_test(diagonal(x), zero=pairs, robust=True).expected_changes == pytest.approx(expected, rel=1e-9)
    assert test.bound == float("inf")


def test_the_expected_change_of_an_equality_is_first_minus_second() -> None:
    """For two means with equal, known weights: the step from their common value is ± half of the difference each."""
    x = rows(150, 2) + torch.tensor([0.5, 0.0], dtype=torch.float64)
    common = x.mean().expand(2)
    scatter = ((x - common).square().mean()).expand(2)
    J = mvnjac.jacobian(x, common, mvnjac.Diagonal(scatter))
    names = [("mean[0]", "mean[1]"), ("cov_diag[0]", "cov_diag[1]")]
    test = inference.score_test(J, equal=names)
    assert test.expected_changes[0] == pytest.approx(float(x[:, 0].mean() - x[:, 1].mean()), rel=1e-9)
    squares = (x - common).square().mean(0)
    assert test.expected_changes[1] == pytest.approx(float(squares[0] - squares[1]), rel=1e-9)


def test_a_bounded_statistic_says_when_it_can_never_reject() -> None:
    """15 covariances of 6 variables: χ²'s 95 % quantile is 24.996, and n is the largest value."""
    assert 24 < stats.chi2.ppf(0.95, 15) < 25
    with warnings.catch_warnings():
        warnings.simplefilter("error", NeverRejectsWarning)
        for n, arguments in ((25, {"robust": True}), (200, {"robust": True}), (200, {"information": "opg"})):
            test = inference.score_test(diagonal(rows(n, 6)), **arguments)
            assert test.statistic <= test.bound == n
    with pytest.warns(NeverRejectsWarning, match="at most the number of rows, 24, where χ² with 15 degrees") as seen:
        test = inference.score_test(diagonal(rows(24, 6)), robust=True)
    assert seen[0].filename == __file__
    assert test.p_value > stats.chi2.sf(24, 15) > 0.05
    with pytest.raises(NotIdentifiedError, match="15 constraints are tested by the scores of 15 rows"):
        inference.score_test(diagonal(rows(15, 6)), robust=True)
    assert inference.score_test(diagonal(rows(15, 6))).df == 15  # the expected information needs no rows


def test_extreme_rows_reach_the_bound() -> None:
    """Rows with equal products: the robust statistic is at most n, while the other has no bound."""
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]] * 20, dtype=torch.float64) + 1e-6 * rows(40, 2)
    robust, plain = inference.score_test(diagonal(x), robust=True), inference.score_test(diagonal(x))
    assert 39.9 < robust.statistic <= robust.bound == 40
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0] * 10, dtype=torch.float64)
    half = mvnjac.fit(x, "diagonal", weights=weights).gaussian.jacobian(x)
    assert inference.score_test(half, robust=True, weights=weights).bound == 20
    assert plain.bound == float("inf")


# --- processes of weighted fits --------------------------------------------------------------------------------------


def test_a_weighted_process_by_its_definition() -> None:
    """One variable, known mean and variance formulas: s = w ((x − µ)/v, ½ ((x − µ)²/v² − 1/v))."""
    n = 90
    x = rows(n, 1, seed=3)[:, 0]
    weights = 0.5 + torch.rand(n, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    mean = (weights * x).sum() / weights.sum()
    variance = (weights * (x - mean).square()).sum() / weights.sum()
    r = x - mean
    scores = weights.unsqueeze(-1) * torch.stack([r / variance, 0.5 * (r.square() / variance**2 - 1 / variance)], -1)
    values, Q = torch.linalg.eigh(scores.mT @ scores / n)
    expected = scores.cumsum(0) / n**0.5 @ (Q * values.rsqrt()) @ Q.mT
    J = mvnjac.fit(x.unsqueeze(-1), weights=weights).gaussian.jacobian(x.unsqueeze(-1))
    process = inference.score_process(J, weights=weights)
    torch.testing.assert_close(process.process[1:], expected, rtol=0, atol=1e-10)
    given = inference.score_process(
        J, weights=weights, scores_covariance=inference.scores_covariance(J, lag=0, prewhite=0, weights=weights)
    )
    torch.testing.assert_close(given.process, process.process, rtol=0, atol=1e-10)
    torch.testing.assert_close(inference.score_process(J, weights=3 * weights).process, process.process, rtol=0, atol=1e-10)
    with pytest.raises(NotIdentifiedError, match="with the weights= of the fit"):
        inference.score_process(J)
    for information in ("expected", "observed"):
        with pytest.raises(ArgumentError, match="pass information='opg'"):
            inference.score_process(J, weights=weights, information=information)
