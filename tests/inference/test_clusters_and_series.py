"""Few clusters, t quantiles, indefinite covariances, and long-run kernels, in addition to the comparisons with R."""

from __future__ import annotations

import math
import warnings
from typing import Any

import mpmath
import pytest
import torch
from scipy import stats

import mvnjac
from mvnjac import inference
from mvnjac.errors import ArgumentError, FewClustersWarning, NotIdentifiedError, NotPositiveSemidefiniteWarning
from mvnjac.inference.hac import _long_run_sum_by_fft, long_run_sum
from mvnjac.inference.kernel_weights import KERNELS
from mvnjac.statistics.tail_probabilities import quantile, two_sided_p_value

N = 120


def jacobian(seed: int = 0) -> mvnjac.Jacobian:
    x = torch.randn(N, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mvnjac.fit(x).gaussian.jacobian(x)


def estimates(J: mvnjac.Jacobian, kind: str = "clustered", **arguments: Any) -> inference.Estimates:
    return inference.covariance_of_estimates(J, kind, **arguments)


# --- clusters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("groups", "warns"), [(4, True), (5, True), (6, False)])
def test_no_more_clusters_than_parameters(groups: int, warns: bool) -> None:
    """5 parameters; the cluster totals of the scores sum to 0, so the rank is groups − 1."""
    J, labels = jacobian(), [i % groups for i in range(N)]
    if warns:
        with pytest.warns(FewClustersWarning, match=f"there are {groups} clusters for 5 parameters") as seen:
            V = estimates(J, clusters=labels)
        assert seen[0].filename == __file__
        assert int(torch.linalg.matrix_rank(V.correlation, rtol=1e-9)) == groups - 1
        with pytest.warns(FewClustersWarning, match=f"there are {groups} clusters"):
            estimates(J, clusters=[labels, list(range(N))])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            estimates(J, clusters=labels, known="covariance_matrix")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            estimates(J, clusters=labels)


def test_t_quantiles() -> None:
    J, one, two = jacobian(), [i % 12 for i in range(N)], [i // 4 for i in range(N)]
    for clusters, df in ((one, 11), ([one, two], 11), (two, 29)):
        V, plain = estimates(J, clusters=clusters, use_t=True), estimates(J, clusters=clusters)
        assert (V.df, plain.df) == (df, None)
        assert torch.equal(V.covariance, plain.covariance)
        assert f"; t({df})" in V.kind
        expected = torch.from_numpy(2 * stats.t.sf(V.z.abs().numpy(), df))
        torch.testing.assert_close(V.p_values, expected, rtol=1e-11, atol=0)
        low, high = V.interval(0.9)
        torch.testing.assert_close(
            (high - low) / V.standard_errors, torch.full((5,), 2 * stats.t.ppf(0.95, df), dtype=torch.float64)
        )
        assert bool((V.p_values > plain.p_values).all())
        function = inference.delta_method(V, lambda theta: theta["covariance_matrix"][1, 0])
        assert function.df == df
        assert float(function.p_values[0]) == pytest.approx(2 * stats.t.sf(abs(float(function.z[0])), df), rel=1e-11)
    with pytest.raises(ArgumentError, match="use_t has no meaning for 'sandwich'"):
        estimates(J, "sandwich", use_t=True)


@pytest.mark.parametrize("df", [1, 2, 3, 7, 23, 99, 201, 1500])
def test_students_distribution(df: int) -> None:
    with mpmath.workdps(40):
        for t in (1e-6, 0.01, 0.5, 1, 2, 5, 20, 100):
            x = mpmath.mpf(df) / (df + mpmath.mpf(t) ** 2)
            expected = float(mpmath.betainc(mpmath.mpf(df) / 2, 0.5, 0, x, regularized=True))
            if expected > 1e-290:
                assert two_sided_p_value(t, df) == pytest.approx(expected, rel=1e-12)
                assert two_sided_p_value(-t, df) == two_sided_p_value(t, df)
    for level in (0.5, 0.9, 0.95, 0.99):
        with mpmath.workdps(40):
            x = mpmath.mpf(df) / (df + mpmath.mpf(quantile(level, df)) ** 2)
            beyond = mpmath.betainc(mpmath.mpf(df) / 2, 0.5, 0, x, regularized=True)
        assert float(beyond) == pytest.approx(1 - level, rel=1e-11)
    assert math.isnan(two_sided_p_value(math.nan, df))
    assert two_sided_p_value(0.0, df) == 1


def test_an_indefinite_covariance_is_said_and_can_be_fixed() -> None:
    """Scores that cancel within rows and within columns of a square of clusters: the sum over the ways is less than over the cells."""
    side = 12
    i, j = torch.arange(side * side) // side, torch.arange(side * side) % side
    sign = (1 - 2 * ((i + j) % 2)).double()
    x = sign + 0.01 * torch.randn(side * side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    J = mvnjac.fit(x.unsqueeze(-1)).gaussian.jacobian(x.unsqueeze(-1))
    with pytest.warns(
        NotPositiveSemidefiniteWarning, match=r"2 variances are negative, with standard errors NaN.*fix=True"
    ) as seen:
        V = estimates(J, clusters=[i, j])
    assert seen[0].filename == __file__
    assert float(V.covariance[0, 0]) < 0
    assert bool(V.standard_errors[0].isnan())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fixed = estimates(J, clusters=[i, j], fix=True)
        values, Q = torch.linalg.eigh(V.covariance)
        torch.testing.assert_close(fixed.covariance, (Q * values.clamp(min=0)) @ Q.mT, rtol=1e-12, atol=1e-18)
        assert "fixed" in fixed.kind
        one = estimates(J, clusters=i, fix=True).covariance  # already semidefinite
        torch.testing.assert_close(one, estimates(J, clusters=i).covariance)
        implied = inference.delta_method(fixed, lambda theta: theta["mean"][0])
        torch.testing.assert_close(implied.covariance[0, 0], fixed.covariance[0, 0])
    with pytest.raises(ArgumentError, match="fix has no meaning for 'hac'"):
        estimates(J, "hac", fix=True)


# --- series ----------------------------------------------------------------------------------------------------------


def parzen(x: float) -> float:
    return 1 - 6 * x**2 + 6 * x**3 if x <= 0.5 else 2 * (1 - x) ** 3 if x <= 1 else 0.0


def quadratic_spectral(x: float) -> float:
    with mpmath.workdps(40):
        y = 6 * mpmath.pi * mpmath.mpf(x) / 5
        return float(3 / y**2 * (mpmath.sin(y) / y - mpmath.cos(y))) if x else 1.0


TEXTBOOK = {
    "Bartlett": lambda x: max(1 - x, 0.0),
    "Parzen": parzen,
    "Quadratic Spectral": quadratic_spectral,
    "Truncated": lambda x: float(x <= 1),
    "Tukey-Hanning": lambda x: 0.5 * (1 + math.cos(math.pi * x)) if x <= 1 else 0.0,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_by_their_definition(kernel: str) -> None:
    """Andrews 1991, (2.7)."""
    x = [0.0, 1e-9, 1e-4, 0.01, 0.02, 0.03, 0.1, 0.49, 0.5, 0.51, 0.99, 1.0, 1.01, 3.0, 50.0]
    ours = KERNELS[kernel].weights(torch.tensor(x, dtype=torch.float64))
    expected = torch.tensor([TEXTBOOK[kernel](value) for value in x], dtype=torch.float64)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bandwidth", [0.4, 3.0, 17.5, 90.0])
def test_the_covariance_is_the_double_sum(kernel: str, bandwidth: float) -> None:
    J = jacobian()
    scores, A = J.matrix(), estimates(J, "observed").covariance
    by_lag, rows = torch.tensor([TEXTBOOK[kernel](lag / bandwidth) for lag in range(N)], dtype=torch.float64), torch.arange(N)
    W = by_lag[(rows - rows.unsqueeze(-1)).abs()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotPositiveSemidefiniteWarning)
        ours = estimates(J, "hac", kernel=kernel, bandwidth=bandwidth, prewhite=False)
    expected = A @ scores.mT @ W @ scores @ A
    scale = A.diagonal().sqrt()
    torch.testing.assert_close(
        ours.covariance / torch.outer(scale, scale), expected / torch.outer(scale, scale), rtol=0, atol=1e-11
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotPositiveSemidefiniteWarning)
        sums = inference.scores_covariance(J, kernel=kernel, bandwidth=bandwidth, prewhite=False)
    torch.testing.assert_close(sums, scores.mT @ W @ scores / N, rtol=1e-9, atol=1e-12)


def test_a_lag_is_a_bandwidth() -> None:
    J = jacobian()
    for lag in (0, 3, 80):
        by_lag, by_bandwidth = estimates(J, "hac", lag=lag), estimates(J, "hac", bandwidth=lag + 1)
        torch.testing.assert_close(by_lag.covariance, by_bandwidth.covariance, rtol=1e-12, atol=0)
    assert "HAC (Newey–West, lag 3, prewhite 1)" in estimates(J, "hac", lag=3).kind
    assert "HAC (Parzen, bandwidth 4.5, prewhite 0)" in estimates(J, "hac", kernel="Parzen", bandwidth=4.5, prewhite=0).kind


def test_many_lags_by_fourier_transforms() -> None:
    generator = torch.Generator().manual_seed(3)
    series = torch.randn(300, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1e-6, 1e6], dtype=torch.float64)
    weights = KERNELS["Quadratic Spectral"].weights(torch.arange(300) / 7.0)
    direct = weights[0] * series.mT @ series
    for lag in range(1, 300):
        cross = series[:-lag].mT @ series[lag:]
        direct = direct + weights[lag] * (cross + cross.mT)
    units = direct.diagonal().sqrt()
    for ours in (
        long_run_sum(series, weights),
        _long_run_sum_by_fft(series, weights),
        long_run_sum(series, torch.cat([weights, weights])),
    ):
        torch.testing.assert_close(ours / torch.outer(units, units), direct / torch.outer(units, units), rtol=0, atol=1e-13)


def test_a_truncated_kernel_may_be_indefinite() -> None:
    x = torch.tensor([1.0, -1.0] * 60, dtype=torch.float64).unsqueeze(-1) + 0.01 * torch.arange(N).unsqueeze(-1) / N
    J = mvnjac.fit(x).gaussian.jacobian(x)
    with pytest.warns(NotPositiveSemidefiniteWarning, match=r"Truncated, bandwidth 1, prewhite 0.* kernel='Bartlett'"):
        estimates(J, "hac", kernel="Truncated", bandwidth=1, prewhite=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kernel": "parzen"}, "kernel is 'parzen'; expected one of 'Bartlett', 'Parzen'"),
        ({"kernel": "Parzen", "lag": 3}, "lag is for the Bartlett kernel"),
        ({"bandwidth": 2.0, "lag": 3}, "lag is for the Bartlett kernel"),
        ({"bandwidth": 0}, "bandwidth is 0"),
        ({"bandwidth": math.nan}, "bandwidth is nan"),
        ({"bandwidth": True}, "bandwidth is True"),
        ({"bandwidth": "andrews"}, "bandwidth is 'andrews'"),
        ({"kernel": "Truncated", "bandwidth": "Newey-West"}, "Newey and West is not defined for the kernel 'Truncated'"),
    ],
)
def test_kernels_that_mean_nothing(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        estimates(jacobian(), "hac", **arguments)


def test_no_bandwidth_of_a_constant_score() -> None:
    x = torch.tensor([1.0, -1.0] * 60, dtype=torch.float64).unsqueeze(-1)  # the score of the variance is 0 in every row
    J = mvnjac.fit(x).gaussian.jacobian(x)
    with pytest.raises(NotIdentifiedError, match="pass a number as bandwidth="):
        estimates(J, "hac", kernel="Parzen", prewhite=False)
