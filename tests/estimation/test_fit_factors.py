"""Fits of factor models: invariance to units and the order of columns; Heywood cases; searches that end at rounding error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

import mvnjac
from mvnjac import errors
from mvnjac.covariance.structured.factor_analysis import Scoring, residual_solve
from mvnjac.estimation import incomplete_factors
from mvnjac.estimation.quasi_newton import maximise
from mvnjac.information.functions import fisher_of
from mvnjac.statistics.sufficient import SufficientStatistics
from tests.covariance import missing
from tests.support.fitting import REQUIRED, assert_maximum, ratio, sample, with_gaps

LOWER = 0.005
DESIGNS = [(60, 40, 4), (100, 200, 5), (200, 250, 8), (500, 100, 10)]
#: the whole study, and its cheapest tenth
STUDY = [(*DESIGNS[seed % 4], seed, gaps) for seed in range(100) for gaps in (False, True)]
TENTH = [(*design, seed, gaps) for seed in range(5) for design in DESIGNS[:2] for gaps in (False, True)]


def draw(d: int, n: int, k: int, seed: int, gaps: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with k real factors, or with three fewer; an order of the columns; units over four decades."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    real = k if seed // 4 % 2 else max(k - 3, 2)
    unique = 0.5 + torch.rand(d, generator=generator).double()
    x = normal(n, real) @ normal(d, real).mT + unique.sqrt() * normal(n, d)
    if gaps:
        x[torch.rand(n, d, generator=generator) < 0.05] = torch.nan
    return x, torch.randperm(d, generator=generator), 10 ** (4 * torch.rand(d, generator=generator).double() - 2)


def log_density(x: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Σ log p by torch's distribution, pattern by pattern."""
    total = 0.0
    for pattern in (~x.isnan()).unique(dim=0):
        rows = x[((~x.isnan()) == pattern).all(-1)][:, pattern]
        marginal = torch.distributions.MultivariateNormal(mean[pattern], covariance[pattern][:, pattern])
        total += float(marginal.log_prob(rows).sum())
    return total


def assert_one_maximum(d: int, n: int, k: int, seed: int, gaps: bool) -> None:
    x, order, units = draw(d, n, k, seed, gaps)
    option = "marginalise" if gaps else None
    here = mvnjac.fit(x, f"low-rank:{k}", missing=option)
    there = mvnjac.fit(x[:, order] * units, f"low-rank:{k}", missing=option)
    shift = float(units.log() @ (~x[:, order].isnan()).sum(0).double())
    assert here.converged, here.message
    assert there.converged, there.message
    assert there.log_likelihood + shift == pytest.approx(here.log_likelihood, rel=0, abs=1e-6)
    assert here.log_likelihood == pytest.approx(log_density(x, here.mean, here.covariance.dense()), rel=1e-11)
    places = {f"cov_diag[{place}]" for place in range(d) if f"cov_diag[{order[place]}]" in here.boundary}
    assert set(there.boundary) == places
    seen = ~x.isnan()
    variances = (x - x.nanmean(0)).nan_to_num().square().sum(0) / seen.sum(0)
    shares = here.covariance.parameters["cov_diag"] / variances
    held = torch.tensor([f"cov_diag[{i}]" in here.boundary for i in range(d)])
    torch.testing.assert_close(shares[held], torch.full_like(shares[held], LOWER), rtol=1e-9, atol=0)
    assert bool((shares[~held] > LOWER).all())
    if not gaps:
        assert_stationary(x, here, held)


def assert_stationary(x: Tensor, estimate: mvnjac.Fit, held: Tensor) -> None:
    """By autograd through the definition: the gradient by W and free log v is 0, and at the bound it points outwards."""
    S, n = torch.cov(x.mT, correction=0), len(x)
    W, log_v = (t.detach().requires_grad_() for t in (estimate.covariance.parameters["cov_factor"],
                estimate.covariance.parameters["cov_diag"].log()))  # fmt: skip
    covariance = W @ W.mT + torch.diag(log_v.exp())
    value = -0.5 * n * (torch.logdet(covariance) + torch.linalg.solve(covariance, S).trace())
    by_factor, by_log = torch.autograd.grad(value, [W, log_v])
    scale = S.diagonal().sqrt().unsqueeze(-1)
    assert float((by_factor * scale).abs().max()) < 1e-6 * n
    assert float(by_log[~held].abs().max()) < 1e-6 * n
    assert bool((by_log[held] <= 1e-6 * n).all())


@pytest.mark.slow
@pytest.mark.parametrize(("d", "n", "k", "seed", "gaps"), TENTH)
def test_units_and_order_do_not_matter(d: int, n: int, k: int, seed: int, gaps: bool) -> None:
    assert_one_maximum(d, n, k, seed, gaps)


@pytest.mark.long
@pytest.mark.parametrize(("d", "n", "k", "seed", "gaps"), STUDY)
def test_units_and_order_do_not_matter_in_all_draws(d: int, n: int, k: int, seed: int, gaps: bool) -> None:
    assert_one_maximum(d, n, k, seed, gaps)


# --- Heywood cases ----------------------------------------------------------------------------------------------------


def three(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((80, 3), (3, 3))]
    return normal[0] @ normal[1]


def closed_form(x: Tensor) -> tuple[float, list[float]]:
    """The supremum of the log-likelihood of one factor of three variables over positive unique variances, and the squared loadings λ²
    of standardised variables implied by the correlations."""
    n, S = len(x), torch.cov(x.mT, correction=0)
    scale = S.diagonal().sqrt()
    R = (S / torch.outer(scale, scale)).tolist()
    squared = [R[i][j] * R[i][k] / R[j][k] for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1))]
    constant = -0.5 * n * (3 * math.log(2 * math.pi) + 3 + 2 * float(scale.log().sum()))
    if all(0 < square < 1 for square in squared):
        return constant - 0.5 * n * float(np.linalg.slogdet(R)[1]), squared
    edges = [math.log(1 - R[i][j] ** 2) + math.log(1 - R[i][k] ** 2) for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1))]
    return constant + max(-0.5 * n * edge for edge in edges), squared


def numerical(x: Tensor, lower: float) -> float:
    """The largest log-likelihood with unique variances of at least that share, by scipy's L-BFGS-B from several starts."""
    n, S = len(x), torch.cov(x.mT, correction=0)
    scale = S.diagonal().sqrt()
    R = (S / torch.outer(scale, scale)).numpy()

    def deviance(theta: np.ndarray) -> tuple[float, np.ndarray]:
        loadings, unique = theta[:3], theta[3:]
        covariance = np.outer(loadings, loadings) + np.diag(unique)
        P = np.linalg.inv(covariance)
        G = P - P @ R @ P
        return np.linalg.slogdet(covariance)[1] + np.trace(P @ R), np.concatenate([2 * G @ loadings, np.diag(G)])

    generator, found = np.random.default_rng(0), []
    for i in range(6):
        start = np.concatenate([generator.normal(size=3) * 0.7, generator.uniform(0.1, 0.9, 3)])
        start[3 + i % 3] = lower if i < 3 else 0.5
        bounds = [(None, None)] * 3 + [(lower, None)] * 3
        options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000}
        found.append(minimize(deviance, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).fun)
    return -0.5 * n * (3 * math.log(2 * math.pi) + 2 * float(scale.log().sum()) + min(found))


def assert_heywood(seed: int) -> bool:
    """Compare with the closed form at a bound near 0, and with scipy at the usual bound; return whether it is a Heywood case."""
    x = three(seed)
    limit, squared = closed_form(x)
    near = mvnjac.fit(x, "low-rank:1", lower=1e-8)
    assert near.converged, near.message
    scores, v = near.gaussian.jacobian(x).sum()["cov_diag"], near.covariance.parameters["cov_diag"]
    beyond = float((scores * v)[[name in near.boundary for name in ("cov_diag[0]", "cov_diag[1]", "cov_diag[2]")]].sum())
    assert near.log_likelihood - beyond == pytest.approx(limit, rel=0, abs=1e-6)  # the effect of the bound, to first order
    proper = all(0 < square < 1 - 1e-8 for square in squared)
    assert bool(near.boundary) == (not proper)
    estimate = mvnjac.fit(x, "low-rank:1")
    assert estimate.converged, estimate.message
    assert estimate.log_likelihood == pytest.approx(numerical(x, LOWER), rel=0, abs=1e-6)
    inside = all(0 < square < 1 - LOWER for square in squared)
    assert bool(estimate.boundary) == (not inside)
    W, v = estimate.covariance.parameters.values()
    shares = v / x.var(0, correction=0)
    if inside:
        np.testing.assert_allclose(1 - shares, squared, atol=1e-6)
    held = {f"cov_diag[{i}]" for i in range(3) if float(shares[i]) < LOWER * (1 + 1e-9)}
    assert set(estimate.boundary) == held
    missing_errors = estimate.standard_errors()["cov_diag"].isnan()
    assert {f"cov_diag[{i}]" for i in range(3) if missing_errors[i]} == held
    return bool(held)


@pytest.mark.slow
def test_heywood_cases_of_three_variables() -> None:
    assert 10 < sum(assert_heywood(seed) for seed in range(40)) < 40


@pytest.mark.long
def test_heywood_cases_of_three_variables_in_all_draws() -> None:
    assert 100 < sum(assert_heywood(seed) for seed in range(400)) < 400


def heywood() -> tuple[Tensor, mvnjac.Fit]:
    x = torch.cat([sample(150, 6, k=1), sample(150, 6, k=1)[:, 2:3]], 1)
    return x, mvnjac.fit(x, "low-rank:2", names=list("abcdefg"))


def test_standard_errors_are_conditional_on_the_bound() -> None:
    """By the pseudo-inverse, over the free parameters, of the full information by autograd."""
    x, estimate = heywood()
    assert estimate.boundary == ["cov_diag[c]", "cov_diag[g]"]
    W, v = estimate.covariance.parameters.values()
    free = torch.tensor([name not in "cg" for name in "abcdefg"])

    def tangents(theta: Tensor) -> Tensor:
        factor, unique = theta[:14].reshape(7, 2), v.clone().masked_scatter(free, theta[14:])
        return factor @ factor.mT + torch.diag(unique)

    theta = torch.cat([W.reshape(-1), v[free]])
    change = torch.autograd.functional.jacobian(tangents, theta).reshape(49, -1)
    P = torch.linalg.inv(estimate.covariance.dense())
    information = 0.5 * len(x) * change.mT @ torch.kron(P, P) @ change
    scale = information.diagonal().sqrt()
    inverse = torch.linalg.pinv(information / torch.outer(scale, scale), hermitian=True, rtol=1e-9) / torch.outer(scale, scale)
    found = estimate.standard_errors()
    assert set(found) == {"mean", "cov_diag"}
    assert found["cov_diag"].isnan().tolist() == (~free).tolist()
    torch.testing.assert_close(found["cov_diag"][free], inverse.diagonal()[14:].sqrt(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["mean"], (estimate.covariance.dense().diagonal() / len(x)).sqrt())


def test_the_bound_is_an_argument() -> None:
    x, at_half_a_percent = heywood()
    shares = {}
    for lower in (1e-4, 0.005, 0.1):
        estimate = mvnjac.fit(x, "low-rank:2", lower=lower)
        assert estimate.converged
        shares[lower] = float((estimate.covariance.parameters["cov_diag"] / x.var(0, correction=0)).min())
        assert f"at the bound, {lower:g} of the variance" in str(estimate)
    assert shares == pytest.approx({lower: lower for lower in shares})
    for lower in (0.0, -0.1, 1.0, math.nan):
        with pytest.raises(errors.ArgumentError, match=r"fit: lower is .* expected a share of the variance"):
            mvnjac.fit(x, "low-rank:2", lower=lower)


def test_bounds_in_blocks_are_named_by_their_blocks() -> None:
    x, alone = heywood()
    blocks = mvnjac.BlockDiagonal([mvnjac.Isotropic(torch.tensor(1.0).double()), alone.covariance], [2, 7])
    estimate = mvnjac.fit(torch.cat([sample(150, 2), x], 1), blocks, names=list("xyabcdefg"))
    assert estimate.boundary == ["blocks[1].cov_diag[c]", "blocks[1].cov_diag[g]"]
    assert estimate.standard_errors()["blocks[1].cov_diag"].isnan().sum() == 2


def test_heywood_cases_with_gaps() -> None:
    x = with_gaps(heywood()[0], 0.05)
    estimate = mvnjac.fit(x, "low-rank:2", missing="marginalise")
    assert estimate.boundary == ["cov_diag[2]", "cov_diag[6]"]
    assert_maximum(estimate, x)
    assert estimate.standard_errors()["cov_diag"].isnan().sum() == 2


# --- what the search is made of ---------------------------------------------------------------------------------------


def incomplete() -> tuple[Tensor, SufficientStatistics, Tensor, Tensor, Tensor]:
    x, *_ = draw(12, 30, 3, 1, True)
    found = SufficientStatistics.of(x, None, str)
    assert found is not None
    generator = torch.Generator().manual_seed(2)
    mean, W = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((12,), (12, 3)))
    return x, found, mean, W, torch.rand(12, generator=generator).double() + 0.2


def test_the_score_of_incomplete_rows_is_that_of_the_definition() -> None:
    x, found, *theta = incomplete()
    value, totals = incomplete_factors.totals(found, *theta)
    leaves = [t.clone().requires_grad_() for t in theta]
    mean, W, v = leaves
    expected = missing.log_density(x - found.origin, mean, W @ W.mT + torch.diag(v)).sum()
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    for total, gradient in zip(totals.values(), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(total, gradient)


def test_the_information_of_incomplete_rows_is_that_of_the_patterns() -> None:
    _, found, mean, W, v = incomplete()
    gaussian = mvnjac.Gaussian(mean, mvnjac.LowRank(W, v), missing="marginalise")
    F = fisher_of(gaussian.model, ["mean", "cov_factor", "cov_diag"], found.observed, found.multiplicity)
    change = {"mean": mean + 1, "cov_factor": W.flip(0), "cov_diag": v.flip(0)}
    image = incomplete_factors.information(found, W, v, change)
    expected = found.total * F.matvec(torch.cat([change["mean"], change["cov_factor"].reshape(-1), change["cov_diag"] * v]))
    torch.testing.assert_close(torch.cat([image["mean"], image["cov_factor"].reshape(-1), image["cov_diag"] / v]), expected)


def test_em_never_lowers_the_likelihood() -> None:
    _, found, _, W, v = incomplete()
    values = [incomplete_factors.totals(found, *incomplete_factors.iterate(found, W, v, LOWER, steps))[0] for steps in range(8)]
    assert all(after > before for before, after in itertools.pairwise(values))


@pytest.mark.parametrize("held", [[], [1, 4]])
def test_the_metric_solves_with_the_information(held: list[int]) -> None:
    """On directions that are orthogonal to rotations, with the variances at the bound fixed."""
    *_, W, v = incomplete()
    F = mvnjac.fisher_information(torch.zeros(12).double(), mvnjac.LowRank(W, v), wrt=["cov_factor", "cov_diag"])
    b = F.matvec(torch.cat([W.flip(0).reshape(-1), v.flip(0)]))
    there = torch.zeros(12, dtype=torch.bool)
    there[held] = True
    by_factor, by_log = Scoring(W, v, there).solve(b[:36].reshape(12, 3), b[36:] * v)
    image = F.matvec(torch.cat([by_factor.reshape(-1), by_log * v]))
    free = torch.cat([torch.ones(36, dtype=torch.bool), ~there])
    torch.testing.assert_close(image[free], b[free], rtol=1e-8, atol=1e-9)
    assert not by_log[there].any()


def test_many_variables_are_solved_by_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, W, v = incomplete()
    U, free = torch.linalg.qr(W)[0], torch.ones(12, dtype=torch.bool)
    free[3] = False
    expected = residual_solve(U, v, free)
    monkeypatch.setattr("mvnjac.covariance.structured.factor_analysis._DENSE_SIZE", 1)
    torch.testing.assert_close(residual_solve(U, v, free), expected, rtol=1e-5, atol=1e-6)


def test_one_start_is_enough_where_it_is_given() -> None:
    x = sample(400, 9, k=3, seed=2)
    estimate = mvnjac.fit(x, "low-rank:3")
    again = mvnjac.fit(x, mvnjac.LowRank(torch.ones(9, 3).double(), x.var(0)))
    assert again.log_likelihood == pytest.approx(estimate.log_likelihood, abs=1e-7)
    assert ratio(again, x) < REQUIRED


# --- where rounding ends a search -------------------------------------------------------------------------------------


def test_the_score_leads_where_rounding_hides_the_likelihood() -> None:
    """Series that were integrated twice: the information is nearly singular, and the rounding error of the log-likelihood, about 1e-8,
    exceeds the gain of a step long before the score is 0."""
    for seed in (0, 1, 6, 17):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(40, 40, generator=generator, dtype=torch.float64).cumsum(1).cumsum(1)
        estimate = mvnjac.fit(x, "ar:2")
        assert estimate.converged, estimate.message
        assert estimate.score_ratio <= 1e-7
        phi = estimate.covariance.parameters["coefficients"]
        for change in (1e-5, -1e-5):
            for i in range(2):
                moved = phi.clone()
                moved[i] += change
                try:
                    other = mvnjac.Autoregressive(moved, estimate.covariance.parameters["variance"])
                    assert float(mvnjac.log_prob(x, estimate.mean, other).sum()) < estimate.log_likelihood
                except errors.NotPositiveDefiniteError:
                    pass


class Stuck:
    """A log-likelihood that no step increases, with a constant score: objective and point in one."""

    lower = torch.full((1,), -torch.inf, dtype=torch.float64)
    active = torch.zeros(1, dtype=torch.bool)

    def __init__(self, left: float, uncertain: float, theta: float = 0.0) -> None:
        self.score_ratio, self._uncertain = left, uncertain
        self.start = self.theta = torch.tensor([theta], dtype=torch.float64)
        self.score = torch.tensor([left], dtype=torch.float64)
        self.value = -abs(theta)

    def evaluate(self, theta: Tensor) -> Stuck:
        return Stuck(self.score_ratio, self._uncertain, float(theta))

    def natural_gradient(self, gradient: Tensor) -> Tensor:
        return gradient

    def largest_log_change(self, change: Tensor) -> float:
        return 0.0

    def rounding_error(self, value: float) -> float:
        return self._uncertain


@pytest.mark.parametrize(
    ("left", "uncertain", "converged"),
    [(9e-7, 0, True), (5e-6, 1.3e-11, True), (5e-6, 1.2e-11, False), (1.1e-5, 1e-10, False)],
)
def test_a_search_that_rounding_has_stopped_has_converged(left: float, uncertain: float, converged: bool) -> None:
    """To 1e-6, or to 1e-5 if the gain of a Newton step, half the square, is below the rounding error of the log-likelihood."""
    result = maximise(cast(Any, Stuck(left, uncertain)), 10, lambda *_: None)
    assert result.line_search_failed
    assert result.converged is converged


def test_advice_fits_the_structure() -> None:
    """Rows that an autoregression predicts without error: the message does not mention factors."""
    series = torch.ones(10, 1).double() * torch.arange(1.0, 11).unsqueeze(-1)
    with pytest.raises(errors.NotPositiveDefiniteError) as caught:
        mvnjac.fit((series - series.mean()).repeat(1, 6), "ar:1")
    assert "variance goes to 0" in str(caught.value)
    assert "lower order" in str(caught.value)
    assert "factors" not in str(caught.value)
    assert "Heywood" not in str(caught.value)


@pytest.mark.parametrize("kind", ["expected", "observed", "sandwich", "opg"])
def test_covariances_of_estimates_at_a_bound(kind: str) -> None:
    """Parameters at a bound have no standard error; those of the others are conditional on them, as if they were known.

    The reference is a factor model as a function of all parameters but that one.
    """
    generator = np.random.default_rng(3)
    x = torch.from_numpy(generator.standard_normal((80, 3)) @ generator.standard_normal((3, 3)))
    estimate = mvnjac.fit(x, "low-rank:1", names=["a", "b", "c"])
    assert estimate.boundary
    found = mvnjac.inference.covariance_of_estimates(estimate.gaussian.jacobian(x), kind)
    v, bound = (
        estimate.covariance.parameters["cov_diag"],
        [name in estimate.boundary for name in ("cov_diag[a]", "cov_diag[b]", "cov_diag[c]")],
    )
    held = torch.tensor(bound)

    def moments(parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        theta = parameters["theta"]
        mean, w = theta[:3], theta[3:6]
        diagonal = v.masked_scatter(~held, theta[6:])
        return mean, w.unsqueeze(-1) * w + torch.diag(diagonal)

    theta = torch.cat([estimate.mean, estimate.covariance.parameters["cov_factor"].flatten(), v[~held]])
    reference = mvnjac.Parametric(moments, {"theta": theta})
    wanted = mvnjac.inference.covariance_of_estimates(mvnjac.jacobian(x, None, reference), kind).standard_errors
    free = torch.tensor([True] * 6 + [not there for there in bound])
    torch.testing.assert_close(found.standard_errors[free], wanted, rtol=1e-6, atol=0)
    assert bool(found.standard_errors[~free].isnan().all())
