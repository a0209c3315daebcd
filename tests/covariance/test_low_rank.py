"""LowRank: accuracy in float32, cost, memory, and solutions without rotations of the factors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mvnjac
from mvnjac.covariance.samples import Maker
from mvnjac.linalg import factor_model
from tests.covariance import reference
from tests.support import tolerance
from tests.support.work import operations

Numbers = dict[str, torch.Tensor]
ROOT = Path(__file__).resolve().parents[2]


def model(d: int, k: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, mvnjac.LowRank]:
    make = Maker(dtype, seed=d)
    return Maker(dtype, (20,), seed=1).normal(d), make.normal(d), mvnjac.LowRank(0.5 * make.normal(d, k), make.positive(d))


def test_float32_keeps_its_digits() -> None:
    """Strong factors and weak noise, for which a difference of two large terms would give 66 instead of 62.3."""
    make = Maker(torch.float32, seed=2)
    W, v = 100 * make.normal(60, 3), 1e-2 * make.positive(60)
    x = make.normal(3) @ W.mT + make.normal(60) * v.sqrt()
    exact = reference.log_density(x.double(), torch.zeros(60).double(), mvnjac.LowRank(W.double(), v.double()).dense())
    ours = mvnjac.log_prob(x, torch.zeros(60), mvnjac.LowRank(W, v))
    assert abs(float(ours) - float(exact)) < 1e-2 * abs(float(exact))


def by_distributions(x: torch.Tensor, *given: torch.Tensor, weights: torch.Tensor | None = None) -> Numbers:
    """Value and (weighted) total gradient from torch.distributions and autograd."""
    leaves = [t.detach().clone().requires_grad_() for t in given]
    value = torch.distributions.LowRankMultivariateNormal(*leaves, validate_args=False).log_prob(x)
    value.backward(torch.ones_like(value) if weights is None else weights)
    return {"value": value.detach(), **gradients(leaves)}


def by_backward(x: torch.Tensor, *given: torch.Tensor, weights: torch.Tensor | None = None) -> Numbers:
    leaves = [t.detach().clone().requires_grad_() for t in given]
    value = mvnjac.log_prob(x, leaves[0], mvnjac.LowRank(*leaves[1:]))
    value.backward(torch.ones_like(value) if weights is None else weights)
    return {"value": value.detach(), **gradients(leaves)}


def by_jacobian(x: torch.Tensor, *given: torch.Tensor, weights: torch.Tensor | None = None) -> Numbers:
    J = mvnjac.jacobian(x, given[0], mvnjac.LowRank(*given[1:]))
    return {"value": J.log_prob, **J.sum(weights)}


def from_rows(x: torch.Tensor, *given: torch.Tensor, weights: torch.Tensor | None = None) -> Numbers:
    """Value and (weighted) total gradient as the sum of the rows' gradients."""
    J = mvnjac.jacobian(x, given[0], mvnjac.LowRank(*given[1:]))
    w = torch.ones(len(x), dtype=x.dtype) if weights is None else weights
    return {"value": J.log_prob, **{name: torch.tensordot(w, J[name], 1) for name in ("mean", "cov_factor", "cov_diag")}}


def gradients(leaves: list[torch.Tensor]) -> Numbers:
    return {name: t.grad for name, t in zip(("mean", "cov_factor", "cov_diag"), leaves, strict=True) if t.grad is not None}


def exact(x: torch.Tensor, *given: torch.Tensor) -> Numbers:
    """Value and total gradient by autodiff in float64 through the dense Σ."""
    leaves = [t.double().requires_grad_() for t in given]
    value = reference.log_density(x.double(), leaves[0], mvnjac.LowRank(*leaves[1:]).dense())
    value.sum().backward()
    return {"value": value.detach(), **gradients(leaves)}


@pytest.mark.parametrize("ours", [by_backward, by_jacobian, from_rows])
def test_float32_keeps_the_digits_of_value_and_gradient(ours) -> None:
    """Strong factors and weak noise: the error is of order √κ(Σ) eps, that of a difference of large terms κ(Σ) eps.

    The product aᵀW would be such a difference, too.
    """
    make = Maker(torch.float32, seed=0)
    W, v = 100 * make.normal(60, 3), 1e-2 * make.positive(60)
    x = Maker(torch.float32, (5,), seed=1).normal(3) @ W.mT + Maker(torch.float32, (5,), seed=2).normal(60) * v.sqrt()
    given = x, torch.zeros(60), W, v
    expected, kappa = exact(*given), tolerance.condition(mvnjac.LowRank(W, v).dense())
    for name, got in ours(*given).items():
        tolerance.assert_close(got, expected[name], kappa**0.5, "oracle", what=name)
    from_torch = by_distributions(*given)
    allowed = tolerance.FACTOR["oracle"] * kappa**0.5 * torch.finfo(torch.float32).eps
    for name in ("value", "cov_diag"):  # the errors of a difference of large terms
        scale = float(expected[name].abs().max())
        assert float((from_torch[name].double() - expected[name]).abs().max()) > 5 * allowed * scale


@pytest.mark.parametrize("ours", [by_backward, by_jacobian])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "block"), [(50, 10**6), (50, 8 * 70), (1, 8 * 64), (0, 8 * 64)])
def test_blocks_cover_all_rows_and_variables(monkeypatch: pytest.MonkeyPatch, ours, weighted: bool, n: int, block: int) -> None:
    """The totals for many blocks, and for one, are the sums over the rows."""
    monkeypatch.setattr(factor_model, "_BLOCK_BYTES", block)
    make, rows = Maker(seed=3), Maker(batch=(n,), seed=4)
    given = rows.normal(150), make.normal(150), make.normal(150, 4), make.positive(150)
    weights = rows.normal() if weighted else None
    expected, got = by_distributions(*given, weights=weights), ours(*given, weights=weights)
    kappa = tolerance.condition(mvnjac.LowRank(*given[2:]).dense())
    for name in expected:
        tolerance.assert_close(got[name], expected[name], kappa, what=name)


def test_gradients_can_be_modified_in_place() -> None:
    """Tensors saved by the forward pass are not returned: modifying a gradient does not change the next one."""
    x, mean, structure = model(30, 2)
    leaves = [t.requires_grad_() for t in (mean, *structure.parameters.values())]
    total = mvnjac.log_prob(x, mean, structure).sum()
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    expected = [t.clone() for t in first]
    for t in first:
        t.zero_()
    for got, again in zip(torch.autograd.grad(total, leaves), expected, strict=True):
        assert torch.equal(got, again)


PEAK = """
import torch, mvnjac
from tests.support.peak import peak
torch.set_num_threads(1)
def data(n, d, k):
    return torch.randn(n, d).double(), torch.zeros(d).double(), mvnjac.LowRank(torch.randn(d, k).double(), torch.ones(d).double())
def use(x, mean, structure):
    J = mvnjac.jacobian(x, mean, structure)
    J.log_prob, J.sum(), mvnjac.natural_gradient(x, mean, structure)
use(*data(10, 100, 20))
given = data(100, 50_000, 20)
before = peak()
use(*given)
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_is_linear_in_the_dimension() -> None:
    """n×d takes 40 MB and d×k 8 MB; d×d would take 20 GB."""
    used = int(subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, cwd=ROOT).stdout)
    assert used < 0.25e9, f"{used / 1e6:.0f} MB"


def test_iterated_solution_is_of_minimum_norm() -> None:
    """The iterative solution for thousands of parameters solves F v = b and has no component along rotations W A."""
    _, mean, structure = model(450, 8)
    F = mvnjac.fisher_information(mean, structure, wrt=("cov_factor", "cov_diag"))
    assert F.shape[-1] > 4000
    b = F.matvec(Maker(seed=4).normal(F.shape[-1]))
    solution = F.solve(b)
    torch.testing.assert_close(F.matvec(solution), b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))
    change = solution[: 450 * 8].reshape(450, 8)
    inner = structure.parameters["cov_factor"].mT @ change
    assert float((inner - inner.mT).abs().max()) < 1e-8 * float(inner.abs().max())


def test_rotations_are_the_null_space() -> None:
    """The null space of F has the dimension k (k − 1)/2 of rotations, and `solve` gives the solution of minimum norm."""
    _, mean, structure = model(12, 3)
    F = mvnjac.fisher_information(mean, structure)
    values = torch.linalg.eigvalsh(F.matrix())
    assert int((values < 1e-10 * values[-1]).sum()) == 3
    b = F.matvec(Maker(seed=4).normal(F.shape[-1]))
    torch.testing.assert_close(F.solve(b), torch.linalg.pinv(F.matrix(), hermitian=True, rtol=1e-10) @ b)


def test_cost_is_linear_in_the_dimension() -> None:
    """Doubling d doubles the floating-point operations of value, total, information and Hessian products."""
    small, large = (operations(*model(d, 4)) for d in (2000, 4000))
    assert 0 < large < 2.1 * small
