"""Comparison with mpmath (80 digits), R's lavaan (stored results, and live if R is installed) and reverse-mode autodiff."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mvnjac
from mvnjac.covariance import dense_parameters, structures
from tests.covariance.reference import dense_gradient
from tests.oracles import lavaan, lavaan_missing, mp_gaussian, mpmath_cases
from tests.support.tolerance import FACTOR, assert_close, condition

EPS = torch.finfo(torch.float64).eps
CASES = mpmath_cases.frozen()


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float64))


def units(name: str, scale: np.ndarray) -> np.ndarray:
    """Factors, one per unique element, that make derivatives independent of the variables' units."""
    d = len(scale)
    s, one = scale, np.ones(d)
    by_row = {
        **dict.fromkeys(("x", "mean", "scale"), s),
        **{"natural_location": 1 / s, "cov_diag": s**2, "variance": np.array([s[0] ** 2])},
    }
    by_entry = {
        "covariance_matrix": np.outer(s, s),
        "scale_tril": np.outer(s, one),
        "log_scale_tril": np.tril(np.outer(s, one), -1) + np.eye(d),
        "precision_matrix": np.outer(1 / s, 1 / s),
        "natural_matrix": np.outer(1 / s, 1 / s),
        "precision_tril": np.outer(1 / s, one),
        "inverse_scale_tril": np.outer(one, 1 / s),
        "correlation_matrix": np.outer(one, one),
    }
    if name in by_row:
        return by_row[name]
    return np.array([by_entry[name][at] for at in mp_gaussian.elements(name, (d, d))])


def jacobian_of(case: mp_gaussian.Case) -> mvnjac.Jacobian:
    parameters = {name: tensor(value) for name, value in case.parameters.items() if name != "mean"}
    if case.parametrisation == "natural_matrix":
        values = {name: mp_gaussian.matrix(value) for name, value in case.parameters.items()}
        mean = mp_gaussian.mp.lu_solve(-2 * values["natural_matrix"], values["natural_location"])
        covariance: mvnjac.Covariance = mvnjac.Precision(-2 * parameters["natural_matrix"])
        return mvnjac.jacobian(tensor(case.x), tensor(np.array([float(v) for v in mean])), covariance)
    structure = next(cls for cls in structures().values() if set(cls.fields) == set(parameters))
    parameters = {name: value.squeeze(0) if name == "variance" else value for name, value in parameters.items()}
    return mvnjac.jacobian(tensor(case.x), tensor(case.parameters["mean"]), structure(**parameters))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parametrisation}: {case.name}")
def test_mpmath(case: mp_gaussian.Case) -> None:
    """Derivatives agree to 10·κ·eps in the units of the variables, where κ is that of Σ scaled to unit diagonal."""
    J = jacobian_of(case)
    for name, expected in case.expected.items():
        unit = tensor(units(name, case.scale))
        if not unit.numel():
            continue
        actual = J.matrix(wrt=name)
        assert_close(actual * unit, tensor(expected) * unit, case.kappa_scaled, "oracle", name)
        total = J.sum(wrt=J.columns(name) if name != "x" else name)
        if name != "x":
            sums = torch.stack([total[column] for column in J.columns(name)])
            size = float((tensor(expected) * unit).abs().sum(0).max())
            assert_close(sums * unit, tensor(expected).sum(0) * unit, case.kappa_scaled, "oracle", f"sum of {name}", size)
    assert_close(J.log_prob, tensor(case.log_prob), case.kappa_scaled, "oracle", "log_prob")


def test_stored_mpmath_results_are_reproduced() -> None:
    case = next(case for case in CASES if case.name == "well conditioned" and case.parametrisation == "scale_tril")
    computed = mp_gaussian.solve(case.name, case.parametrisation, case.x, case.parameters, np.diag(case.scale**2))
    for name, expected in case.expected.items():
        np.testing.assert_array_equal(computed.expected[name], expected)


def agrees_with_lavaan(case: lavaan.Saturated) -> None:
    x, mean, sigma = tensor(case.x), tensor(case.mean), tensor(case.sigma)
    J = mvnjac.jacobian(x, mean, sigma, names=case.names)
    kappa, columns = condition(sigma), case.columns()
    tolerance = max(1e-12, FACTOR["oracle"] * kappa * EPS)
    M, scores = J.matrix(wrt=columns).numpy(), case.scores
    for k, column in enumerate(columns):
        assert abs(M[:, k] - scores[:, k]).max() <= tolerance * abs(scores[:, k]).max(), column
    assert float(J.log_prob.sum()) == pytest.approx(case.log_likelihood, rel=1e-12)
    gram = J.gram(wrt=columns).numpy() / len(x)
    scale = np.sqrt(np.diag(case.first_order))
    assert abs((gram - case.first_order) / np.outer(scale, scale)).max() <= tolerance * 10
    informations = {
        "expected": (mvnjac.fisher_information(mean, sigma, names=case.names, wrt=columns).matrix().numpy(), case.expected),
        "observed": (-mvnjac.hessian(x, mean, sigma, names=case.names, wrt=columns).matrix().numpy() / len(x), case.observed),
    }
    for kind, (actual, expected) in informations.items():
        scale = np.sqrt(abs(np.diag(expected)))
        assert abs((actual - expected) / np.outer(scale, scale)).max() <= tolerance * 10 * kappa, kind
    by_chain_rule(case, J, columns, tolerance)


def by_chain_rule(case: lavaan.Saturated, J: mvnjac.Jacobian, columns: list[str], tolerance: float, floor: float = 0.0) -> None:
    """The scores of every dense parametrisation equal lavaan's times the derivative of Σ with respect to the parameters.

    floor: rounding error of a column that is exactly 0, relative to the largest column.
    """
    d = len(case.names)
    G = np.zeros((len(case.x), d, d))  # lavaan's scores as full symmetric gradients
    for k, parameter in enumerate(case.parameters):
        if "~~" in parameter:
            i, j = (case.names.index(name) for name in parameter.split("~~"))
            G[:, i, j] = G[:, j, i] = case.scores[:, k] / (1 if i == j else 2)
    for name, cls in dense_parameters().items():
        if name == "covariance_matrix" or name.startswith("natural"):
            continue
        values = {key: J.model.parameter(key) for key in cls.fields}
        coordinates = cls.fields[name](d)
        packed = coordinates.pack(values[name])

        def sigma_of(
            v: torch.Tensor, name=name, cls=cls, values=values, coordinates=coordinates, packed=packed
        ) -> torch.Tensor:
            value = values[name] + coordinates.unpack(v - packed)
            return cls(**{**values, name: value}).dense().flatten()

        derivative = torch.autograd.functional.jacobian(sigma_of, packed).numpy()  # (d², k)
        expected = G.reshape(len(G), -1) @ derivative
        size = np.abs(G.reshape(len(G), -1)) @ np.abs(derivative)
        error = abs(J.matrix(wrt=name).numpy() - expected)
        assert (error.max(0) <= 10 * tolerance * size.max(0) + floor * size.max()).all(), name


@pytest.mark.parametrize("name", lavaan.frozen())
def test_lavaan_frozen(name: str) -> None:
    agrees_with_lavaan(lavaan.frozen()[name])


@pytest.mark.skipif(not lavaan.available(), reason="Rscript with lavaan is not installed; its stored results are tested")
@pytest.mark.parametrize("seed", range(4))
def test_lavaan_live(seed: int) -> None:
    generator = np.random.default_rng(seed)
    d = 2 + seed
    x = generator.normal(size=(25, d)) @ generator.normal(size=(d, d)) + generator.normal(size=d)
    sigma = np.cov(x.T, bias=True) * 1.1 + 0.05 * np.eye(d)
    agrees_with_lavaan(lavaan.evaluate(x, x.mean(0) + 0.1, 0.5 * (sigma + sigma.T), [f"v{i}" for i in range(d)]))


@pytest.mark.skipif(not lavaan.available(), reason="Rscript with lavaan is not installed")
def test_stored_lavaan_results_are_reproduced() -> None:
    computed, frozen = lavaan.make(), lavaan.frozen()
    assert list(computed) == list(frozen)
    for name, case in computed.items():
        np.testing.assert_allclose(case.scores, frozen[name].scores, rtol=1e-9, atol=1e-9)


# --- lavaan with missing entries ----------------------------------------------------------------------------------------

MISSING = {"missing": "marginalise"}


def near(actual: torch.Tensor, expected: np.ndarray, unit: np.ndarray | float, what: str) -> None:
    """Assert equal shapes, and equality to 1e-10 of the largest entry in the units of the parameters."""
    assert tuple(actual.shape) == expected.shape, what
    assert abs((actual.numpy() - expected) * unit).max() <= 1e-10 * abs(expected * unit).max(), what


def agrees_with_lavaan_missing(case: lavaan.Saturated) -> None:
    """Scores with their zeros, log-likelihoods, the three information matrices, and every dense parametrisation."""
    x, mean, sigma = tensor(case.x), tensor(case.mean), tensor(case.sigma)
    columns, unit = case.columns(), lavaan_missing.units(case.parameters, case.names, case.sigma)
    square, observed = np.outer(unit, unit), ~x.isnan()
    J = mvnjac.jacobian(x, mean, sigma, names=case.names, **MISSING)
    M = J.matrix(wrt=columns)
    near(M, case.scores, unit, "scores")
    assert not M.numpy()[case.scores == 0].any()
    nonzero = case.scores.any(0)
    assert (abs(M.numpy() - case.scores).max(0)[nonzero] <= 1e-10 * abs(case.scores).max(0)[nonzero]).all()
    np.testing.assert_allclose(J.log_prob.numpy(), case.log_prob, rtol=1e-10)
    assert float(J.log_prob.sum()) == pytest.approx(case.log_likelihood, rel=1e-12)
    near(J.gram(wrt=columns) / len(x), case.first_order, square, "first order")
    F = mvnjac.fisher_information(mean, sigma, names=case.names, wrt=columns, observed=observed)
    near(F.matrix(), case.expected, square, "expected")
    H = mvnjac.hessian(x, mean, sigma, names=case.names, wrt=columns, **MISSING)
    near(-H.matrix() / len(x), case.observed, square, "observed")
    if len(case.names) < 20:
        by_chain_rule(case, J, columns, 1e-11, 1e-14)  # the scores of pairs that are never observed jointly are 0


def products_agree_with_lavaan_missing(case: lavaan_missing.Products) -> None:
    """860 parameters; only products are compared, since no matrix of this size is stored."""
    x, mean, sigma = tensor(case.x), tensor(case.mean), tensor(case.sigma)
    columns, unit = case.columns(), lavaan_missing.units(case.parameters, case.names, case.sigma)
    v, w = tensor(case.directions), tensor(case.weights)
    J = mvnjac.jacobian(x, mean, sigma, names=case.names, **MISSING)
    np.testing.assert_allclose(J.log_prob.numpy(), case.log_prob, rtol=1e-10)
    near(J[torch.from_numpy(case.rows)].matrix(wrt=columns), case.scores, unit, "scores")
    near(torch.stack([J.rmatvec(one, wrt=columns) for one in w]), case.totals, unit, "totals")
    products = torch.stack([J.matvec(one, wrt=columns) for one in v])
    near(products, case.along, 1.0, "along")
    near(torch.stack([J.rmatvec(one, wrt=columns) for one in products]) / len(x), case.first_order, unit, "first order")
    F = mvnjac.fisher_information(mean, sigma, names=case.names, wrt=columns, observed=~x.isnan())
    near(torch.stack([F.matvec(one) for one in v]), case.expected, unit, "expected")
    H = mvnjac.hessian(x, mean, sigma, names=case.names, wrt=columns, **MISSING)
    near(-torch.stack([H.matvec(one) for one in v]) / len(x), case.observed, unit, "observed")


@pytest.mark.parametrize("name", lavaan_missing.frozen())
def test_lavaan_missing_frozen(name: str) -> None:
    agrees_with_lavaan_missing(lavaan_missing.frozen()[name])


@pytest.mark.parametrize("name", lavaan_missing.frozen_products())
def test_lavaan_missing_frozen_products(name: str) -> None:
    products_agree_with_lavaan_missing(lavaan_missing.frozen_products()[name])


@pytest.mark.skipif(not lavaan.available(), reason="Rscript with lavaan is not installed; its stored results are tested")
@pytest.mark.parametrize("seed", range(3))
def test_lavaan_missing_live(seed: int) -> None:
    """Random patterns, an empty row, and a row with a single observed variable."""
    generator = np.random.default_rng(seed)
    d = 2 + 2 * seed
    x = generator.normal(size=(30, d)) @ generator.normal(size=(d, d)) + generator.normal(size=d)
    sigma = np.cov(x.T, bias=True) * 1.1 + 0.05 * np.eye(d)
    mean = x.mean(0) + 0.1
    x[generator.random(x.shape) < 0.3] = np.nan
    x[3], x[4, 1:] = np.nan, np.nan
    agrees_with_lavaan_missing(lavaan.evaluate(x, mean, 0.5 * (sigma + sigma.T), [f"v{i}" for i in range(d)]))


@pytest.mark.slow
@pytest.mark.skipif(not lavaan.available(), reason="Rscript with lavaan is not installed; its stored products are tested")
def test_lavaan_missing_live_for_many_variables() -> None:
    """40 currencies: all 860 columns of scores and complete information matrices (about 20 s of R)."""
    (case,) = lavaan_missing.frozen_products().values()
    live = lavaan.evaluate(case.x, case.mean, case.sigma, case.names)
    agrees_with_lavaan_missing(live)
    products = lavaan_missing.products(live)
    for field in ("log_prob", "scores", "totals", "along", *lavaan_missing.INFORMATIONS):
        expected = getattr(case, field)
        unit = lavaan_missing.units(case.parameters, case.names, case.sigma) if expected.shape[-1] == 860 else 1.0
        near(tensor(getattr(products, field)), expected, unit, field)


@given(
    d=st.integers(1, 6),
    n=st.integers(1, 5),
    log_kappa=st.floats(0, 8),
    log_scale=st.floats(-6, 6),
    seed=st.integers(0, 1000),
    name=st.sampled_from(["covariance_matrix", "scale_tril", "precision_matrix", "correlation_matrix", "natural_matrix"]),
)
def test_autodiff_reference(d: int, n: int, log_kappa: float, log_scale: float, seed: int, name: str) -> None:
    """Comparison with reverse-mode autodiff of the textbook density, for random shapes, scales and conditioning."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    root = basis * torch.logspace(0, -log_kappa / 2, d, dtype=torch.float64) * 10**log_scale
    sigma = root @ root.mT
    sigma = 0.5 * (sigma + sigma.mT)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) @ root.mT
    mean = 0.1 * torch.randn(d, generator=generator, dtype=torch.float64) * 10**log_scale
    expected = dense_gradient(name, x, mean, sigma)
    J = mvnjac.jacobian(x, mean, sigma)
    kappa = float(torch.linalg.cond(sigma))
    size = max(
        float(expected.abs().max()), float(J.evaluation.block(name).offset.abs().max())
    )  # terms that cancel within an entry
    inverted = name in ("precision_matrix", "natural_matrix")  # autodiff of an inverse loses κ twice
    assert_close(J[name], expected, kappa**2 if inverted else kappa, what=name, scale=size)
