"""fit by iterative search: factor models against R's factanal, the other structures, and user-defined ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

import mvnjac
from mvnjac import errors
from mvnjac.covariance.samples import Maker
from tests.oracles import factanal
from tests.support.fitting import GOAL, REQUIRED, assert_maximum, ratio, sample

FROZEN = factanal.frozen()


def returns() -> Tensor:
    return torch.from_numpy(factanal.returns())


def objective(covariance: Tensor, S: Tensor) -> float:
    """log det Σ + tr(Σ⁻¹S) − log det S − d, in units of the variables' standard deviations."""
    scale = S.diagonal().sqrt()
    covariance, S = (A / torch.outer(scale, scale) for A in (covariance, S))
    trace = torch.linalg.solve(covariance, S).trace()
    return float(torch.logdet(covariance) + trace - torch.logdet(S)) - len(S)


def agrees_with_factanal(x: Tensor, k: int, solution: factanal.Solution, lower: float = 1e-5) -> None:
    """As close as R's optimiser gets, and never below, with the same bound on the uniquenesses."""
    estimate = mvnjac.fit(x, f"low-rank:{k}", names=factanal.NAMES[: x.shape[1]], lower=lower)
    assert ratio(estimate, x) < REQUIRED
    S = torch.cov(x.mT, correction=0)
    assert objective(estimate.covariance.dense(), S) <= solution.objective + 1e-12
    assert objective(estimate.covariance.dense(), S) == pytest.approx(solution.objective, abs=1e-8)
    W, v = estimate.covariance.parameters.values()
    np.testing.assert_allclose(v / S.diagonal(), solution.uniquenesses, atol=2e-4)
    standardised = W / S.diagonal().sqrt().unsqueeze(-1)
    order = (standardised**2).sum(0).argsort(descending=True)  # the order of R
    np.testing.assert_allclose(standardised[:, order], np.array(solution.loadings), atol=2e-3)


@pytest.mark.parametrize("k", FROZEN)
def test_factanal_frozen(k: int) -> None:
    agrees_with_factanal(returns(), k, FROZEN[k])


@pytest.mark.skipif(not factanal.available(), reason="R is not installed; its frozen numbers are tested")
def test_factanal_live() -> None:
    x = sample(200, 8, k=2, seed=5)
    for k, solution in factanal.evaluate(x.numpy(), [1, 2]).items():
        agrees_with_factanal(x, k, solution)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_factor_models_are_maxima(k: int) -> None:
    x = sample(400, 9, k=k, seed=2)
    estimate = mvnjac.fit(x, f"low-rank:{k}")
    assert estimate.score_ratio < GOAL
    assert_maximum(estimate, x)


def test_the_rotation_is_fixed() -> None:
    """WᵀD⁻¹W is diagonal and descending, the sums of correlations are positive, from any starting values."""
    x = sample(400, 9, k=3, seed=2)
    a = mvnjac.fit(x, "low-rank:3").covariance
    W, v = a.parameters.values()
    inner = W.mT @ (W / v.unsqueeze(-1))
    assert float((inner - torch.diag(inner.diagonal())).abs().max()) < 1e-10 * float(inner.max())
    assert bool((inner.diagonal().diff() < 0).all())
    assert bool(((W / x.std(0).unsqueeze(-1)).sum(0) > 0).all())
    turned = torch.linalg.qr(Maker(seed=3).normal(3, 3))[0]
    b = mvnjac.fit(x, mvnjac.LowRank(1.3 * W @ turned, 0.7 * v)).covariance
    torch.testing.assert_close(b.parameters["cov_factor"], W, rtol=1e-5, atol=1e-6 * float(W.abs().max()))


def test_large_factor_models() -> None:
    """More variables than rows; an information too large for a matrix."""
    x = sample(120, 400, k=4)
    estimate = mvnjac.fit(x, "low-rank:4")
    assert estimate.converged
    assert estimate.score_ratio < GOAL
    J = estimate.gaussian.jacobian(x)
    deviations = J.matrix().square().sum(0).sqrt()
    assert float((J.matrix().sum(0).abs() / deviations).max()) < REQUIRED


@pytest.mark.slow
@pytest.mark.parametrize("k", [7, 9])
def test_heywood_cases_are_solutions_at_the_bound(k: int) -> None:
    """R's factanal also ends at its lower bound for uniquenesses."""
    x = returns()
    estimate = mvnjac.fit(x, f"low-rank:{k}", names=factanal.NAMES)
    assert {"cov_diag[USD]", "cov_diag[HKD]"} <= set(estimate.boundary)
    assert_maximum(estimate, x)
    shares = estimate.covariance.parameters["cov_diag"] / x.var(0, correction=0)
    assert float(shares.min()) == pytest.approx(0.005, rel=1e-12)
    there = [f"cov_diag[{name}]" in estimate.boundary for name in factanal.NAMES]
    assert bool((shares[~torch.tensor(there)] > 0.005 + 1e-6).all())
    assert "at the bound, 0.005 of the variance (a Heywood case): cov_diag[" in estimate.message


def test_a_duplicated_variable_is_at_the_bound() -> None:
    x = sample(150, 6, k=1)
    x = torch.cat([x, x[:, 2:3]], 1)
    estimate = mvnjac.fit(x, "low-rank:2", names=list("abcdefg"))
    assert estimate.boundary == ["cov_diag[c]", "cov_diag[g]"]
    assert_maximum(estimate, x)


def test_a_linear_combination_is_at_the_bound() -> None:
    """With one factor all unique variances are positive; with two they are not."""
    x = sample(150, 5, k=1)
    x = torch.cat([x, (x[:, :2] / x[:, :2].std(0)).sum(1, keepdim=True)], 1)
    for k in (1, 2):
        estimate = mvnjac.fit(x, f"low-rank:{k}", names=list("abcdef"))
        assert_maximum(estimate, x)
        assert bool(estimate.boundary) == (k == 2)


def test_constant_variables_have_no_factor_model() -> None:
    x = sample(150, 6, k=1)
    x[:, [2, 4]] = 3.0
    with pytest.raises(errors.NotPositiveDefiniteError, match="'c', 'e' are constant over all 150 rows"):
        mvnjac.fit(x, "low-rank:1", names=list("abcdef"))


def ar1(n: int, d: int) -> Tensor:
    series = mvnjac.BandedPrecision.autoregressive(torch.tensor([0.6]).double(), torch.tensor(2.0).double(), d)
    return Maker(seed=4).normal(n, d) @ torch.linalg.cholesky(series.dense()).mT + 30


@pytest.mark.parametrize(
    ("structure", "x"),
    [
        ("toeplitz", ar1(80, 6)),
        ("autoregressive:2", ar1(80, 6)),
        ("ar:1", ar1(80, 6)),
        ("kronecker:2x3", sample(80, 6)),
        ("kronecker:3x2", ar1(40, 6)),
        ("kronecker:1x3", sample(40, 3)),
    ],
)
def test_other_structures_are_maxima(structure: str, x: Tensor) -> None:
    assert_maximum(mvnjac.fit(x, structure), x)


def test_kronecker_with_observations_as_matrices() -> None:
    x = ar1(60, 6)
    flat, matrices = (
        mvnjac.fit(x, "kronecker:2x3"),
        mvnjac.fit(x.reshape(60, 2, 3), "kronecker:2x3", names=[list("ab"), list("uvw")]),
    )
    assert matrices.mean.shape == matrices.standard_errors()["mean"].shape == (2, 3)
    assert matrices.names == ["a,u", "a,v", "a,w", "b,u", "b,v", "b,w"]
    torch.testing.assert_close(matrices.covariance.dense(), flat.covariance.dense())
    A = matrices.covariance.parameters["row_covariance"]
    assert float(A.diagonal().mean()) == pytest.approx(1)
    assert set(matrices.standard_errors()) == {"mean"}
    with pytest.raises(errors.ShapeError, match="2 × 3 are 6 variables"):
        mvnjac.fit(x.reshape(60, 3, 2)[:, :, :1], "kronecker:2x3")


def test_blocks_are_fitted_one_by_one() -> None:
    x = sample(150, 9, k=1)
    blocks = [mvnjac.LowRank(torch.ones(5, 1), torch.ones(5)), mvnjac.Isotropic(torch.tensor(1.0)), mvnjac.Dense(torch.eye(2))]
    estimate = mvnjac.fit(x, mvnjac.BlockDiagonal(blocks))
    alone = [mvnjac.fit(x[:, :5], "low-rank:1"), mvnjac.fit(x[:, 5:7], "isotropic"), mvnjac.fit(x[:, 7:])]
    assert estimate.log_likelihood == pytest.approx(sum(each.log_likelihood for each in alone))
    assert estimate.converged
    assert ratio(estimate, x) < REQUIRED
    for name in ("cov_factor", "cov_diag"):  # with one factor the loadings have standard errors
        torch.testing.assert_close(
            estimate.standard_errors()[f"blocks[0].{name}"], alone[0].standard_errors()[name], rtol=1e-5, atol=0
        )
    torch.testing.assert_close(
        estimate.standard_errors()["blocks[2].covariance_matrix"], alone[2].standard_errors()["covariance_matrix"]
    )
    x[:, 8] = 1.0
    with pytest.raises(errors.NotPositiveDefiniteError, match=r"blocks\[2\]: variable 8 is constant"):
        mvnjac.fit(x, mvnjac.BlockDiagonal(blocks))


def test_a_users_own_covariance() -> None:
    """AR(1) as a function of two parameters: the maximum over a grid is not above it, and the scores vanish."""
    x = ar1(80, 5)
    lag = (torch.arange(5)[:, None] - torch.arange(5)).abs()

    def series(theta: dict[str, Tensor]) -> Tensor:
        return theta["variance"] * theta["phi"] ** lag / (1 - theta["phi"] ** 2)

    start = mvnjac.Parametric(series, {"phi": torch.tensor(0.1).double(), "variance": torch.tensor(1.0).double()})
    estimate = mvnjac.fit(x, start)
    assert ratio(estimate, x) < REQUIRED
    phi, variance = estimate.covariance.parameters.values()
    for a in torch.linspace(-0.02, 0.02, 5):
        for b in torch.linspace(0.95, 1.05, 5):
            other = mvnjac.Dense(series({"phi": phi + a, "variance": variance * b}))
            assert float(mvnjac.log_prob(x, estimate.mean, other).sum()) <= estimate.log_likelihood + 1e-9
    assert set(estimate.standard_errors()) == {"mean", "phi", "variance"}


def test_a_regression() -> None:
    """Means row by row: least squares."""
    x, z = ar1(80, 3), Maker(seed=8).normal(80, 2)
    z[:, 0] = 1

    def regression(theta: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return z @ theta["slopes"], torch.diag_embed(theta["log_variance"].exp())

    start = mvnjac.Parametric(regression, {"slopes": torch.zeros(2, 3).double(), "log_variance": torch.zeros(3).double()})
    estimate = mvnjac.fit(x, start)
    slopes = torch.linalg.lstsq(z, x).solution
    torch.testing.assert_close(estimate.covariance.parameters["slopes"], slopes)
    left = x - z @ slopes
    torch.testing.assert_close(estimate.covariance.parameters["log_variance"], (left * left).mean(0).log())


def test_parameters_that_the_data_cannot_tell_apart() -> None:
    theta = {name: torch.zeros((), dtype=torch.float64) for name in ("first", "second")}
    redundant = mvnjac.Parametric(lambda t: torch.exp(t["first"] + t["second"]) * torch.eye(4).double(), theta)
    with pytest.raises(errors.NotIdentifiedError, match=r"^fit: the data do not identify .* along first, second; "):
        mvnjac.fit(sample(30, 4), redundant)


def test_the_likelihood_only_rises() -> None:
    values: list[float] = []
    mvnjac.fit(returns(), "low-rank:4", progress=lambda phase, iteration, value: values.append(value))
    assert len(values) > 10
    assert all(later >= earlier - 1e-12 * abs(earlier) for earlier, later in itertools.pairwise(values))
