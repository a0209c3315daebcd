"""A distribution in place of mean and covariance: its constructor arguments are recovered, without expanded dimensions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Size, Tensor

import mvnjac
from mvnjac import distributions
from mvnjac.covariance.samples import Maker
from mvnjac.errors import ArgumentError
from mvnjac.model.torch_distributions import parameters, unexpanded

STRUCTURES = {
    "covariance_matrix": mvnjac.Dense,
    "precision_matrix": mvnjac.Precision,
    "scale_tril": mvnjac.Cholesky,
    "cov_factor": mvnjac.LowRank,
}
#: leading dimensions of loc and of the covariance's parameters
BATCHES = [((), ()), ((5,), ()), ((), (5,)), ((5,), (5,)), ((4, 1), (3,)), ((2, 5), (1, 5)), ((1,), ())]
MODULES = [torch.distributions, distributions]

by_form = pytest.mark.parametrize("form", STRUCTURES)
by_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
by_batches = pytest.mark.parametrize("batches", BATCHES, ids=str)


def constructor_arguments(form: str, batches: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())) -> dict[str, Tensor]:
    loc, make = Maker(batch=batches[0]).normal(3), Maker(batch=batches[1], seed=1)
    if form == "cov_factor":
        return {"loc": loc, "cov_factor": make.normal(3, 2), "cov_diag": make.positive(3)}
    return {"loc": loc, form: make.lower(3) if form == "scale_tril" else make.definite(3)}


def build(module: Any, values: dict[str, Tensor]) -> Any:
    cls = module.LowRankMultivariateNormal if "cov_factor" in values else module.MultivariateNormal
    return cls(**values, validate_args=False)


def structure(values: dict[str, Tensor]) -> mvnjac.Covariance:
    parameters = {name: value for name, value in values.items() if name != "loc"}
    return STRUCTURES[next(iter(parameters))](**parameters)


def same(t: Tensor, u: Tensor) -> bool:
    """Whether these are views of the same memory with equal values; leading dimensions of size 1 are ignored."""
    return t.data_ptr() == u.data_ptr() and torch.equal(t.squeeze(), u.squeeze())


@by_module
@by_form
@by_batches
@pytest.mark.parametrize("used", [False, True], ids=["new", "used before"])
def test_constructor_arguments(module: Any, form: str, batches: Any, used: bool) -> None:
    """Mean and covariance are the constructor's arguments, not expanded, also after other attributes were computed."""
    values = constructor_arguments(form, batches)
    dist = build(module, values)
    if used:
        _ = dist.scale_tril, dist.precision_matrix, dist.covariance_matrix
    mean, covariance = parameters(dist)
    assert same(mean, values["loc"])
    assert type(covariance) is STRUCTURES[form]
    for name, value in covariance.parameters.items():
        assert same(value, values[name]), name


@by_module
@by_form
@by_batches
def test_expanded(module: Any, form: str, batches: Any) -> None:
    """An expanded distribution keeps its batch shape and shares its covariance."""
    values = constructor_arguments(form, batches)
    dist = build(module, values)
    expanded = dist.expand((7, *dist.batch_shape))
    mean, covariance = parameters(expanded)
    assert torch.broadcast_shapes(mean.shape[:-1], covariance.batch) == expanded.batch_shape
    for name, value in covariance.parameters.items():
        assert same(value, values[name]), name
    assert mvnjac.log_prob(torch.zeros(3).double(), expanded, check=False).shape == expanded.batch_shape


@by_module
@by_form
def test_functions(module: Any, form: str) -> None:
    """jacobian, log_prob and Gaussian return the same results as for mean and structure."""
    values, x = constructor_arguments(form, ((5,), ())), Maker(batch=(5,), seed=2).normal(3)
    dist, covariance = build(module, values), structure(values)
    ours, theirs = mvnjac.jacobian(x, dist), mvnjac.jacobian(x, values["loc"], covariance)
    assert ours.columns() == theirs.columns()
    assert torch.equal(ours.matrix(), theirs.matrix())
    assert torch.equal(mvnjac.log_prob(x, dist), mvnjac.log_prob(x, values["loc"], covariance))
    assert torch.equal(mvnjac.Gaussian(dist).log_prob(x), mvnjac.log_prob(x, dist))


@by_module
@by_form
def test_gradients_reach_the_parameters(module: Any, form: str) -> None:
    values = {name: value.requires_grad_() for name, value in constructor_arguments(form, ((5,), ())).items()}
    mvnjac.log_prob(torch.zeros(3).double(), build(module, values)).sum().backward()
    assert all(value.grad is not None and value.grad.shape == value.shape for value in values.values())


class Plain(torch.distributions.MultivariateNormal):
    """Derived from torch's class, like Pyro's."""


class LazyNormal:
    """Like GPyTorch's: the covariance is a linear operator, made dense on demand."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.loc = mean
        self.lazy_covariance_matrix = Operator(covariance)

    @property
    def covariance_matrix(self) -> Tensor:
        return self.lazy_covariance_matrix.to_dense()


class LazyTorchNormal(LazyNormal, torch.distributions.MultivariateNormal):
    """Like GPyTorch's class, it derives from torch's but does not set that class's attributes."""


class WithoutMatrix:
    """It has the operator but no matrix, and its mean is not called loc."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.lazy_covariance_matrix = mean, Operator(covariance)


class Operator:
    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def to_dense(self) -> Tensor:
        return self.matrix


@pytest.mark.parametrize("cls", [Plain, LazyNormal, LazyTorchNormal, WithoutMatrix])
def test_other_libraries(cls: Any) -> None:
    values = constructor_arguments("covariance_matrix", ((5,), ()))
    x = Maker(batch=(5,), seed=2).normal(3)
    J = mvnjac.jacobian(x, cls(*values.values()))
    assert torch.equal(J.matrix(), mvnjac.jacobian(x, *values.values()).matrix())


def test_unexpanded() -> None:
    """Only expanded dimensions are removed; a batch of size 1 is kept."""
    matrix = torch.eye(2)
    assert unexpanded(matrix.expand(4, 2, 2), 2).shape == (2, 2)
    assert unexpanded(matrix.unsqueeze(0), 2).shape == (1, 2, 2)
    assert unexpanded(torch.zeros(4, 1, 2).expand(4, 3, 2), 1).shape == (4, 1, 2)
    assert unexpanded(torch.zeros(2).expand(0, 2), 1).shape in (Size((2,)), Size((0, 2)))


def test_invalid_arguments() -> None:
    """A missing covariance, two covariances, and a distribution that is not multivariate normal raise errors."""
    x, mean, sigma = torch.zeros(2, 3), torch.zeros(3), torch.eye(3)
    dist = torch.distributions.MultivariateNormal(mean, sigma)
    for function in (mvnjac.jacobian, mvnjac.log_prob):
        with pytest.raises(ArgumentError, match="covariance is missing"):
            function(x, mean)
        with pytest.raises(ArgumentError, match="in addition to the MultivariateNormal, which defines one"):
            function(x, dist, sigma)
        with pytest.raises(ArgumentError, match="Normal is not a multivariate normal"):
            function(x, torch.distributions.Normal(mean, 1.0))
    with pytest.raises(ArgumentError, match="covariance is missing"):
        mvnjac.Gaussian(mean)
