"""The oracles agree among themselves: differences, closed forms in high precision, lavaan, torch's autodiff. None of the library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mpmath import mp

from tests.oracles import lavaan, mp_gaussian, mpmath_cases
from tests.oracles.mp_gaussian import Matrix, Values, elements, matrix

CASES = mpmath_cases.frozen()
LAVAAN = lavaan.frozen()
ULP = 2.3e-16


def name_of(case: mp_gaussian.Case) -> str:
    return f"{case.parametrisation}: {case.name}"


def packed(name: str, value: Matrix, doubled: bool = False) -> np.ndarray:
    """The unique elements in order, off-diagonals doubled or not."""
    at = elements(name, (value.rows, value.cols))
    return np.array([float(value[i, j] * (2 if doubled and i != j else 1)) for i, j in at])


def inverse_diagonal(value: Matrix) -> Matrix:
    return mp.diag([1 / value[i, i] for i in range(value.rows)])


def closed_form(case: mp_gaussian.Case, v: Values, x: Matrix) -> dict[str, np.ndarray]:
    """One row's partial derivatives by the textbook's formulas, where the oracle differentiates numerically."""
    d = x.rows
    sigma = mp_gaussian.COVARIANCES[case.parametrisation](v, d)
    P = sigma**-1
    mean = sigma * v["natural_location"] if "natural_location" in v else v["mean"]
    r = x - mean
    a = P * r
    G = (a * a.T - P) / 2
    result = {"x": packed("x", -a)}
    if "mean" in v:
        result["mean"] = packed("mean", a)
    for name, value in v.items():
        if name == "covariance_matrix":
            result[name] = packed(name, G, doubled=True)
        elif name == "scale_tril":
            result[name] = packed(name, a * (value**-1 * r).T - inverse_diagonal(value))
        elif name == "log_scale_tril":
            L = value.copy()
            for i in range(d):
                L[i, i] = mp.exp(value[i, i])
            below = a * (L**-1 * r).T
            for i in range(d):
                below[i, i] = below[i, i] * L[i, i] - 1
            result[name] = packed(name, below)
        elif name == "precision_matrix":
            result[name] = packed(name, (sigma - r * r.T) / 2, doubled=True)
        elif name == "precision_tril":
            result[name] = packed(name, inverse_diagonal(value) - r * (value.T * r).T)
        elif name == "inverse_scale_tril":
            result[name] = packed(name, inverse_diagonal(value) - value * r * r.T)
        elif name == "scale":
            result[name] = np.array([float((a[i] * r[i] - 1) / value[i]) for i in range(d)])
        elif name == "correlation_matrix":
            S = mp.diag(list(v["scale"]))
            result[name] = packed(name, S * G * S, doubled=True)
        elif name == "natural_location":
            result[name] = packed(name, r)
        elif name == "natural_matrix":
            result[name] = packed(name, r * r.T + r * mean.T + mean * r.T - sigma, doubled=True)
        elif name == "cov_diag":
            result[name] = np.array([float(G[i, i]) for i in range(d)])
        elif name == "variance":
            result[name] = np.array([float(sum(G[i, i] for i in range(d)))])
    return result


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_differences_agree_with_closed_forms(case: mp_gaussian.Case) -> None:
    """To the last bit of float64, whatever κ: the differences have digits to spare."""
    values = {name: matrix(value) for name, value in case.parameters.items()}
    rows = [closed_form(case, values, matrix(row)) for row in case.x]
    assert set(rows[0]) == set(case.expected)
    for name, expected in case.expected.items():
        np.testing.assert_allclose(expected, np.array([row[name] for row in rows]), rtol=ULP, atol=0, err_msg=name)


def test_the_cases_cover_what_they_should() -> None:
    assert {case.parametrisation for case in CASES} == set(mp_gaussian.COVARIANCES)
    assert {case.x.shape[1] for case in CASES} >= {1, 2, 3, 5}
    assert max(case.kappa_scaled for case in CASES) > 0.9e13
    assert mpmath_cases.FROZEN.stat().st_size < 1_000_000


def test_frozen_numbers_regenerate() -> None:
    """The whole record of one small case, from its exact inputs; the seeded inputs, to what numpy's LAPACK may differ by."""
    for case in CASES:
        if case.name == "two variables":
            again = mp_gaussian.solve(case.name, case.parametrisation, case.x, case.parameters, np.diag(case.scale**2))
            assert (again.kappa, again.kappa_scaled) == (case.kappa, case.kappa_scaled)
            np.testing.assert_array_equal(again.log_prob, case.log_prob)
            for name, expected in case.expected.items():
                np.testing.assert_array_equal(again.expected[name], expected)
    frozen = {case.name: case for case in CASES if case.parametrisation == "covariance_matrix"}
    settings = {name: values for name, *values in mpmath_cases.settings()}
    assert list(settings) == list(frozen)
    for name, (x, mean, sigma) in settings.items():
        case = frozen[name]
        unit = case.scale
        np.testing.assert_allclose(x / unit, case.x / unit, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(mean / unit, case.parameters["mean"] / unit, rtol=1e-12, atol=1e-12)
        units = np.outer(unit, unit)
        np.testing.assert_allclose(sigma / units, case.parameters["covariance_matrix"] / units, atol=1e-12)


SMALL = [c for c in CASES if c.parametrisation in ("covariance_matrix", "scale_tril", "precision_matrix") and c.kappa < 200]


@pytest.mark.parametrize("case", SMALL, ids=name_of)
def test_torch_autodiff_agrees(case: mp_gaussian.Case) -> None:
    """Reverse mode of torch.distributions at small κ; its full symmetric gradients, off-diagonals doubled here."""
    name = case.parametrisation
    x = torch.from_numpy(case.x).requires_grad_()
    mean = torch.from_numpy(case.parameters["mean"]).expand(x.shape).clone().requires_grad_()
    value = torch.from_numpy(case.parameters[name]).expand(len(x), -1, -1).clone().requires_grad_()
    symmetric = name in mp_gaussian.MIRRORED
    given = (value + value.mT) / 2 if symmetric else value
    log_prob = torch.distributions.MultivariateNormal(mean, **{name: given}).log_prob(x)
    log_prob.sum().backward()
    np.testing.assert_allclose(log_prob.detach().numpy(), case.log_prob, rtol=1e-12)
    at = elements(name, case.parameters[name].shape)
    by_value = np.array([[g[i, j] * (2 if symmetric and i != j else 1) for i, j in at] for g in value.grad.numpy()])
    for actual, key in ((x.grad.numpy(), "x"), (mean.grad.numpy(), "mean"), (by_value, name)):
        expected = case.expected[key]
        assert abs(actual - expected).max() <= 100 * case.kappa * ULP * abs(expected).max(), key


def index(case: lavaan.Saturated) -> list[tuple[int, int | None]]:
    """lavaan's parameters as (variable, None) for a mean, (variable, variable) for a covariance."""
    at = case.names.index
    return [
        (at(name[:-2]), None) if name.endswith("~1") else (at(name.split("~~")[0]), at(name.split("~~")[1]))
        for name in case.parameters
    ]


def scores(case: lavaan.Saturated) -> tuple[np.ndarray, np.ndarray]:
    """log p and its derivatives by lavaan's parameters, row by row: a, and G = ½(a aᵀ − P) with off-diagonals doubled."""
    sigma, mean = matrix(case.sigma), matrix(case.mean)
    P, log_det = sigma**-1, mp.log(mp.det(sigma))
    log_prob, result = [], []
    for row in case.x:
        r = matrix(row) - mean
        a = P * r
        log_prob.append(float(-(len(row) * mp.log(2 * mp.pi) + log_det + (r.T * a)[0]) / 2))
        result.append([float(a[i] if j is None else (a[i] * a[j] - P[i, j]) / (2 if i == j else 1)) for i, j in index(case)])
    return np.array(log_prob), np.array(result)


def informations(case: lavaan.Saturated) -> tuple[np.ndarray, np.ndarray]:
    """Expected and observed information per observation, entry by entry from the second derivatives of log p."""
    d, n = len(case.names), len(case.x)
    sigma, mean = matrix(case.sigma), matrix(case.mean)
    P, residuals = sigma**-1, [matrix(row) - mean for row in case.x]
    centre, moments = mp.zeros(d, 1), mp.zeros(d, d)
    for r in residuals:
        centre, moments = centre + r / n, moments + r * r.T / n
    a, Q = P * centre, P * (2 * moments - sigma) * P
    directions = [_direction(d, i, j) for i, j in index(case)]
    by_P, by_Q = [P * E for E in directions], [Q * E for E in directions]
    expected, observed = np.zeros((2, len(directions), len(directions)))
    for k, (i, j) in enumerate(index(case)):
        for m, (g, h) in enumerate(index(case)):
            if j is None and h is None:
                expected[k, m] = observed[k, m] = float(P[i, g])
            elif j is None:
                observed[k, m] = observed[m, k] = float((by_P[m] * a)[i])
            elif h is not None:
                expected[k, m] = float(_trace(by_P[k], by_P[m]) / 2)
                observed[k, m] = float(_trace(by_P[k], by_Q[m]) / 2)
    return expected, observed


def _direction(d: int, i: int, j: int | None) -> Matrix:
    """∂Σ by its unique element (i, j); zeros for a mean."""
    result = mp.zeros(d, d)
    if j is not None:
        result[i, j] = result[j, i] = 1
    return result


def _trace(left: Matrix, right: Matrix) -> mp.mpf:
    return sum(left[i, j] * right[j, i] for i in range(left.rows) for j in range(left.rows))


@pytest.mark.parametrize("name", LAVAAN)
def test_lavaan_agrees_with_mpmath(name: str) -> None:
    """Parameter by parameter, at the fit and off it: scores, log-likelihoods and the three informations."""
    case = LAVAAN[name]
    log_prob, expected = scores(case)
    np.testing.assert_allclose(case.log_prob, log_prob, rtol=1e-12)
    assert case.log_likelihood == pytest.approx(log_prob.sum(), rel=1e-13)
    assert (abs(case.scores - expected).max(0) <= 1e-13 * abs(expected).max(0)).all()
    fisher, observed = informations(case)
    unit = np.sqrt(np.outer(np.diag(fisher), np.diag(fisher)))
    assert abs((case.expected - fisher) / unit).max() < 1e-12
    assert abs((case.observed - observed) / unit).max() < 1e-12
    assert abs((case.first_order - expected.T @ expected / len(case.x)) / unit).max() < 1e-12


@pytest.mark.parametrize("name", LAVAAN)
def test_lavaan_agrees_with_differences(name: str) -> None:
    """The definition's differences on two rows of each data set, under lavaan's names."""
    case = LAVAAN[name]
    values = {"mean": matrix(case.mean), "covariance_matrix": matrix(case.sigma)}
    at = elements("covariance_matrix", case.sigma.shape)
    size = abs(case.scores).max(0)
    for row in (0, len(case.x) - 1):
        score = mp_gaussian.score("covariance_matrix", values, matrix(case.x[row]))
        by_entry = dict(zip(at, score["covariance_matrix"], strict=True))
        expected = [float(score["mean"][i] if j is None else by_entry[max(i, j), min(i, j)]) for i, j in index(case)]
        assert (abs(case.scores[row] - expected) <= 1e-13 * size).all()


def test_scores_sum_to_zero_at_the_fit() -> None:
    for name, case in LAVAAN.items():
        total = abs(case.scores.mean(0)) / np.sqrt(np.diag(case.first_order))
        assert (total.max() < 1e-10) == name.endswith("at the fit")


@pytest.mark.skipif(not lavaan.available(), reason="Rscript with lavaan is not installed; its frozen numbers are tested")
@pytest.mark.parametrize("name", LAVAAN)
def test_lavaan_live_equals_frozen(name: str) -> None:
    case = LAVAAN[name]
    live = lavaan.evaluate(case.x, case.mean, case.sigma, case.names)
    assert live.parameters == case.parameters
    for field in ("scores", "log_prob", "expected", "observed", "first_order"):
        actual, expected = getattr(live, field), getattr(case, field)
        size = abs(expected).max(0)
        assert (abs(actual - expected) <= 1e-11 * size).all(), field
