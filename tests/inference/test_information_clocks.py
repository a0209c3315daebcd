"""Structural change with variables observed at different times: size, power, dates, and the covariance of the process."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import mvnjac
from mvnjac import inference
from mvnjac.errors import ArgumentError, NotIdentifiedError, SingularError
from mvnjac.inference.hac import long_run_sum
from mvnjac.inference.information_clocks import information_clocks
from mvnjac.inference.pooled_covariance import moving_sums
from mvnjac.inference.simulated_distribution import SimulatedDistribution, holm
from tests.support import breaks

TESTS = ("sup_lm", "double_max", "nyblom_hansen")
#: with this number a rank test has the exact level 5 %, as with 999
MULTIPLIERS = 219


def rejections(design: str, runs: range, n: int = 2000, lag: int = 0) -> dict[str, float]:
    """The share of p-values ≤ 5 %, by test: of all columns, of each variable, and of each column."""
    found: dict[str, int] = {}
    for first in range(runs.start, runs.stop, 50):
        x, mean, covariance = breaks.draws(design, min(50, runs.stop - first), n, first)
        for i in range(len(x)):
            J = mvnjac.jacobian(x[i], mean[i], covariance[i], missing="marginalise")
            process = inference.score_process(J, lag=lag, multipliers=MULTIPLIERS, seed=10**6 + first + i)
            groups = {"all": process.columns} | {f"variable {name}": columns for name, columns in process.variables.items()}
            for name, columns in (groups | {column: (column,) for column in process.columns}).items():
                some = process.select(columns)
                for kind in TESTS:
                    p = getattr(some, kind)().p_value
                    found[f"{kind} {name}"] = found.get(f"{kind} {name}", 0) + (p <= 0.05)
    return {name: count / len(runs) for name, count in found.items()}


@pytest.mark.long
@pytest.mark.parametrize("design", breaks.DESIGNS)
def test_the_size_of_each_test(design: str) -> None:
    sizes = rejections(design, range(2000))
    assert len(sizes) == 39
    assert {name: size for name, size in sizes.items() if not 0.03 <= size <= 0.07} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("design", "runs"), [("complete", 20), ("late", 60), ("drop-out", 60), ("scattered", 60)])
def test_the_size_in_a_tenth_of_the_runs(design: str, runs: int) -> None:
    sizes = rejections(design, range(runs))
    for kind in TESTS:
        shares = [size for name, size in sizes.items() if name.startswith(f"{kind} ")]
        assert len(shares) == 13
        assert 0.015 < sum(shares) / len(shares) < 0.09, (kind, shares)
        assert max(shares) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs), (kind, shares)


def jacobian(x: torch.Tensor) -> mvnjac.Jacobian:
    """The Jacobian at the estimate."""
    mask = ~x.isnan()
    mean, covariance = breaks.estimates(torch.where(mask, x, 0.0).unsqueeze(0), mask)
    return mvnjac.jacobian(x, mean[0], covariance[0], missing="marginalise")


def late_starter(n: int, seed: int, start: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64) @ breaks.MIXING
    x[:start, 2] = torch.nan
    return x


def test_a_break_of_a_late_starter_is_found_and_dated_where_it_is_observed() -> None:
    x = late_starter(2000, 1, 1000)
    x[1500:, 2] *= 1.6
    process = inference.score_process(jacobian(x))
    for kind in TESTS:
        test = process.by_variable(kind)["2"]
        assert test.p_value < 0.005, kind
        assert abs(test.date - 1499) < 40, kind
        assert test.date >= 1000
    test = process.by_variable()["2"]
    assert (test.first, test.last) == (1149, 1850 - 1)
    assert process.by_column()["covariance_matrix[2,2]"].p_value < 0.005
    assert process.by_column()["mean[2]"].p_value > 0.05


@pytest.mark.parametrize("seed", range(6))
def test_no_break_is_dated_where_nothing_is_observed(seed: int) -> None:
    x = late_starter(300, seed, 200)
    x[80:, 1] = torch.nan
    x[60:80, 1] = x[60:80, 0] + 0.1  # observed for a short time, with a change
    x[:60, 1] = x[:60, 0] + 0.1 * torch.randn(60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x[:, :2]
    process = inference.score_process(jacobian(x))
    for kind in TESTS:
        for name, test in process.by_column(kind).items():
            if "1" in name:
                assert test.date < 79, (kind, name)
                assert test.last < 79
    assert process.by_variable("sup_lm")["1"].date < 79


def test_with_equal_clocks_the_statistics_are_those_of_the_limiting_law() -> None:
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64) @ breaks.MIXING
    x[250:, 0] += 0.4
    J = jacobian(x)
    usual, by_information = inference.score_process(J), inference.score_process(J, clocks="information")
    statistics, expected = by_information.lm_statistics(), usual.lm_statistics()
    at = ~statistics.isnan()
    assert at.sum() > 40
    torch.testing.assert_close(statistics[at], expected[at], rtol=1e-8, atol=1e-8)
    assert abs(by_information.sup_lm().row - usual.sup_lm().row) <= 3
    assert by_information.sup_lm().p_value == pytest.approx(usual.sup_lm().p_value, abs=0.02)
    assert by_information.nyblom_hansen().statistic == pytest.approx(usual.nyblom_hansen().statistic, rel=0.03)
    assert by_information.nyblom_hansen().p_value == pytest.approx(usual.nyblom_hansen().p_value, abs=0.03)
    assert by_information.critical_value(0.05, "sup_lm") == pytest.approx(
        usual.critical_value(0.05, "sup_lm"), rel=0.08
    )  # at dates, not in continuous time
    column = "mean[1]"
    alone, whole = by_information.select(column), inference.score_process(J, decorrelate=False).select(column)
    assert alone.double_max().p_value == pytest.approx(whole.double_max().p_value, abs=0.05)


def test_complete_rows_have_the_limiting_law_whatever_is_said_of_gaps() -> None:
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    estimate = mvnjac.fit(x).gaussian
    process = inference.score_process(estimate.jacobian(x))
    same = inference.score_process(mvnjac.jacobian(x, estimate.mean, estimate.covariance, missing="marginalise"))
    assert process.law == same.law == "the limiting distribution"
    assert process.clocks is None
    torch.testing.assert_close(same.process, process.process, rtol=1e-10, atol=1e-10)


def test_the_covariance_of_the_process_is_that_of_the_information() -> None:
    """C_gg(t) − C_g·(t) C⁻¹ C_·g(t) with the textbook information of normal rows; the last variable begins half-way."""
    n = 40_000
    x = late_starter(n, 2, n // 2)
    J = jacobian(x)
    process = inference.score_process(J)
    sigma = J.model.parameter("covariance_matrix").numpy()
    before, after = (information(sigma, seen) for seen in ([0, 1], [0, 1, 2]))
    C = n / 2 * (before + after)
    group = process.clocks.group(list(range(9)))
    for at in (20, 40, 55):
        rows = int(group.row_counts[at])
        up_to = min(rows, n // 2) * before + max(rows - n // 2, 0) * after
        expected = up_to - up_to @ np.linalg.solve(C, up_to)
        scale = np.sqrt(np.maximum(np.diag(expected), 1e-9 * np.diag(C)))
        error = np.abs(group.covariance[at].numpy() - expected) / np.outer(scale, scale)
        assert error[np.ix_(scale > 1e-3 * np.sqrt(np.diag(C)), scale > 1e-3 * np.sqrt(np.diag(C)))].max() < 0.08, at


def information(sigma: np.ndarray, seen: list[int]) -> np.ndarray:
    """(9, 9) of a row that observes these variables, by the means and the columns of the lower triangle."""
    P = np.zeros((3, 3))
    P[np.ix_(seen, seen)] = np.linalg.inv(sigma[np.ix_(seen, seen)])
    directions = []
    for j in range(3):
        for i in range(j, 3):
            E = np.zeros((3, 3))
            E[i, j] = E[j, i] = 1
            directions.append(P @ E)
    F = np.zeros((9, 9))
    F[:3, :3] = P
    F[3:, 3:] = [[0.5 * np.trace(a @ b) for b in directions] for a in directions]
    return F


def test_moving_sums_have_newey_and_wests_covariance() -> None:
    scores = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = moving_sums(scores, 4)
    torch.testing.assert_close(
        sums.mT @ sums, long_run_sum(scores, 1 - torch.arange(5, dtype=torch.float64) / 5), rtol=1e-12, atol=1e-12
    )


def test_rows_that_depend_on_each_other() -> None:
    """For an autoregression, tests of the means reject in about 5 % of the samples with the automatic lag of Newey and West."""
    found = {0: 0, None: 0}
    for seed in range(40):
        x = late_starter(1000, 100 + seed, 400)
        for t in range(1, 1000):
            x[t] = 0.5 * torch.where(x[t - 1].isnan(), 0.0, x[t - 1]) + x[t]
        J = jacobian(x)
        for lag in found:
            process = inference.score_process(J, lag=lag, multipliers=219, seed=seed)
            found[lag] += process.select(["mean[0]", "mean[1]", "mean[2]"]).sup_lm().p_value <= 0.05
    assert found[0] > 20
    assert found[None] <= 8


def test_more_parameters_than_rows() -> None:
    """For complete rows: the block of each variable by its covariance, with Holm's correction of the p-values."""
    x = torch.randn(60, 11, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    x[35:, 4] *= 4
    J = mvnjac.fit(x).gaussian.jacobian(x)
    process = inference.score_process(J)
    assert process.alone
    tests = process.by_variable("sup_lm")
    positions = [J.columns().index(name) for name in process.variables["4"]]
    S = J.matrix().numpy()[:, positions]
    W = S.cumsum(0) @ np.linalg.inv(np.linalg.cholesky(S.T @ S)).T
    t = np.arange(1, 61) / 60
    expected = ((W**2).sum(1)[8:51] / (t * (1 - t))[8:51]).max()
    assert tests["4"].statistic == pytest.approx(expected, rel=1e-8)
    assert "60 rows for 77 parameters" in tests["4"].law
    assert tests["4"].law.endswith("Holm's correction over 11 tests")
    assert [tests[name].p_value for name in tests] == pytest.approx(holm([tests[name].uncorrected for name in tests]))
    assert "60 rows for 77 parameters" in repr(process)
    assert 0 < process.double_max().p_value <= 1
    with pytest.raises(SingularError, match="more rows than parameters"):
        process.sup_lm()


def test_few_rows_a_parameter_and_gaps() -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    x[:150, 7] = torch.nan
    x[225:, 7] *= 3
    process = inference.score_process(mvnjac.fit(x, missing="marginalise").gaussian.jacobian(x))
    assert process.alone
    tests = process.by_variable("sup_lm")
    assert tests["7"].uncorrected < 0.01 < min(test.uncorrected for name, test in tests.items() if name != "7")
    assert [test.p_value for test in tests.values()] == pytest.approx(holm([test.uncorrected for test in tests.values()]))
    assert 200 < tests["7"].date < 250
    assert "999 Gaussian multipliers" in tests["7"].law
    assert process.critical_value(0.05) == pytest.approx(mvnjac.inference.limiting_distributions.critical_value(
        lambda s: mvnjac.inference.limiting_distributions.double_max_p_value(s, len(process.columns)), 0.05))  # fmt: skip


def test_the_same_seed_gives_the_same_p_values() -> None:
    J = jacobian(late_starter(300, 3, 100))
    one, same, other = (inference.score_process(J, seed=seed).sup_lm() for seed in (1, 1, 2))
    assert one == same
    assert one.statistic == other.statistic
    assert one.p_value != other.p_value
    assert one.p_value == pytest.approx(other.p_value, abs=0.08)


def test_a_law_from_values_with_an_exponential_tail() -> None:
    values = torch.from_numpy(-np.log((np.arange(999) + 0.5) / 999))
    law = SimulatedDistribution(values)
    for p in (0.5, 0.1, 0.05, 0.02):
        assert law.p_value(-math.log(p)) == pytest.approx(p, abs=2e-3)
        assert law.critical_value(p) == pytest.approx(-math.log(p), rel=0.03)
    for p in (1e-3, 1e-5, 1e-8):
        assert math.log(law.p_value(-math.log(p))) == pytest.approx(math.log(p), rel=0.03)
        assert law.critical_value(p) == pytest.approx(-math.log(p), rel=0.03)
    assert law.p_value(-1.0) == 1.0
    grid = [law.p_value(x) for x in np.linspace(0, 20, 400)]
    assert all(a >= b for a, b in itertools.pairwise(grid))


def test_holms_correction() -> None:
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005, 0.9), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.9])
    assert holm([0.01, math.nan, 0.04])[::2] == pytest.approx([0.02, 0.04])


def test_what_cannot_be_asked() -> None:
    J = jacobian(late_starter(200, 0, 80))
    with pytest.raises(ArgumentError, match="pass lag="):
        inference.score_process(J, scores_covariance=torch.eye(9, dtype=torch.float64))
    with pytest.raises(ArgumentError, match="information='observed'"):
        inference.score_process(J, information="observed")
    with pytest.raises(ArgumentError, match="expected one of 'auto'"):
        inference.score_process(J, clocks="wall")
    with pytest.raises(ArgumentError, match="multipliers is 3"):
        inference.score_process(J, multipliers=3)
    process = inference.score_process(J)
    with pytest.raises(NotIdentifiedError, match="too few rows with information"):
        process.select("mean[2]").sup_lm((0.5, 0.5001))
    assert inference.score_process(J, clocks="rows").law == "the limiting distribution"
    scores = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = torch.cat([scores, scores[:, :1]], -1)
    with pytest.raises(SingularError, match="singular"):
        information_clocks(scores, torch.zeros(50, dtype=torch.long)).nyblom_hansen([0, 1, 2])


if __name__ == "__main__":  # the table in docs/guides/inference.md
    import sys

    for name, size in rejections(sys.argv[1], range(int(sys.argv[2]), int(sys.argv[3]))).items():
        print(f"{name},{size}")
