"""CompoundSymmetric: accuracy for nearly equal variables, cost, the interval of the correlation, marginals."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

import mvnjac
from mvnjac.covariance.samples import Maker
from mvnjac.errors import NotPositiveDefiniteError, SingularError
from mvnjac.tensors.broadcasting import RowLayout
from tests.support.tolerance import assert_close, condition
from tests.support.work import written


def structure(variance: float, correlation: float, dtype: torch.dtype = torch.float64) -> mvnjac.CompoundSymmetric:
    return mvnjac.CompoundSymmetric(torch.tensor(variance, dtype=dtype), torch.tensor(correlation, dtype=dtype))


def exact(x: Tensor, variance: Tensor, correlation: Tensor) -> dict[str, float]:
    """log p for mean 0 and its derivatives by the definition, Σ = σ² ((1 − ρ) I + ρ 1 1ᵀ), numerically with 80 digits."""
    d = len(x)
    with mpmath.workdps(80):
        r = mpmath.matrix([mpmath.mpf(v.item()) for v in x])

        def density(variance: mpmath.mpf, correlation: mpmath.mpf) -> mpmath.mpf:
            sigma = variance * ((1 - correlation) * mpmath.eye(d) + correlation * mpmath.ones(d))
            return -(d * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(sigma)) + (r.T * sigma**-1 * r)[0]) / 2

        at = mpmath.mpf(variance.item()), mpmath.mpf(correlation.item())
        return {
            "log_prob": float(density(*at)),
            "variance": float(mpmath.diff(density, at, (1, 0))),
            "correlation": float(mpmath.diff(density, at, (0, 1))),
        }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.99, 1 - 2**-12, -0.24, -0.2499])
def test_against_exact_arithmetic(correlation: float, dtype: torch.dtype) -> None:
    """Rows near the direction (1, …, 1) and far from it, for correlations up to the ends of the interval; d = 5."""
    covariance = structure(2.0, correlation, dtype)
    kappa = condition(covariance.dense(5).double())
    for x in (Maker(dtype, seed=1).normal(5), 100 + Maker(dtype, seed=2).normal(5)):
        J = mvnjac.jacobian(x, torch.zeros(5, dtype=dtype), covariance)
        for name, value in exact(x, *covariance.parameters.values()).items():
            ours = J.log_prob if name == "log_prob" else J[name]
            size = max(abs(value), 5)  # the expectation d of the squares is subtracted
            assert_close(ours, torch.tensor(value, dtype=torch.float64), kappa, "oracle", name, scale=size)


def test_whitening_is_the_symmetric_root() -> None:
    """z = Σ^-½ r, for both whitenings."""
    covariance = structure(2.0, -0.2)
    values, Q = torch.linalg.eigh(covariance.dense(4))
    rows = Maker(batch=(3,), seed=1).normal(4)
    factor, layout = covariance.factor(4), RowLayout(torch.Size((3,)), torch.Size())
    expected = rows @ (Q / values.sqrt()) @ Q.mT
    torch.testing.assert_close(factor.whiten(rows, layout), expected)
    torch.testing.assert_close(factor.reverse_whiten(rows, layout), expected)


def numbers_written(d: int) -> int:
    x, gaussian = Maker(batch=(20,), seed=1).normal(d), mvnjac.Gaussian(torch.zeros(d).double(), structure(2.0, 0.3))
    v = Maker(seed=2).normal(d + 2)

    def everything() -> None:
        gaussian.log_prob(x)
        gaussian.jacobian(x).sum()
        gaussian.jacobian(x).matrix()
        F = gaussian.fisher_information()
        F.solve(F.matvec(v))
        gaussian.hessian(x).matvec(v)

    return written(everything)


def test_cost_is_linear_in_the_dimension() -> None:
    once = numbers_written(5000)
    assert once < 5000**2
    assert numbers_written(10_000) < 2.05 * once


def test_the_interval_depends_on_the_number_of_variables() -> None:
    """−1/(d − 1) < ρ < 1, both excluded; no lower bound for a single variable."""
    for d, lowest in ((2, "-1"), (3, r"-0\.5"), (11, r"-0\.1")):
        mean = torch.zeros(d).double()
        for correlation in (-1 / (d - 1), 1.0):
            with pytest.raises(NotPositiveDefiniteError, match=rf"variables must lie between {lowest} and 1"):
                mvnjac.jacobian(mean, mean, structure(1.0, correlation))
        assert mvnjac.jacobian(mean, mean, structure(1.0, 0.999 * -1 / (d - 1))).log_prob.isfinite()
    one = torch.zeros(1).double()
    assert mvnjac.jacobian(one, one, structure(1.0, -5.0)).log_prob.isfinite()
    with pytest.raises(NotPositiveDefiniteError, match=r"must lie between -inf and 1"):
        mvnjac.jacobian(one, one, structure(1.0, 1.0))


def test_correlation_of_a_single_variable_is_not_identified() -> None:
    x, mean = torch.ones(3, 1).double(), torch.zeros(1).double()
    J = mvnjac.jacobian(x, mean, structure(2.0, 0.5))
    torch.testing.assert_close(J["correlation"], torch.zeros(3).double())
    torch.testing.assert_close(
        J["variance"], mvnjac.jacobian(x, mean, mvnjac.Isotropic(torch.tensor(2.0).double()))["variance"]
    )
    F = mvnjac.fisher_information(mean, structure(2.0, 0.5))
    with pytest.raises(SingularError, match="singular"):
        F.solve(torch.ones(3).double())


def test_information_by_one_of_the_two() -> None:
    """The information with the other parameter fixed is the corner of the matrix, not of its inverse."""
    mean, covariance = torch.zeros(4).double(), structure(2.0, 0.4)
    F = mvnjac.fisher_information(mean, covariance)
    for at, name in enumerate(("variance", "correlation"), start=4):
        alone = mvnjac.fisher_information(mean, covariance, wrt=name)
        torch.testing.assert_close(alone.matrix(), F.matrix()[at : at + 1, at : at + 1])
        torch.testing.assert_close(alone.solve(torch.ones(1).double()), 1 / F.matrix()[at : at + 1, at])
    torch.testing.assert_close(F.inverse(), torch.linalg.inv(F.matrix()))


def test_marginals_are_compound_symmetric() -> None:
    """A marginal has the same two parameters."""
    covariance, some = structure(2.0, -0.1), torch.tensor([0, 2, 5])
    torch.testing.assert_close(covariance.dense(6)[some][:, some], covariance.dense(3))


def test_dense_needs_the_number_of_variables() -> None:
    with pytest.raises(mvnjac.errors.ShapeError, match=r"pass it: dense\(d\)"):
        structure(1.0, 0.5).dense()
    assert structure(1.0, 0.5).dimension is None
