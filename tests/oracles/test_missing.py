"""With missing entries the oracles agree, too: lavaan, closed forms in high precision, and autodiff of the textbook density.

The textbook is that of `tests/covariance/missing.py`, by the mean and Σ: no derivative of the library takes part.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from mpmath import mp

from mvnjac.covariance import dense_parameters
from tests.covariance import missing
from tests.oracles import lavaan, lavaan_missing
from tests.oracles.lavaan_missing import INFORMATIONS, Products
from tests.oracles.mp_gaussian import Matrix

FULL = lavaan_missing.frozen()
LARGE = lavaan_missing.frozen_products()
Case = lavaan.Saturated | Products


def units(case: Case) -> np.ndarray:
    return lavaan_missing.units(case.parameters, case.names, case.sigma)


def index(case: Case) -> list[tuple[int, ...]]:
    """lavaan's parameters as (variable,) for a mean, (variable, variable) for a covariance."""
    return [tuple(case.names.index(v) for v in name.removesuffix("~1").split("~~")) for name in case.parameters]


class Pattern:
    """The rows that observe the same variables, in high precision: P = Σ_oo⁻¹, and sums over the rows of a and Q; 0 elsewhere."""

    def __init__(self, case: Case, o: np.ndarray, rows: np.ndarray) -> None:
        self.rows, self.d = rows, len(o)
        self.at = np.flatnonzero(o).tolist()
        sigma = mp.matrix([[mp.mpf(float(case.sigma[i, j])) for j in self.at] for i in self.at])
        P = sigma**-1
        self.log_det, self.P = mp.log(mp.det(sigma)), self._whole(P)
        r = [mp.matrix([mp.mpf(float(case.x[n, i])) - mp.mpf(float(case.mean[i])) for i in self.at]) for n in rows]
        a = [P * one for one in r]
        self.quadratic = [(one.T * scaled)[0] for one, scaled in zip(r, a, strict=True)]
        self.a = [self._whole(one) for one in a]
        outer = [one * one.T for one in a]
        self.Q = self._whole(2 * functools.reduce(lambda s, t: s + t, outer) - len(rows) * P)
        self.sum = functools.reduce(lambda s, t: s + t, self.a)

    def _whole(self, part: Matrix) -> Matrix:
        columns = self.at if part.cols > 1 or part.rows == 1 == len(self.at) else [0]
        result = mp.zeros(self.d, self.d if columns is self.at else 1)
        for k, i in enumerate(self.at):
            for m, j in enumerate(columns):
                result[i, j] = part[k, m]
        return result

    def log_prob(self) -> list[float]:
        return [float(-(len(self.at) * mp.log(2 * mp.pi) + self.log_det + q) / 2) for q in self.quadratic]

    def scores(self, at: list[tuple[int, ...]]) -> np.ndarray:
        """(rows, p) a, and ½ (a aᵀ − P) with off-diagonals doubled."""
        return np.array([[self._score(a, *key) for key in at] for a in self.a])

    def _score(self, a: Matrix, i: int, j: int | None = None) -> float:
        return float(a[i] if j is None else (a[i] * a[j] - self.P[i, j]) / (2 if i == j else 1))

    def expected(self, first: tuple[int, ...], second: tuple[int, ...]) -> mp.mpf:
        """Of all rows, an entry: P, and ½ tr(P E P E') with E = ∂Σ by a unique element."""
        if len(first) != len(second):
            return mp.mpf(0)
        if len(first) == 1:
            return len(self.rows) * self.P[first[0], second[0]]
        return len(self.rows) * _trace(self.P, self.P, first, second)

    def observed(self, first: tuple[int, ...], second: tuple[int, ...]) -> mp.mpf:
        """Of all rows, an entry: P, (P E a), ½ tr(P E Q E')."""
        if len(first) > len(second):
            first, second = second, first
        if len(first) == len(second) == 1:
            return self.expected(first, second)
        if len(first) == 1:
            (i,), (g, h) = first, second
            return (self.P[i, g] * self.sum[h] + self.P[i, h] * self.sum[g]) * _half(g, h)
        return _trace(self.P, self.Q, first, second)


def _trace(P: Matrix, Q: Matrix, first: tuple[int, ...], second: tuple[int, ...]) -> mp.mpf:
    """½ tr(P E Q E'), E = eᵢeⱼᵀ + eⱼeᵢᵀ, or half of that on the diagonal."""
    (i, j), (g, h) = first, second
    terms = Q[j, g] * P[h, i] + Q[j, h] * P[g, i] + Q[i, g] * P[h, j] + Q[i, h] * P[g, j]
    return terms / 2 * _half(i, j) * _half(g, h)


def _half(i: int, j: int) -> mp.mpf:
    return mp.mpf(1) / 2 if i == j else mp.mpf(1)


def patterns(case: Case) -> list[Pattern]:
    distinct, inverse = np.unique(~np.isnan(case.x), axis=0, return_inverse=True)
    return [Pattern(case, o, np.flatnonzero(inverse.ravel() == k)) for k, o in enumerate(distinct)]


@pytest.mark.parametrize("name", FULL)
def test_lavaan_agrees_with_mpmath(name: str) -> None:
    """Row by row and entry by entry: the log-likelihoods, the scores, and the three informations averaged over the rows."""
    case = FULL[name]
    at, n, unit = index(case), len(case.x), units(case)
    log_prob, scores = np.zeros(n), np.zeros(case.scores.shape)
    information = np.zeros((2, len(at), len(at)))
    for pattern in patterns(case):
        log_prob[pattern.rows], scores[pattern.rows] = pattern.log_prob(), pattern.scores(at)
        for k, first in enumerate(at):
            for m, second in enumerate(at[: k + 1]):
                information[:, k, m] += float(pattern.expected(first, second)), float(pattern.observed(first, second))
    expected, observed = (np.tril(one) + np.tril(one, -1).T for one in information / n)
    np.testing.assert_allclose(case.log_prob, log_prob, rtol=1e-13)
    assert case.log_likelihood == pytest.approx(log_prob.sum(), rel=1e-13)
    assert ((case.scores != 0) == (scores != 0)).all()  # exact zeros by what a row does not observe
    assert (abs(case.scores - scores).max(0) <= 1e-13 * abs(scores).max(0)).all()
    for kind, wanted in zip(INFORMATIONS, (expected, observed, scores.T @ scores / n), strict=True):
        error = abs(getattr(case, kind) - wanted) * np.outer(unit, unit)
        assert error.max() < 1e-12 * abs(wanted * np.outer(unit, unit)).max(), kind


def textbook(case: Case) -> tuple[missing.Textbook, list[int], torch.Tensor]:
    """The textbook by the mean and Σ, the place of each of lavaan's parameters in it, and x."""
    mean, sigma, x = (torch.from_numpy(t) for t in (case.mean, case.sigma, case.x))
    book = missing.dense_textbook(dense_parameters()["covariance_matrix"], mean, sigma)
    d = len(case.names)
    columns = [(i,) for i in range(d)] + [(j, i) for i in range(d) for j in range(i, d)]
    return book, [columns.index(tuple(sorted(key, reverse=True))) for key in index(case)], x


@pytest.mark.parametrize("name", FULL)
def test_lavaan_agrees_with_the_textbook(name: str) -> None:
    """Autodiff of the marginal density, row by row; the expected information by its definition."""
    case = FULL[name]
    book, at, x = textbook(case)
    unit, n = units(case), len(x)
    log_prob = missing.log_density(x, *book.moments(book.point)).detach().numpy()
    np.testing.assert_allclose(case.log_prob, log_prob, rtol=1e-12)
    scores = book.scores(x).numpy()[:, at]
    assert ((case.scores != 0) == (scores != 0)).all()
    assert (abs(case.scores - scores).max(0) <= 1e-12 * abs(scores).max(0)).all()
    informations = {"expected": book.fisher(~x.isnan()).numpy(), "observed": -book.hessian(x).numpy() / n}
    for kind, whole in informations.items():
        wanted = whole[at][:, at] * np.outer(unit, unit)
        assert abs(getattr(case, kind) * np.outer(unit, unit) - wanted).max() <= 1e-12 * abs(wanted).max(), kind


@pytest.mark.parametrize("name", LARGE)
def test_lavaan_agrees_with_the_textbook_on_many_variables(name: str) -> None:
    """860 parameters: scores of some rows, and totals, directional derivatives and products with the informations."""
    case = LARGE[name]
    book, at, x = textbook(case)
    unit, n = units(case), len(x)
    np.testing.assert_allclose(case.log_prob, missing.log_density(x, *book.moments(book.point)).detach().numpy(), rtol=1e-12)
    assert case.log_likelihood == pytest.approx(case.log_prob.sum(), rel=1e-13)
    scores, directions = book.scores(x).numpy()[:, at], case.directions
    assert ((case.scores != 0) == (scores[case.rows] != 0)).all()
    v = np.zeros_like(directions)
    v[:, at] = directions  # in the textbook's order
    products = {
        "scores": (scores[case.rows], unit),
        "totals": (case.weights @ scores, unit),
        "along": (directions @ scores.T, 1),
        "expected": ((v @ book.fisher(~x.isnan()).numpy())[:, at], unit),
        "observed": (-book.hessian_times(x, torch.from_numpy(v)).numpy()[:, at] / n, unit),
        "first_order": (directions @ scores.T @ scores / n, unit),
    }
    for kind, (wanted, size) in products.items():
        assert abs((getattr(case, kind) - wanted) * size).max() <= 1e-11 * abs(wanted * size).max(), kind


def test_every_pattern_is_there() -> None:
    """The gaps of all 40 currencies that ever moved, some of them never observed together."""
    case = LARGE["40 currencies"]
    observed = ~np.isnan(case.x)
    assert len(np.unique(observed, axis=0)) == 20
    together = observed.T.astype(int) @ observed
    for a, b in (("TRL", "TRY"), ("ROL", "RON"), ("CYP", "BRL")):
        assert together[case.names.index(a), case.names.index(b)] == 0
    assert len(np.unique(np.isnan(FULL["12 currencies"].x), axis=0)) >= 12
    assert lavaan_missing.FROZEN.stat().st_size < 1_500_000


RUNS = pytest.mark.skipif(not lavaan.available(), reason="Rscript with lavaan is not installed; its frozen numbers are tested")


@RUNS
@pytest.mark.parametrize("name", FULL)
def test_lavaan_live_equals_frozen(name: str) -> None:
    """From the very data: R's airquality, the currencies of the examples."""
    case = FULL[name]
    x, mean, sigma, names = lavaan_missing.settings()[name]
    # differences of logarithms, whose last bits depend on the library
    np.testing.assert_allclose(x, case.x, rtol=0, atol=1e-14)
    np.testing.assert_allclose(mean, case.mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(sigma, case.sigma, rtol=1e-10, atol=1e-10 * abs(case.sigma).max())
    live = lavaan.evaluate(case.x, case.mean, case.sigma, names)
    assert live.parameters == case.parameters
    for field in ("scores", "log_prob", *INFORMATIONS):
        actual, expected = getattr(live, field), getattr(case, field)
        assert (abs(actual - expected) <= 1e-11 * abs(expected).max(0)).all(), field


@RUNS
def test_rows_without_any_entry() -> None:
    """lavaan leaves them out of everything; put back as zeros, they count in the averages."""
    case = FULL["airquality"]
    x = np.insert(case.x, [0, 50, len(case.x)], np.nan, axis=0)
    live = lavaan.evaluate(x, case.mean, case.sigma, case.names)
    empty = np.isnan(x).all(1)
    assert (live.scores[empty] == 0).all()
    assert (live.log_prob[empty] == 0).all()
    np.testing.assert_array_equal(live.scores[~empty], case.scores)
    assert live.log_likelihood == case.log_likelihood
    for kind in INFORMATIONS:
        np.testing.assert_allclose(getattr(live, kind) * len(x), getattr(case, kind) * len(case.x), rtol=1e-13)
