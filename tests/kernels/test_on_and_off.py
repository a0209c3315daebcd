"""Results with and without the kernels agree to 4·κ·eps, and errors are the same."""

from __future__ import annotations

import pytest
import torch

import mvnjac
from mvnjac import kernels
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from tests.kernels.support import rows
from tests.support.tolerance import assert_close, condition

pytestmark = pytest.mark.skipif(kernels.native is None, reason="the kernels are not built or switched off")

D, N = 6, 40
DTYPES = [torch.float64, torch.float32]


def everything(x: torch.Tensor, mean: torch.Tensor, covariance: object, missing: str | None = None) -> dict[str, torch.Tensor]:
    J = mvnjac.jacobian(x, mean, covariance, missing=missing)
    weights = torch.linspace(-1, 2, len(x), dtype=x.dtype)
    results = {"log_prob": J.log_prob, "matrix": J.matrix(), "gram": J.gram(), "rmatvec": J.rmatvec(weights)}
    results |= {f"sum {name}": total for name, total in J.sum().items()}
    results |= {f"weighted {name}": total for name, total in J.sum(weights).items()}
    return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("name", sorted(structures()))
def test_every_structure(name, dtype, gaps) -> None:
    cls = structures()[name]
    for covariance in cls.samples(D, Maker(seed=5, dtype=dtype)):
        if covariance.batch or covariance.mean is not None:
            continue
        sigma = covariance.dense(D)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(N, D, generator=generator, dtype=torch.float64).to(dtype)
        mean = torch.randn(D, generator=generator, dtype=torch.float64).to(dtype)
        if gaps:
            x = x.masked_fill(torch.rand(N, D, generator=generator) < 0.2, torch.nan)
        missing = "marginalise" if gaps else None
        actual = everything(x, mean, covariance, missing)
        with kernels.switched(on=False):
            expected = everything(x, mean, covariance, missing)
        for key, value in actual.items():
            assert_close(value, expected[key], condition(sigma), "kernels", f"{name} {key}")


def values(x: torch.Tensor, mean: torch.Tensor, sigma: torch.Tensor) -> dict[str, torch.Tensor]:
    J = mvnjac.jacobian(x, mean, sigma)
    return {"log_prob": J.log_prob, "matrix": J.matrix(), **J.sum(), "alone": mvnjac.log_prob(x, mean, sigma)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 3, 20, 70])
def test_plain_tensors(d, dtype) -> None:
    for batch in (False, True):
        x, mean, sigma = rows(9, d, dtype, batch)
        actual = values(x, mean, sigma)
        with kernels.switched(on=False):
            expected = values(x, mean, sigma)
        for key, value in actual.items():
            assert_close(value, expected[key], condition(sigma), "kernels", key)


@pytest.mark.parametrize("dtype", DTYPES)
def test_second_order_and_training(dtype) -> None:
    x, mean, sigma = rows(60, D, dtype)

    def results() -> dict[str, torch.Tensor]:
        leaves = [t.clone().requires_grad_() for t in (mean, sigma)]
        mvnjac.log_prob(x, *leaves).sum().backward()
        return {
            "hessian": mvnjac.hessian(x, mean, sigma).matrix(),
            "information": mvnjac.fisher_information(mean, sigma).matrix(),
            "by the mean": leaves[0].grad,
            "by Σ": leaves[1].grad,
        }

    actual = results()
    with kernels.switched(on=False):
        expected = results()
    for key, value in actual.items():
        assert_close(value, expected[key], condition(sigma), "kernels", key)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("what", ["not finite x", "not finite mean", "not finite sigma", "asymmetric", "indefinite", "shape"])
def test_errors(what, batch) -> None:
    x, mean, sigma = rows(5, 3, torch.float64, batch)
    if what == "not finite x":
        x[4, 2] = torch.inf
    if what == "not finite mean":
        mean[..., 1] = torch.nan
    if what == "not finite sigma":
        sigma[..., 2, 1] = torch.nan
    if what == "asymmetric":
        sigma[..., 0, 1] += 1e-3
    if what == "indefinite":
        sigma[..., 2, 2] = -1.0
    if what == "shape":
        mean = mean[..., :2].contiguous()

    def message() -> str:
        with pytest.raises(mvnjac.MvnjacError) as error:
            mvnjac.jacobian(x, mean, sigma)
        return str(error.value)

    actual = message()
    with kernels.switched(on=False):
        assert message() == actual


def test_asymmetry_within_rounding_is_allowed() -> None:
    """As in the general path, the tolerance is relative to the scales of the variables."""
    for scale in (1e-30, 1.0, 1e30):
        for batch in (False, True):
            x, mean, sigma = rows(5, 3, torch.float64, batch)
            sigma = sigma * scale
            sigma[..., 0, 1] *= 1 + 1e-13
            mvnjac.jacobian(x, mean, sigma)
            sigma[..., 0, 1] *= 1 + 1e-3
            with pytest.raises(mvnjac.errors.NotSymmetricError):
                mvnjac.jacobian(x, mean, sigma)


def test_results_belong_to_the_caller() -> None:
    x, mean, sigma = rows(5, 3, torch.float64, batch=True)
    J = mvnjac.jacobian(x, mean, sigma)
    first = J.sum()["covariance_matrix"]
    expected = first.clone()
    first.zero_()
    assert torch.equal(J.sum()["covariance_matrix"], expected)


@pytest.mark.parametrize("what", ["x", "mean", "sigma"])
@pytest.mark.parametrize("batch", [False, True])
def test_changes_in_place_raise_an_error(what, batch) -> None:
    x, mean, sigma = rows(5, 3, torch.float64, batch)
    J = mvnjac.jacobian(x, mean, sigma)
    {"x": x, "mean": mean, "sigma": sigma}[what].mul_(2)
    for call in (lambda: J.log_prob, J.sum, J.matrix, J.gram, lambda: J["x"]):
        with pytest.raises(mvnjac.errors.ArgumentError, match="changed in place"):
            call()


def test_a_changed_gaussian_is_prepared_again() -> None:
    x, mean, sigma = rows(5, 3, torch.float64)
    gaussian = mvnjac.Gaussian(mean, sigma)
    gaussian.log_prob(x)
    sigma.mul_(2)
    with kernels.switched(on=False):
        expected = mvnjac.log_prob(x, mean, sigma)
    assert_close(gaussian.log_prob(x), expected, condition(sigma))
    assert_close(gaussian.jacobian(x).log_prob, expected, condition(sigma))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parameter", [False, True])
def test_training_steps(dtype, parameter) -> None:
    """Weighted, partial, repeated and higher-order derivatives agree with the general path."""
    x, mean, sigma = rows(30, D, dtype)
    weights = torch.linspace(-1, 2, 30, dtype=dtype)

    def leaf(t: torch.Tensor) -> torch.Tensor:
        return torch.nn.Parameter(t.clone()) if parameter else t.clone().requires_grad_()

    def results() -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, loss in {"sum": lambda v: v.sum(), "mean": lambda v: -v.mean(), "weighted": lambda v: v @ weights}.items():
            mu, S = leaf(mean), leaf(sigma)
            value = loss(mvnjac.log_prob(x, mu, S))
            value.backward(retain_graph=True)
            value.backward()
            found |= {f"{name} value": value.detach(), f"{name} by mean": mu.grad, f"{name} by Σ": S.grad}
        S = leaf(sigma)
        (alone,) = torch.autograd.grad(mvnjac.log_prob(x, mean, S).sum(), S)
        S = leaf(sigma)
        (first,) = torch.autograd.grad(mvnjac.log_prob(x, mean, S).sum(), S, create_graph=True)
        (second,) = torch.autograd.grad((first * first).sum(), S)
        S = leaf(sigma)
        batched = torch.autograd.grad(mvnjac.log_prob(x[:3], mean, S), S, torch.eye(3, dtype=dtype), is_grads_batched=True)[0]
        return found | {"alone": alone, "first": first.detach(), "second": second, "batched": batched}

    actual = results()
    with kernels.switched(on=False):
        expected = results()
    for key, value in actual.items():
        assert_close(value, expected[key], condition(sigma), "kernels", key)


def test_a_parameter_changed_before_the_backward_pass_is_noticed() -> None:
    x, mean, sigma = rows(30, D, torch.float64)
    sigma.requires_grad_()
    value = mvnjac.log_prob(x, mean, sigma).sum()
    with torch.no_grad():
        sigma.mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        value.backward()
