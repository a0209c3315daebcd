"""Results of fits: information criteria, likelihood-ratio tests, standard errors of the elements of Σ and of one factor."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import mvnjac
from mvnjac import errors, inference
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from mvnjac.covariance.structured.block_diagonal import BlockDiagonal
from mvnjac.errors import counted
from mvnjac.estimation.result import Fit
from mvnjac.inference import likelihood_ratio_test
from tests.oracles import lavaan, one_factor

LAVAAN = one_factor.frozen()
#: the accuracy of lavaan's search
TOLERANCE = 2e-5
NAMED = [
    "isotropic",
    "diagonal",
    "low-rank:1",
    "low-rank:2",
    "kronecker:2x3",
    "toeplitz",
    "compound-symmetric",
    "banded-precision:1",
    "ar:1",
    "ar:2",
    "precision",
    "scale-correlation",
]


def factor_rows(n: int = 300, d: int = 6, k: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(d)
    loadings = torch.randn(d, k, generator=generator, dtype=torch.float64)
    common, specific = (torch.randn(n, size, generator=generator, dtype=torch.float64) for size in (k, d))
    return 1.5 + common @ loadings.mT + specific


X = factor_rows()


def fits() -> dict[str, Fit]:
    found = {name: mvnjac.fit(X, name) for name in NAMED}
    blocks = BlockDiagonal(
        [mvnjac.LowRank(torch.ones(4, 1).double(), torch.ones(4).double()), mvnjac.Dense(torch.eye(2).double())]
    )
    found["blocks"] = mvnjac.fit(X, blocks)
    start = {"phi": torch.tensor(0.1).double(), "variance": torch.tensor(1.0).double()}
    lag = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    series = mvnjac.Parametric(lambda theta: theta["variance"] * theta["phi"] ** lag / (1 - theta["phi"] ** 2), start)
    found["parametric"] = mvnjac.fit(X, series)
    return found


FITS = fits()


# --- numbers of parameters, criteria ----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 6])
@pytest.mark.parametrize("name", sorted(set(structures()) - {"Parametric"}))
def test_free_parameters_are_the_rank_of_what_they_do_to_the_covariance(name: str, d: int) -> None:
    """The dimension of the set of Σ: the rank of the derivatives of vech Σ, by autodiff of the definition."""
    for instance in structures()[name].samples(d, Maker(torch.float64, seed=3)):
        kinds = [instance.coordinates_of(key, d) for key in instance.parameters]
        values = [kind.pack(value) for kind, value in zip(kinds, instance.parameters.values(), strict=True)]

        def sigma(*packed: Tensor, instance: Any = instance, kinds: Any = kinds) -> Tensor:
            moved = [
                kind.unpack(v - v.detach()) + t for kind, v, t in zip(kinds, packed, instance.parameters.values(), strict=True)
            ]
            return mvnjac.vech(instance.at(moved).dense(d))

        D = torch.cat(torch.autograd.functional.jacobian(sigma, tuple(values)), -1)
        length = D.norm(dim=0)
        rank = int(torch.linalg.matrix_rank(D / torch.where(length > 0, length, 1), rtol=1e-10))
        assert instance.free_parameters(d) == rank, instance


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("isotropic", 1),
        ("diagonal", 6),
        ("low-rank:1", 12),
        ("low-rank:2", 17),
        ("kronecker:2x3", 8),
        ("toeplitz", 6),
        ("compound-symmetric", 2),
        ("banded-precision:1", 11),
        ("ar:2", 3),
        ("precision", 21),
        ("scale-correlation", 21),
        ("blocks", 11),
        ("parametric", 2),
    ],
)
def test_criteria(name: str, count: int) -> None:
    estimate = FITS[name]
    mean, sigma = estimate.mean.numpy(), estimate.gaussian.parameter("covariance_matrix").numpy()
    likelihood = stats.multivariate_normal(mean, sigma).logpdf(X.numpy()).sum()
    assert estimate.n_parameters == count + 6
    assert estimate.aic == pytest.approx(2 * (count + 6) - 2 * likelihood, rel=1e-12)
    assert estimate.bic == pytest.approx(math.log(300) * (count + 6) - 2 * likelihood, rel=1e-12)


def test_weights_count_as_rows_and_matrices_as_vectors() -> None:
    x, weights = X[:50], torch.ones(50, dtype=torch.float64)
    weights[:10] = 3
    weighted, repeated = mvnjac.fit(x, weights=weights), mvnjac.fit(torch.cat([x, x[:10], x[:10]]))
    assert weighted.bic == pytest.approx(repeated.bic, rel=1e-12)
    matrices = mvnjac.fit(X.reshape(300, 2, 3), "kronecker:2x3")
    assert (matrices.n_parameters, matrices.bic) == (14, pytest.approx(FITS["kronecker:2x3"].bic, rel=1e-12))


def test_a_mean_that_follows_from_parameters_is_not_counted_again() -> None:
    start = {"level": torch.zeros(()).double(), "variance": torch.ones(()).double()}
    level = mvnjac.Parametric(lambda t: (t["level"].expand(6), t["variance"] * torch.eye(6).double()), start)
    assert mvnjac.fit(X, level).n_parameters == 2


# --- one factor, against lavaan ----------------------------------------------------------------------------------------


def agrees_with_lavaan(said: one_factor.OneFactor) -> None:
    x, names = one_factor.data()
    estimate = mvnjac.fit(torch.from_numpy(x), "low-rank:1", names=names)
    found, sigma = estimate.standard_errors(), estimate.standard_errors("covariance_matrix")["covariance_matrix"]
    V = inference.covariance_of_estimates(estimate.gaussian.jacobian(torch.from_numpy(x)), "expected")
    sign = math.copysign(1, said.estimates["f=~v1"])  # of the factor
    for i, name in enumerate(names):
        assert sign * float(estimate.covariance.parameters["cov_factor"][i, 0]) == pytest.approx(
            said.estimates[f"f=~{name}"], rel=TOLERANCE
        )
        expected = [said.errors[key] for key in (f"f=~{name}", f"{name}~~{name}", f"{name}~1")]
        assert [float(found[key].flatten()[i]) for key in ("cov_factor", "cov_diag", "mean")] == pytest.approx(
            expected, rel=TOLERANCE
        )
        assert V.standard_error(f"cov_factor[{name},0]") == pytest.approx(expected[0], rel=TOLERANCE)
    for j, i in itertools.combinations_with_replacement(range(5), 2):
        assert float(sigma[i, j]) == float(sigma[j, i]) == pytest.approx(said.errors[f"s_{i + 1}_{j + 1}"], rel=TOLERANCE)
    test = estimate.likelihood_ratio_test(mvnjac.fit(torch.from_numpy(x)))
    assert (test.df, estimate.n_parameters) == (said.measures["df"], said.measures["npar"])
    assert test.statistic == pytest.approx(said.measures["chisq"], rel=1e-7)
    assert test.p_value == pytest.approx(said.measures["pvalue"], rel=1e-7)
    for name, value in (("aic", estimate.aic), ("bic", estimate.bic), ("logl", estimate.log_likelihood)):
        assert value == pytest.approx(said.measures[name], rel=1e-10)


def test_one_factor_is_as_lavaan_has_it() -> None:
    agrees_with_lavaan(LAVAAN)


@pytest.mark.skipif(not lavaan.available(), reason="R's lavaan is not installed; the frozen results are tested")
def test_what_is_frozen_is_what_lavaan_says() -> None:
    agrees_with_lavaan(one_factor.evaluate())


def log_likelihood(theta: Tensor, x: Tensor) -> Tensor:
    """For one factor and rows with missing entries, by torch's density row by row. θ: mean, loadings, unique variances."""
    mean, loading, unique = theta.split(x.shape[1])
    sigma, total = torch.outer(loading, loading) + torch.diag(unique), theta.new_zeros(())
    for row in x:
        o = (~row.isnan()).nonzero().squeeze(-1)
        total = total + torch.distributions.MultivariateNormal(mean[o], sigma[o][:, o]).log_prob(row[o])
    return total


def test_one_factor_with_missing_entries() -> None:
    """From the observed information: the Hessian of torch's density by autodiff."""
    x = factor_rows(60, 4, 1)
    x = x.masked_fill(torch.rand(60, 4, generator=torch.Generator().manual_seed(0)) < 0.1, torch.nan)
    estimate = mvnjac.fit(x, "low-rank:1", missing="marginalise")
    theta = torch.cat([estimate.mean, *(t.flatten() for t in estimate.covariance.parameters.values())])
    H = torch.func.hessian(log_likelihood)(theta, x)
    expected = torch.linalg.inv(-H).diagonal().sqrt()
    found = estimate.standard_errors()
    torch.testing.assert_close(torch.cat([found[name].flatten() for name in found]), expected, rtol=1e-6, atol=0)


def test_several_factors_have_no_standard_errors_of_loadings() -> None:
    assert "cov_factor" not in FITS["low-rank:2"].standard_errors()
    assert bool(FITS["low-rank:2"].standard_errors("cov_factor")["cov_factor"].isnan().all())
    assert bool(torch.isfinite(FITS["blocks"].standard_errors()["blocks[0].cov_factor"]).all())


# --- standard errors by the elements of Σ ------------------------------------------------------------------------------


def delta(estimate: Fit, function: Callable[[Tensor], Tensor]) -> Tensor:
    """G I⁺ Gᵀ by the definition of the structure and autodiff: I = n/2 Dᵀ (Σ⁻¹ ⊗ Σ⁻¹) D, of all entries of the parameters."""
    covariance = estimate.covariance
    given = list(covariance.parameters.values())
    kinds = [covariance.coordinates_of(name, 6) for name in covariance.parameters]
    packed = [kind.pack(value) for kind, value in zip(kinds, given, strict=True)]  # the unique elements of symmetric matrices

    def sigma(*values: Tensor) -> Tensor:
        moved = [kind.unpack(v - v.detach()) + t for kind, v, t in zip(kinds, values, given, strict=True)]
        return covariance.at(moved).dense(6)

    def derivatives(f: Callable[..., Tensor]) -> Tensor:
        blocks = torch.autograd.functional.jacobian(f, tuple(packed))
        return torch.cat(
            [block.reshape(*block.shape[: block.ndim - v.ndim], -1) for block, v in zip(blocks, packed, strict=True)], -1
        )

    D, P = derivatives(sigma), torch.linalg.inv(sigma(*packed))
    half = torch.einsum("ij,jkp->ikp", P, D)
    information = 150 * torch.einsum("ikp,kiq->pq", half, half)
    scale = torch.where(information.diagonal() > 0, information.diagonal(), 1).sqrt()
    inverse = torch.linalg.pinv(information / torch.outer(scale, scale), hermitian=True, rtol=1e-10) / torch.outer(scale, scale)
    G = derivatives(lambda *values: function(sigma(*values)))
    return G @ inverse @ G.mT


@pytest.mark.parametrize("name", [*NAMED[:-2], "blocks"])
def test_elements_of_the_covariance_by_the_delta_method(name: str) -> None:
    estimate = FITS[name]
    J = estimate.gaussian.jacobian(X)
    expected = delta(estimate, mvnjac.vech)
    V = inference.covariance_of_estimates(J, "expected", wrt="covariance_matrix")
    scale = expected.diagonal().amax()
    torch.testing.assert_close(V.covariance, expected, rtol=1e-7, atol=1e-9 * float(scale))
    torch.testing.assert_close(V.values, mvnjac.vech(estimate.gaussian.parameter("covariance_matrix")))
    errors = mvnjac.vech(estimate.standard_errors("covariance_matrix")["covariance_matrix"])
    torch.testing.assert_close(errors, expected.diagonal().clamp(min=0).sqrt(), rtol=1e-6, atol=1e-6 * float(scale) ** 0.5)
    torch.testing.assert_close(V.standard_errors, errors, rtol=1e-9, atol=1e-9)
    assert V.columns == tuple(J.columns("covariance_matrix"))
    some = inference.covariance_of_estimates(J, "expected", wrt=["covariance_matrix[2,0]", "mean[1]"])
    assert some.columns == ("covariance_matrix[2,0]", "mean[1]")
    variance = float(estimate.gaussian.parameter("covariance_matrix")[1, 1]) / 300
    torch.testing.assert_close(some.covariance, torch.diag(torch.stack([expected[2, 2], torch.tensor(variance).double()])))


def test_closed_forms_of_elements() -> None:
    """Diagonal: σᵢᵢ √(2/n). Compound symmetry: the two eigenvalues are independent, of multiplicity 1 and d − 1."""
    S = FITS["diagonal"].gaussian.parameter("covariance_matrix")
    found = FITS["diagonal"].standard_errors("covariance_matrix")["covariance_matrix"]
    torch.testing.assert_close(found, S * (2 / 300) ** 0.5)
    S = FITS["compound-symmetric"].gaussian.parameter("covariance_matrix")
    variance, covariance = float(S[0, 0]), float(S[1, 0])
    one, many = variance + 5 * covariance, variance - covariance
    of_one, of_many = 2 * one**2 / 300, 2 * many**2 / (300 * 5)
    found = FITS["compound-symmetric"].standard_errors("covariance_matrix")["covariance_matrix"]
    torch.testing.assert_close(found.diagonal(), torch.full((6,), ((of_one + 25 * of_many) / 36) ** 0.5).double())
    torch.testing.assert_close(float(found[3, 1]), ((of_one + of_many) / 36) ** 0.5)


def test_other_parametrisations_and_kinds() -> None:
    J = FITS["low-rank:2"].gaussian.jacobian(X)
    i, j = torch.tril_indices(6, 6, -1)
    order = torch.argsort(j * 6 + i)
    for kind in ("observed", "opg", "sandwich", "hac"):
        options = {"prewhite": False} if kind == "hac" else {}
        V = inference.covariance_of_estimates(J, kind, wrt="correlation_matrix", **options)
        whole = inference.covariance_of_estimates(J, kind, **options)
        by_hand = inference.delta_method(whole, lambda t: t["correlation_matrix"][i[order], j[order]])
        torch.testing.assert_close(V.covariance, by_hand.covariance)
        assert V.kind == f"delta method; {whole.kind}"
    ratio = inference.delta_method(V, lambda t: t["covariance_matrix"][0, 1] / t["covariance_matrix"][0, 0])
    assert 0 < float(ratio.standard_errors) < 1
    both = inference.covariance_of_estimates(J, "expected", wrt=["cov_factor", "covariance_matrix"])
    assert bool(both.standard_errors[:12].isnan().all())
    assert bool(torch.isfinite(both.standard_errors[12:]).all())


def test_what_is_still_refused() -> None:
    estimate = FITS["low-rank:2"]
    J = estimate.gaussian.jacobian(X)
    with pytest.raises(errors.UnknownNameError, match="There is no parameter 'sigma'"):
        estimate.standard_errors("sigma")
    with pytest.raises(errors.ArgumentError, match="x, which is not a parameter"):
        inference.covariance_of_estimates(J, wrt=["x", "mean"])
    with pytest.raises(errors.ArgumentError, match="belong to 2 parametrisations"):
        inference.covariance_of_estimates(mvnjac.fit(X).gaussian.jacobian(X), wrt=["scale", "precision_matrix"])


# --- likelihood ratios -------------------------------------------------------------------------------------------------


def test_closed_form_ratios() -> None:
    v = X.var(0, correction=0)
    test = likelihood_ratio_test(FITS["isotropic"], FITS["diagonal"])
    statistic = 300 * float(6 * v.mean().log() - v.log().sum())
    assert (test.df, test.note) == (5, "")
    assert test.statistic == pytest.approx(statistic, rel=1e-10)
    R = np.corrcoef(X.numpy().T)
    test = FITS["precision"].likelihood_ratio_test(FITS["diagonal"])  # in either order
    assert test.df == 15
    assert test.statistic == pytest.approx(-300 * np.linalg.slogdet(R)[1], rel=1e-10)
    assert test.p_value == pytest.approx(stats.chi2.sf(test.statistic, 15), rel=1e-6, abs=1e-300)


def test_p_values_are_those_of_the_chi_squared_distribution() -> None:
    """Under the restriction: independent variables, 120 seeded tables."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(120):
        x = torch.randn(100, 3, generator=generator, dtype=torch.float64)
        found.append(likelihood_ratio_test(mvnjac.fit(x, "diagonal"), mvnjac.fit(x)).p_value)
    assert stats.kstest(found, "uniform").pvalue > 0.01


NESTED = [
    ("isotropic", "compound-symmetric"),
    ("isotropic", "toeplitz"),
    ("isotropic", "ar:1"),
    ("isotropic", "kronecker:2x3"),
    ("compound-symmetric", "toeplitz"),
    ("ar:1", "ar:2"),
    ("ar:1", "toeplitz"),
    ("ar:2", "precision"),
    ("ar:1", "banded-precision:1"),
    ("diagonal", "banded-precision:1"),
    ("kronecker:2x3", "precision"),
    ("low-rank:2", "precision"),
    ("blocks", "scale-correlation"),
    ("parametric", "precision"),
]


@pytest.mark.parametrize(("restricted", "general"), NESTED)
def test_nested_structures(restricted: str, general: str) -> None:
    one, two = FITS[restricted], FITS[general]
    test = likelihood_ratio_test(one, two)
    assert test == one.likelihood_ratio_test(two) == two.likelihood_ratio_test(one)
    assert test.statistic == 2 * (two.log_likelihood - one.log_likelihood) > 0
    assert 0 <= test.p_value <= 1
    assert counted(test.df, "degree of freedom") in str(test)


@pytest.mark.parametrize(
    ("restricted", "general"),
    [
        ("ar:1", "low-rank:1"),
        ("ar:2", "banded-precision:1"),
        ("compound-symmetric", "low-rank:1"),
        ("toeplitz", "low-rank:2"),
        ("kronecker:2x3", "low-rank:1"),
        ("diagonal", "kronecker:2x3"),
        ("precision", "scale-correlation"),
        ("parametric", "ar:2"),
        ("ar:1", "blocks"),
        ("toeplitz", "isotropic"),
    ],
)
def test_what_is_not_nested_is_refused(restricted: str, general: str) -> None:
    with pytest.raises(errors.ArgumentError, match=r"is not known to be a restriction of .* aic or bic"):
        likelihood_ratio_test(FITS[restricted], FITS[general])


def test_the_caller_may_know_that_models_are_nested() -> None:
    test = likelihood_ratio_test(FITS["parametric"], FITS["ar:2"], nested=True)  # it is an AR(1)
    same = likelihood_ratio_test(FITS["ar:1"], FITS["ar:2"])
    assert test.p_value == pytest.approx(same.p_value, rel=1e-5)


@pytest.mark.parametrize(
    ("restricted", "general"), [("low-rank:1", "low-rank:2"), ("diagonal", "low-rank:1"), ("isotropic", "low-rank:2")]
)
def test_numbers_of_factors_have_no_p_value(restricted: str, general: str) -> None:
    test = likelihood_ratio_test(FITS[restricted], FITS[general])
    assert test.statistic > 0
    assert math.isnan(test.p_value)
    assert "loadings are not identified" in test.note
    assert "fit(x, 'dense')" in str(test)


def test_a_boundary_has_no_p_value_but_against_a_dense_covariance() -> None:
    start = FITS["blocks"].covariance
    diagonal = BlockDiagonal([start.blocks[0], mvnjac.Diagonal(torch.ones(2).double())])
    one = mvnjac.fit(X, diagonal)
    assert 0 <= likelihood_ratio_test(one, FITS["blocks"]).p_value <= 1
    gaussian = mvnjac.Gaussian(one.mean, one.covariance)
    gaussian.boundary = ["blocks[0].cov_diag[2]"]
    at_bound = dataclasses.replace(one, gaussian=gaussian)
    test = likelihood_ratio_test(at_bound, FITS["blocks"])
    assert math.isnan(test.p_value)
    assert "blocks[0].cov_diag[2] is at a boundary" in test.note
    dense = likelihood_ratio_test(at_bound, FITS["precision"])
    assert 0 <= dense.p_value <= 1
    assert "blocks[0].cov_diag[2]" in dense.note


def test_fits_of_other_data_are_refused() -> None:
    fit, weights = mvnjac.fit(X, "diagonal", names=list("abcdef")), torch.ones(300, dtype=torch.float64)
    moved = X.clone()
    moved[7, 3] += 1e-4
    gaps = X.clone()
    gaps[0, 0] = torch.nan
    weights[4] = 2
    others = {
        "not of the same data: 300 rows .*, and 299 rows": mvnjac.fit(X[:-1]),
        "not of the same data: .* with other values": mvnjac.fit(moved),
        r"not of the same data: .* and 300 rows \(weights 301\)": mvnjac.fit(X, weights=weights),
        "not of the same data.": mvnjac.fit(gaps, missing="marginalise"),
        "of different variables": mvnjac.fit(X, names=list("abcdeg")),
        "and 300 rows .* of 5 variables": mvnjac.fit(X[:, :5]),
    }
    for says, other in others.items():
        with pytest.raises(errors.ArgumentError, match=says):
            likelihood_ratio_test(fit, other)
    assert likelihood_ratio_test(fit, mvnjac.fit(X[torch.randperm(300)])).p_value < 1e-6  # the order of rows does not matter
    with pytest.raises(errors.ArgumentError, match="general is a Gaussian; pass a Fit"):
        likelihood_ratio_test(fit, fit.gaussian)


def test_fits_that_are_no_maximum_are_refused() -> None:
    with pytest.warns(errors.NotConvergedWarning):
        early = mvnjac.fit(X, "low-rank:2", max_iterations=1)
    with pytest.raises(errors.ArgumentError, match="the restricted fit has not converged"):
        early.likelihood_ratio_test(mvnjac.fit(X))
    lower = dataclasses.replace(FITS["toeplitz"], log_likelihood=FITS["ar:1"].log_likelihood - 1)
    with pytest.raises(errors.ArgumentError, match="it is a lower maximum"):
        likelihood_ratio_test(FITS["ar:1"], lower)


def test_ratios_with_missing_entries_and_weights() -> None:
    """A row with weight 2 counts twice."""
    x = X[:80].masked_fill(torch.rand(80, 6, generator=torch.Generator().manual_seed(2)) < 0.1, torch.nan)
    weights = torch.ones(80, dtype=torch.float64)
    weights[:20] = 2
    found = []
    for rows, each in ((x, weights), (torch.cat([x, x[:20]]), None)):
        one, two = (mvnjac.fit(rows, name, missing="marginalise", weights=each) for name in ("diagonal", "banded-precision:1"))
        found.append(likelihood_ratio_test(one, two).statistic)
    assert found[0] == pytest.approx(found[1], rel=1e-6)
