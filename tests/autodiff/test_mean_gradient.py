"""The gradient with respect to the mean alone: one triangular solve for the values and sums of residuals, for every shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mvnjac
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from mvnjac.distributions import MultivariateNormal
from tests.covariance import reference

N, D = 700, 300


class RecordedOperations(TorchDispatchMode):
    """The names of operations and the sizes of their results, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[str, int]] = []

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], arguments: tuple[Any, ...] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        if not function.is_view and isinstance(result, Tensor):
            self.sizes.append((function.overloadpacket.__name__, result.numel()))
        return result


def written(call: Callable[[], object]) -> list[tuple[str, int]]:
    with RecordedOperations() as operations:
        call()
    return operations.sizes


def test_work_of_a_training_step() -> None:
    """One solve for the rows and two for a single vector; no product of d×d matrices, no inverse, no sum of z zᵀ."""
    make = Maker(seed=1)
    x, mean, L = Maker(batch=(N,), seed=2).normal(D), make.normal(D).requires_grad_(), torch.eye(D).double() + make.lower(D) / D
    steps = {
        "function": lambda: mvnjac.log_prob(x, mean, mvnjac.Cholesky(L), check=False).sum().backward(),
        "Gaussian": lambda: mvnjac.Gaussian(mean, mvnjac.Cholesky(L), check=False).log_prob(x).sum().backward(),
        "distribution": lambda: MultivariateNormal(mean, scale_tril=L, validate_args=False).log_prob(x).sum().backward(),
    }
    for name, step in steps.items():
        sizes = written(step)
        solved = [size for operation, size in sizes if operation == "linalg_solve_triangular"]
        assert sorted(solved) == [D, D, N * D], name
        costly = {"mm", "bmm", "addmm", "addmm_", "cholesky_inverse", "linalg_cholesky_ex"}
        assert not costly & {operation for operation, _ in sizes}, name
        assert sum(size for _, size in sizes) < 5 * N * D + 2 * D * D, name


def test_work_of_values_alone() -> None:
    """At a constant L: one triangular solve, and two d×d results to check that L is lower triangular."""
    make = Maker(seed=1)
    x, mean, L = Maker(batch=(N,), seed=2).normal(D), make.normal(D), torch.eye(D).double() + make.lower(D) / D
    sizes = written(lambda: mvnjac.log_prob(x, mean, mvnjac.Cholesky(L)))
    assert [size for operation, size in sizes if operation == "linalg_solve_triangular"] == [N * D]
    assert sum(size == D * D for _, size in sizes) <= 2


@pytest.mark.parametrize("name", [name for name in structures() if name != "Parametric"])
@pytest.mark.parametrize("n", [4, 400])
def test_every_structure(name: str, n: int) -> None:
    """Comparison with reverse mode of a textbook density: equal and unequal weights, one mean, (1, d), and one mean per row."""
    structure = next(iter(structures()[name].samples(3, Maker(seed=1))))
    x, weights = Maker(batch=(n,), seed=2).normal(3), Maker(batch=(n,), seed=3).normal()
    shapes = [(3,)] if name == "Kronecker" else [(3,), (1, 3), (n, 3)]  # (1, 3) and (n, 3) would be a matrix there
    for shape in shapes:
        mean = Maker(seed=4).normal(*shape).requires_grad_()
        for w in (weights, torch.tensor(0.5).double()):
            (actual,) = torch.autograd.grad((w * mvnjac.log_prob(x, mean, structure)).sum(), mean)
            (expected,) = torch.autograd.grad((w * reference.log_density(x, mean, structure.dense(3))).sum(), mean)
            torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (5, 1, 3), (1, 3), (5, 2, 3)])
def test_grids_of_rows_and_covariances(shape: tuple[int, ...]) -> None:
    """(5, 1) rows and two covariances; the same for a batch of weights under vmap."""
    make = Maker(seed=1)
    sigma, x, weights = torch.stack([make.definite(3), make.definite(3)]), make.normal(5, 1, 3), make.normal(5, 2)
    mean = make.normal(*shape).requires_grad_()

    def total(density: Callable[..., Tensor], mean: Tensor, w: Tensor) -> Tensor:
        return (w * density(x, mean, sigma)).sum()

    (expected,) = torch.autograd.grad(total(reference.log_density, mean, weights), mean)
    (actual,) = torch.autograd.grad(total(mvnjac.log_prob, mean, weights), mean)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)
    each = torch.func.vmap(lambda w: torch.func.grad(lambda m: total(mvnjac.log_prob, m, w))(mean))
    torch.testing.assert_close(
        each(torch.stack([weights, 2 * weights])), torch.stack([expected, 2 * expected]), rtol=1e-11, atol=1e-11
    )


def test_digits_at_large_offsets_and_condition() -> None:
    """Summing residuals first is as accurate as one solve per row, against exact sums: x far from 0, κ(Σ) = 1e8."""
    from fractions import Fraction

    make = Maker(batch=(500,), seed=1)
    L = torch.tensor([[1e4, 0.0], [1e4, 1.0]], dtype=torch.float64)
    mean = torch.tensor([1e6, -1e6], dtype=torch.float64, requires_grad=True)
    x = mean.detach() + make.normal(2) @ L.mT
    (actual,) = torch.autograd.grad(mvnjac.log_prob(x, mean, mvnjac.Cholesky(L)).sum(), mean)
    r = [sum(Fraction(v) - Fraction(m) for v in column) for column, m in zip(x.mT.tolist(), mean.tolist(), strict=True)]
    z0 = r[0] / Fraction(10**4)
    z1 = r[1] - Fraction(10**4) * z0
    exact = torch.tensor([float((z0 - 10**4 * z1) / 10**4), float(z1)], dtype=torch.float64)
    rounding = 500 * 2.0**-53 * float(x.abs().max())  # of the subtractions, which every algorithm contains
    assert (actual - exact).abs().max() < rounding
