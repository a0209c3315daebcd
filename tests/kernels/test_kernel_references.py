"""The reference implementations of the kernels against the general path of the library, autograd and outer products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from mvnjac.blocks.outer import Outer
from mvnjac.kernels import reference
from mvnjac.kernels.reference import Form, PackedProduct, Patterns
from mvnjac.parameters.checks import SYMMETRY
from mvnjac.parameters.coordinates import Triangle
from tests.support.tolerance import assert_close, condition

FORMS = [
    Form(0.5),
    Form(-1.0, mirrored=False),
    Form(1.0, both=True),
    Form(0.5, strict=True),
    Form(0.3, mirrored=False, strict=True),
]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def definite(count: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    A = normal(count, d, 2 * d, seed=d)
    return ((A @ A.mT) / (2 * d)).to(dtype)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_packed_equals_the_block(d: int, batched: bool, form: Form) -> None:
    n, param_batch = 4, (4,) if batched else ()
    left, right, diagonal = normal(n, d, seed=1), normal(n, d, seed=2), normal(*param_batch, d, seed=3)
    A = normal(*param_batch, d, d, seed=4)
    offset = A + A.mT if form.mirrored else A.tril()
    coordinates = Triangle(d, mirrored=form.mirrored, diagonal=not form.strict)
    expected = Outer(left, right, offset, coordinates, form.coefficient, form.both, diagonal).unique()
    out = torch.empty(n, form.size(d), dtype=torch.float64)
    actual = reference.packed(PackedProduct(left, right, coordinates.pack_gradient(offset), out, form, diagonal))
    assert actual is out
    assert_close(actual, expected, 1.0)


def test_packed_of_patterns() -> None:
    """Compared with the formula for single rows and elements."""
    left, right, offset = normal(3, 2, seed=1), normal(3, 2, seed=2), normal(2, 3, seed=3)
    observed = torch.tensor([[True, False], [True, True], [False, False]])
    pattern = torch.tensor([1, 0, 1])

    def packed(by_row: bool) -> Tensor:
        out, patterns = torch.empty(3, 3, dtype=torch.float64), Patterns(pattern, observed, by_row, by_column=True)
        return reference.packed(PackedProduct(left, right, offset, out, Form(0.5, mirrored=False), patterns=patterns))

    both = packed(by_row=True)
    assert_close(both[1, 1], 0.5 * left[1, 1] * right[1, 0] + offset[0, 1], 1.0)
    assert_close(both[0, 0], 0.5 * left[0, 0] * right[0, 0] + offset[1, 0], 1.0)
    assert not both[0, 1:].any()
    assert not both[2].any()
    by_column = packed(by_row=False)
    assert_close(by_column[0, 1], 0.5 * left[0, 1] * right[0, 0] + offset[1, 1], 1.0)
    assert by_column[0, 2] == 0


@pytest.mark.parametrize("d", [1, 2, 3, 10])
def test_small_gaussians_agree_with_autograd(d: int) -> None:
    x, mean, covariance = normal(5, d, seed=1), normal(5, d, seed=2).requires_grad_(), definite(5, d).requires_grad_()
    expected = MultivariateNormal(mean, covariance).log_prob(x)
    by_mean, by_covariance = torch.autograd.grad(expected.sum(), (mean, covariance))
    kappa = condition(covariance.detach())
    values = reference.small_gaussians(x, mean.detach(), covariance.detach())
    assert_close(values.log_prob, expected.detach(), kappa)
    assert_close(values.scaled, by_mean, kappa)
    assert values.gradient is not None
    assert_close(values.gradient, by_covariance, kappa)
    assert torch.equal(values.gradient, values.gradient.mT)
    assert not values.info.any()


def test_small_gaussians_report_the_failed_pivot() -> None:
    covariance = torch.eye(3).repeat(3, 1, 1)
    covariance[1, 2, 2] = -1.0
    values = reference.small_gaussians(torch.ones(3, 3), torch.zeros(3, 3), covariance)
    assert values.info.tolist() == [0, 3, 0]
    for result in (values.log_prob, values.scaled, values.gradient):
        assert result[1].isnan().all()
        assert result[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_small_gaussians_report_asymmetry_and_values_that_are_not_finite(dtype: torch.dtype) -> None:
    """Only with `symmetry`; a failed pivot takes precedence."""
    covariance = definite(6, 3, dtype)
    covariance = 0.5 * (covariance + covariance.mT)
    covariance[1, 0, 2] *= 1.01
    covariance[2, 0, 2] = torch.nan
    covariance[3, 2, 2] = -1.0
    covariance[4, 0, 1] *= 1 + torch.finfo(dtype).eps
    x = normal(6, 3, seed=1, dtype=dtype)
    x[5, 1] = torch.inf
    values = reference.small_gaussians(x, torch.zeros_like(x), covariance, symmetry=SYMMETRY[dtype])
    assert values.info.tolist() == [0, -1, -1, 3, 0, -1]
    assert values.log_prob.isnan().tolist() == [False, True, True, True, False, True]
    unchecked = reference.small_gaussians(x, torch.zeros_like(x), covariance, gradient=False)
    assert unchecked.info.tolist() == [0, 0, 0, 3, 0, 0]
    assert unchecked.gradient is None
    assert unchecked.log_prob[1].isfinite()
