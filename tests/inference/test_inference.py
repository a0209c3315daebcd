"""Covariances of estimates, the delta method, score tests, influence and structural change, against their definitions."""

from __future__ import annotations

import csv
import gzip
import re

import numpy as np
import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac import inference
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from mvnjac.errors import ArgumentError, NotIdentifiedError, ShapeError, SingularError, UnknownNameError
from tests.oracles.lavaan import RATES

KINDS = ("expected", "observed", "opg", "sandwich")


def rows(n: int = 120, d: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + 3


def factor_rows(n: int, d: int, k: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    loadings = torch.randn(d, k, generator=generator, dtype=torch.float64)
    factors, noise = (torch.randn(n, m, generator=generator, dtype=torch.float64) for m in (k, d))
    return factors @ loadings.mT + noise


def fitted(x: torch.Tensor, structure: str = "dense", **arguments) -> mvnjac.Jacobian:
    return mvnjac.fit(x, structure, **arguments).gaussian.jacobian(x)


def close(actual, expected, rtol: float = 1e-9) -> None:
    actual, expected = torch.as_tensor(actual, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


# --- covariance of the estimates -------------------------------------------------------------------------------------


def test_the_definition() -> None:
    x = rows()
    J = fitted(x)
    scores, H = J.matrix(), mvnjac.hessian(x, J.model.mean, J.model.covariance).matrix()
    A = torch.linalg.inv(-H)
    close(inference.covariance_of_estimates(J).covariance, A @ scores.mT @ scores @ A)
    close(inference.covariance_of_estimates(J, "observed").covariance, A)
    close(inference.covariance_of_estimates(J, "opg").covariance, torch.linalg.inv(scores.mT @ scores))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_normal_rows(kind: str) -> None:
    """For the mean all kinds but the outer product give S/n, S with divisor n."""
    x = rows()
    J = fitted(x)
    S = torch.cov(x.mT, correction=0)
    V = inference.covariance_of_estimates(J, kind, wrt="mean")
    if kind != "opg":
        close(V.covariance, S / len(x))
    assert V.columns == ("mean[0]", "mean[1]", "mean[2]")
    close(V.values, x.mean(0))
    close(V.z, V.values / V.standard_errors)


@pytest.mark.parametrize("structure", ["dense", "diagonal", "isotropic", "toeplitz", "compound-symmetric", "cholesky", "ar:1"])
def test_expected_standard_errors_are_those_of_the_fit(structure: str) -> None:
    x = rows()
    estimate = mvnjac.fit(x, structure)
    V = inference.covariance_of_estimates(estimate.gaussian.jacobian(x), "expected")
    errors = estimate.standard_errors()
    packed = [estimate.gaussian.model.arguments.coordinates(name).pack(value) for name, value in errors.items()]
    close(V.standard_errors, torch.cat(packed))


@pytest.mark.parametrize("kind", [*KINDS, "hac", "clustered"])
def test_elements_are_those_of_the_whole(kind: str) -> None:
    J = fitted(rows())
    arguments = {"clusters": [i // 4 for i in range(120)]} if kind == "clustered" else {}
    whole = inference.covariance_of_estimates(J, kind, **arguments)
    some = inference.covariance_of_estimates(J, kind, wrt=["covariance_matrix[1,0]", "mean[2]"], **arguments)
    places = [whole.columns.index("covariance_matrix[1,0]"), whole.columns.index("mean[2]")]
    close(some.covariance, whole.covariance[places][:, places])
    assert some.standard_error("mean[2]") == pytest.approx(whole.standard_error("mean[2]"), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_correlations_by_parametrisation_and_by_the_delta_method(kind: str) -> None:
    J = fitted(rows())
    direct = inference.covariance_of_estimates(J, kind, wrt="correlation_matrix")
    by_delta = inference.delta_method(
        inference.covariance_of_estimates(J, kind),
        lambda theta: theta["correlation_matrix"].tril(-1)[[1, 2, 2], [0, 0, 1]],
        names=direct.columns,
    )
    assert by_delta.columns == direct.columns
    close(by_delta.values, direct.values)
    close(by_delta.covariance, direct.covariance)


def test_missing_entries() -> None:
    """For a complete column, missing entries in other columns do not matter."""
    x = rows()
    x[::3, 0] = torch.nan
    J = fitted(x, missing="marginalise")
    for kind in (*KINDS, "hac"):
        V = inference.covariance_of_estimates(J, kind)
        assert bool((V.standard_errors > 0).all()), kind
    scores = J.matrix()
    H = J.model
    A = torch.linalg.inv(-mvnjac.hessian(x, H.mean, H.covariance, missing="marginalise").matrix())
    close(inference.covariance_of_estimates(J).covariance, A @ scores.mT @ scores @ A)
    F = mvnjac.fisher_information(H.mean, H.covariance, observed=~x.isnan()).matrix() * len(x)
    close(inference.covariance_of_estimates(J, "expected").covariance, torch.linalg.inv(F))
    assert inference.influence(J).changes.shape == (120, 9)
    assert inference.score_process(J).sup_lm().components == 9


def test_weights_of_rows_that_occurred_twice() -> None:
    """Weights are counts in the informations, where they equal repeated rows, and are squared in the sums of squares."""
    x = rows(60)
    weights = torch.tensor([2.0, 1.0]).double().repeat(30)
    twice = torch.cat([x, x[::2]])
    J = mvnjac.fit(x, weights=weights).gaussian.jacobian(x)
    for kind in ("expected", "observed"):
        weighted = inference.covariance_of_estimates(J, kind, weights=weights)
        close(weighted.covariance, inference.covariance_of_estimates(fitted(twice), kind).covariance)
    clusters = [*range(60), *range(0, 60, 2)]
    expected = inference.covariance_of_estimates(fitted(twice), "clustered", clusters=clusters, cluster_adjust=False)
    close(inference.covariance_of_estimates(J, weights=weights).covariance, expected.covariance)


def test_known_parameters_are_not_estimated() -> None:
    x = rows()
    mean = x.mean(0) + 0.5
    sigma = (x - mean).mT @ (x - mean) / len(x)
    J = mvnjac.jacobian(x, mean, sigma)
    V = inference.covariance_of_estimates(J, "observed", known="mean")
    H = mvnjac.hessian(x, mean, sigma, wrt="covariance_matrix").matrix()
    close(V.covariance, torch.linalg.inv(-H))
    assert all(name.startswith("covariance_matrix") for name in V.columns)
    with pytest.raises(ArgumentError, match="among the known parameters"):
        inference.covariance_of_estimates(J, known="mean", wrt="mean")
    with pytest.raises(UnknownNameError, match="the parameters are mean, covariance_matrix"):
        inference.covariance_of_estimates(J, known="maen")


def test_many_columns_form_no_square_matrix() -> None:
    """45 150 parameters: their matrix would take 16 GB."""
    x = rows(900, 300)
    J = fitted(x)
    V = inference.covariance_of_estimates(J, bread="expected", wrt=["covariance_matrix[7,3]"])
    r = x - x.mean(0)
    S = r.mT @ r / len(x)
    close(V.covariance[0, 0], ((r[:, 7] * r[:, 3] - S[7, 3]) ** 2).sum() / len(x) ** 2)
    w = torch.full((300,), 1 / 300, dtype=torch.float64)
    variance = inference.delta_method(V, lambda theta: w @ theta["covariance_matrix"] @ w)
    close(variance.covariance[0, 0], (((r @ w) ** 2 - w @ S @ w) ** 2).sum() / len(x) ** 2)


def test_float32_and_graphs() -> None:
    x = rows()
    J = fitted(x)
    mean, sigma = J.model.mean.float().requires_grad_(), J.model.covariance.dense().float()
    V = inference.covariance_of_estimates(mvnjac.jacobian(x.float(), mean, sigma))
    assert V.covariance.dtype is torch.float64
    assert not V.covariance.requires_grad
    close(V.covariance, inference.covariance_of_estimates(J).covariance, rtol=1e-3)


def test_rotations_of_factors_have_no_standard_errors() -> None:
    x = factor_rows(300, 6, 2)
    V = inference.covariance_of_estimates(fitted(x, "low-rank:2"), "expected")
    loadings = torch.tensor([name.startswith("cov_factor") for name in V.columns])
    assert bool(V.standard_errors[loadings].isnan().all())
    assert bool((V.standard_errors[~loadings] > 0).all())
    implied = inference.delta_method(V, lambda theta: theta["covariance_matrix"][0, 1])  # invariant to rotations
    assert 0 < float(implied.standard_errors) < 10


def test_a_kronecker_and_a_parametric_model() -> None:
    x = rows(100, 6).reshape(100, 2, 3)
    V = inference.covariance_of_estimates(mvnjac.fit(x, "kronecker:2x3").gaussian.jacobian(x), "expected")
    assert len(V.columns) == 6 + 3 + 6
    design = torch.linspace(-1, 1, 100, dtype=torch.float64)
    y = rows(100, 2, 5)
    start = {"slope": torch.zeros(2).double(), "level": torch.zeros(2).double(), "scale": torch.ones(2).double()}
    model = mvnjac.Parametric(lambda t: (t["level"] + design[:, None] * t["slope"], torch.diag(t["scale"])), start)
    J = mvnjac.fit(y, model).gaussian.jacobian(y)
    X = torch.stack([torch.ones_like(design), design], -1)
    beta = torch.linalg.lstsq(X, y).solution
    e = y - X @ beta
    inverse = torch.linalg.inv(X.mT @ X)
    V = inference.covariance_of_estimates(J, wrt=["slope", "level"], bread="expected")
    for i in range(2):  # White's covariance of a regression
        white = inverse @ (X.mT * e[:, i] ** 2) @ X @ inverse
        assert V.standard_error(f"slope[{i}]") == pytest.approx(float(white[1, 1] ** 0.5), rel=1e-7)
    close(inference.delta_method(V, lambda theta: theta["mean"][0, 0]).values[0], (beta[0] - beta[1])[0], rtol=1e-6)


def test_tables_and_text() -> None:
    J = fitted(rows(), names=["a", "b", "c"])
    V = inference.covariance_of_estimates(J)
    frame = V.to_pandas()
    assert list(frame.index) == J.columns()
    assert list(frame.columns) == ["estimate", "standard_error", "z", "p_value"]
    np.testing.assert_array_equal(frame["estimate"], J.values().numpy())
    assert V.to_arrow().column_names == ["name", *frame.columns]
    assert V.covariance_frame().loc["mean[a]", "mean[b]"] == float(V.covariance[0, 1])
    assert repr(V).startswith("9 estimates from 120 rows; standard errors: sandwich (HC0), bread: observed\n")
    assert "covariance_matrix[c,b]" in repr(V)
    low, high = V.interval(0.9)
    close((high - low) / V.standard_errors, 2 * 1.6448536269514722 * torch.ones(9).double())
    close(V.correlation.diagonal(), torch.ones(9))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"kind": "HC3"}, ArgumentError, "'HC3'; expected one of 'expected'"),
        ({"bread": "opg"}, ArgumentError, "bread is 'opg'"),
        ({"kind": "clustered"}, ArgumentError, "needs clusters="),
        ({"kind": "clustered", "clusters": [1, 2]}, ShapeError, "2 entries; expected one a row: 120"),
        ({"kind": "clustered", "clusters": [1] * 120}, ArgumentError, "all rows are in one cluster"),
        ({"kind": "hac", "lag": -1}, ArgumentError, "lag is -1"),
        ({"kind": "hac", "prewhite": 13}, NotIdentifiedError, "117 coefficients per equation, but there are 107 rows"),
        ({"kind": "expected", "adjust": True}, ArgumentError, "adjust has no meaning for 'expected'"),
        ({"wrt": "x"}, ArgumentError, "wrt has x, which is not a parameter"),
        ({"wrt": ["covariance_matrix[0,0]", "precision_matrix[0,0]"]}, ArgumentError, "belong to 2 parametrisations"),
        (
            {"kind": "hac", "order_by": [float("nan")] * 120},
            ArgumentError,
            "order_by has no value in 120 of 120 rows",
        ),
    ],
)
def test_what_means_nothing_is_refused(arguments: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        inference.covariance_of_estimates(fitted(rows()), **arguments)


def test_shapes_that_are_no_sample_are_refused() -> None:
    x = rows()
    with pytest.raises(ShapeError, match=r"n ≥ 1 rows \(n,\) of one density"):
        inference.covariance_of_estimates(mvnjac.jacobian(x.reshape(60, 2, 3), torch.zeros(3).double(), torch.eye(3).double()))
    with pytest.raises(ArgumentError, match="pass a Jacobian"):
        inference.covariance_of_estimates(x)
    few = rows(8)
    J = mvnjac.jacobian(few, few.mean(0), torch.cov(few.mT, correction=0))
    with pytest.raises(SingularError):
        inference.covariance_of_estimates(J, "opg")
    with pytest.raises(ArgumentError, match="more rows than parameters"):
        inference.covariance_of_estimates(J, adjust=True)


@pytest.mark.filterwarnings("ignore::mvnjac.errors.NotAtEstimateWarning")
@pytest.mark.parametrize("cls", structures().values(), ids=structures())
def test_every_structure(cls: type[mvnjac.Covariance]) -> None:
    """The sandwich of possibly redundant parameters, and the influence of each row, by their definitions."""
    for structure in cls.samples(4, Maker(seed=1)):
        mean = Maker(seed=3).normal(4)
        x = Maker(batch=(80,), seed=2).normal(4)
        J = mvnjac.jacobian(x, mean, structure)
        scores, F = J.matrix(), mvnjac.fisher_information(mean, structure).matrix() * 80
        unit = F.diagonal().sqrt()
        influence = inference.influence(J, information="expected")
        V = inference.covariance_of_estimates(J, bread="expected")
        close(V.covariance, influence.changes.mT @ influence.changes, rtol=1e-7)
        close((influence.changes @ F) / unit, -scores / unit, rtol=1e-6)
        assert V.columns == tuple(J.columns())
        columns = [name for names in V._estfun.columns_by_variable(V.columns).values() for name in names]
        assert set(columns) <= set(V.columns)
        implied = inference.delta_method(V, lambda theta: theta["covariance_matrix"][1, 0])
        assert float(implied.covariance) >= 0


# --- delta method ----------------------------------------------------------------------------------------------------


def test_regression_coefficients_are_those_of_white() -> None:
    """β of a variable on the others, implied by Σ: its sandwich covariance is White's of the regression."""
    x = rows(400)
    V = inference.covariance_of_estimates(fitted(x))

    def coefficients(theta):
        sigma = theta["covariance_matrix"]
        return torch.linalg.solve(sigma[1:, 1:], sigma[1:, 0])

    implied = inference.delta_method(V, coefficients, names=["b1", "b2"])
    X = x[:, 1:] - x[:, 1:].mean(0)
    y = x[:, 0] - x[:, 0].mean()
    beta = torch.linalg.lstsq(X, y.unsqueeze(-1)).solution.squeeze(-1)
    e, inverse = y - X @ beta, torch.linalg.inv(X.mT @ X)
    close(implied.values, beta)
    close(implied.covariance, inverse @ (X.mT * e.square()) @ X @ inverse)
    again = inference.delta_method(implied, lambda theta: theta["mean"][0])  # a function of the parameters, not of the columns
    close(again.covariance[0, 0], V.covariance[0, 0])


def test_functions_that_are_none_are_refused() -> None:
    V = inference.covariance_of_estimates(fitted(rows()))
    with pytest.raises(ArgumentError, match="returned float"):
        inference.delta_method(V, lambda theta: theta["mean"][0].item())
    with pytest.raises(ArgumentError, match="does not depend"):
        inference.delta_method(V, lambda theta: theta["mean"].detach())
    with pytest.raises(ShapeError, match="1 name for 3 values"):
        inference.delta_method(V, lambda theta: theta["mean"], names=["a"])
    with pytest.raises(ArgumentError, match="of the model's own parameters"):
        inference.delta_method(inference.covariance_of_estimates(fitted(rows()), wrt="scale"), lambda theta: theta["mean"])


# --- score tests -----------------------------------------------------------------------------------------------------


def test_independence_is_n_r_squared() -> None:
    x = rows(80, 2)
    test = inference.score_test(fitted(x, "diagonal"), zero="covariance_matrix[1,0]")
    correlation = float(torch.corrcoef(x.mT)[0, 1])
    assert test.statistic == pytest.approx(80 * correlation**2, rel=1e-9)
    assert inference.score_test(fitted(x, "diagonal")).statistic == pytest.approx(test.statistic, rel=1e-9)


def test_a_structure_is_a_constraint() -> None:
    """Of a diagonal Σ: n Σ r², with d(d − 1)/2 degrees of freedom (Breusch & Pagan 1980)."""
    x = rows(80, 4)
    test = inference.score_test(fitted(x, "diagonal"))
    R = torch.corrcoef(x.mT)
    assert test.statistic == pytest.approx(80 * float(R.tril(-1).square().sum()), rel=1e-9)
    assert (test.df, test.constraints) == (6, ())
    assert inference.score_test(fitted(factor_rows(100, 4, 1), "low-rank:1")).df == 2
    with pytest.raises(ArgumentError, match="is not a restriction"):
        inference.score_test(fitted(x))


def test_a_score_test_holds_its_level() -> None:
    """For rows that are not normal the robust form has the right size, and the plain one does not."""
    rejected = np.zeros(2)
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        x = (
            torch.randn(200, 2, generator=generator, dtype=torch.float64)
            * torch.rand(200, 1, generator=generator).double() ** 2
        )
        J = fitted(x, "diagonal")
        for robust in (0, 1):
            rejected[robust] += inference.score_test(J, zero="covariance_matrix[1,0]", robust=bool(robust)).p_value < 0.05
    assert rejected[1] / 200 < 0.09 < 0.15 < rejected[0] / 200


def test_no_score_test_away_from_the_restricted_estimate() -> None:
    x = rows()
    with pytest.raises(NotIdentifiedError, match=r"covariance_matrix\[1,0\] = 0 does not hold at J"):
        inference.score_test(fitted(x), zero="covariance_matrix[1,0]")
    sigma = torch.diag(2 * x.var(0))
    with pytest.raises(NotIdentifiedError, match="not at the maximum of the likelihood under the constraints"):
        inference.score_test(mvnjac.jacobian(x, x.mean(0), sigma), zero=["covariance_matrix[1,0]"])
    one = "covariance_matrix[1,0]"
    with pytest.raises(ArgumentError, match="not independent of each other"):
        inference.score_test(
            fitted(x, "diagonal"), zero=[one, "covariance_matrix[2,0]"], equal=[(one, "covariance_matrix[2,0]")]
        )
    with pytest.raises(ArgumentError, match="two elements or more"):
        inference.score_test(fitted(x, "diagonal"), equal=[("mean[0]",)])


# --- information-matrix test -----------------------------------------------------------------------------------------


def test_information_matrix_of_one_variable_by_its_moments() -> None:
    """n R² of a regression of 1 on the scores and the three indicators; that of the mean is a score."""
    x = rows(200, 1)
    test = inference.information_matrix_test(fitted(x))
    r = (x[:, 0] - x[:, 0].mean()).numpy()
    v = (r**2).mean()
    scores = [r / v, 0.5 * (r**2 / v**2 - 1 / v)]
    indicators = [scores[0] * scores[1] - r / v**2, scores[1] ** 2 + 0.5 / v**2 - r**2 / v**3]
    Z = np.stack([*scores, *indicators], -1)
    explained = Z @ np.linalg.lstsq(Z, np.ones(200), rcond=None)[0]
    assert test.df == 2
    assert test.statistic == pytest.approx(float(explained.sum()), rel=1e-8)


def test_information_matrix_is_the_same_in_every_parametrisation() -> None:
    J = fitted(rows(300, 2))
    one, other = inference.information_matrix_test(J), inference.information_matrix_test(J, wrt="precision_matrix")
    assert one.df == other.df == 4 + 5  # the distinct third and fourth moments of two variables
    assert other.statistic == pytest.approx(one.statistic, rel=1e-6)
    assert inference.information_matrix_test(J, elements="diagonal").df == 3
    with pytest.raises(NotIdentifiedError, match="45 indicators and 9 scores, but 50 rows"):
        inference.information_matrix_test(fitted(rows(50)))


# --- influence -------------------------------------------------------------------------------------------------------


def test_influence_is_what_leaving_out_does() -> None:
    """To first order in 1/n: −r/n for the mean, where leaving the row out gives −r/(n − 1)."""
    x = rows(2000)
    found = inference.influence(fitted(x))
    close(found.changes[:, :3], -(x - x.mean(0)) / len(x))
    without = [fitted(torch.cat([x[:i], x[i + 1 :]])).values() for i in range(3)]
    for i in range(3):
        change = without[i] - fitted(x).values()
        assert float((found.changes[i] - change).abs().max()) < 0.02 * float(change.abs().max())


def test_distances_are_lengths_and_invariant() -> None:
    J = fitted(rows())
    V = inference.covariance_of_estimates(J, "observed")
    found = inference.influence(J)
    close(found.distances, (found.changes * torch.linalg.solve(V.covariance, found.changes.mT).mT).sum(-1))
    close(inference.influence(J, wrt=("mean", "precision_matrix")).distances, found.distances)
    top = found.top(5)
    assert top.labels[0] == int(found.distances.argmax())
    assert list(top.to_pandas().columns) == ["distance", "most_changed", "standard_errors"]


# --- structural change -----------------------------------------------------------------------------------------------


def test_a_break_is_found_where_it_is() -> None:
    x = rows(400)
    x[250:, 1] += 3
    dates = pd.date_range("2020-01-01", periods=400)
    process = inference.score_process(fitted(x, names=["a", "b", "c"]), dates=dates)
    for test in (process.double_max(), process.sup_lm(), process.nyblom_hansen()):
        assert test.p_value < 1e-6
        assert abs((test.date - dates[249]).days) < 15, test
    by_column = process.by_column("double_max")
    assert min(by_column, key=lambda name: by_column[name].p_value) == "mean[b]" == process.double_max().column
    assert set(process.by_variable()) == {"a", "b", "c"}
    assert process.by_variable()["b"].components == 4
    statistics = process.lm_statistics()
    assert float(statistics[1:-1].max()) >= process.sup_lm().statistic
    assert float(process.process.abs().max()) > process.critical_value()


def test_rows_are_put_in_order_of_their_dates() -> None:
    x = rows(100)
    shuffle = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    one = inference.score_process(fitted(x), dates=range(100))
    other = inference.score_process(fitted(x[shuffle]), dates=shuffle.tolist())
    close(other.process, one.process)
    assert other.dates == tuple(range(100))
    assert other.row_numbers == tuple(shuffle.argsort().tolist())


@pytest.mark.slow
@pytest.mark.parametrize("test", ["double_max", "nyblom_hansen", "sup_lm"])
def test_structural_change_holds_its_level(test: str) -> None:
    p_values = np.array(
        [getattr(inference.score_process(fitted(rows(400, 2, s)), information="expected"), test)().p_value for s in range(300)]
    )
    assert 0.01 < (p_values < 0.05).mean() < 0.09
    assert 0.05 < (p_values < 0.1).mean() < 0.15


def test_no_process_away_from_the_estimate() -> None:
    x = rows()
    with pytest.raises(NotIdentifiedError, match="do not sum to 0"):
        inference.score_process(mvnjac.jacobian(x, x.mean(0) + 1, torch.cov(x.mT)))
    few = rows(8)
    with pytest.raises(SingularError, match="more rows than parameters"):
        inference.score_process(mvnjac.jacobian(few, few.mean(0), torch.cov(few.mT, correction=0))).sup_lm()
    process = inference.score_process(fitted(x))
    with pytest.raises(ArgumentError, match=r"between 0 and 0\.5"):
        process.sup_lm(0.6)
    with pytest.raises(UnknownNameError, match="no column 'maen'"):
        process.select("maen")
    with pytest.raises(ArgumentError, match="expected one of 'double_max'"):
        process.by_variable("cusum")


def test_another_covariance_of_the_scores() -> None:
    J = fitted(rows())
    gram = J.gram() / 120
    close(inference.score_process(J, scores_covariance=gram).process, inference.score_process(J).process)
    with pytest.raises(ArgumentError, match=r"expected \(9, 9\)"):
        inference.score_process(J, scores_covariance=gram[:2, :2])


# --- the exchange rates ----------------------------------------------------------------------------------------------


def rates(names: list[str]) -> tuple[torch.Tensor, list[str]]:
    with gzip.open(RATES, "rt") as file:
        table = list(csv.DictReader(file))[::-1]
    table = [row for row in table if all(row[name] not in ("", "N/A") for name in names)]
    prices = torch.tensor([[float(row[name]) for name in names] for row in table], dtype=torch.float64)
    return prices.log().diff(dim=0), [row["Date"] for row in table][1:]


def test_the_day_the_swiss_franc_was_let_go() -> None:
    names = ["USD", "JPY", "GBP", "CHF", "SEK", "NOK"]
    x, dates = rates(names)
    J = fitted(x, names=names)
    top = inference.influence(J, labels=dates).top(3)
    assert top.labels[0] == "2015-01-15"
    assert top.to_pandas().loc["2015-01-15", "most_changed"] == "covariance_matrix[CHF,CHF]"
    plain, robust = (inference.covariance_of_estimates(J, kind) for kind in ("expected", "hac"))
    name = "covariance_matrix[CHF,CHF]"
    assert robust.standard_error(name) > 5 * plain.standard_error(name)
    breaks = inference.score_process(J, dates=dates, information="opg").by_variable("sup_lm")
    assert set(breaks) == set(names)
    assert all(0 <= test.p_value <= 1 and test.date in dates for test in breaks.values())
