"""Products of matrices and symmetric results, with and without the compiled kernels, for batches and under transforms."""

from __future__ import annotations

import pytest
import torch

from mvnjac import kernels
from mvnjac.linalg.symmetric_products import add_symmetric_product, matvec, symmetrised, symmetrize
from tests.support.tolerance import assert_close


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize(
    ("A", "v"), [((3, 4), (4,)), ((2, 3, 4), (2, 4)), ((3, 4), (5, 4)), ((5, 1, 3, 4), (2, 4)), ((0, 4), (4,))]
)
def test_matvec(A: tuple[int, ...], v: tuple[int, ...]) -> None:
    left, right = normal(*A), normal(*v)
    assert_close(matvec(left, right), torch.einsum("...ij,...j->...i", left, right), 1.0)


def test_matvec_under_vmap() -> None:
    A, v = normal(5, 3, 4), normal(5, 4)
    assert_close(torch.func.vmap(matvec)(A, v), matvec(A, v), 1.0)


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 5, 5), (0, 0)])
def test_symmetrize(shape: tuple[int, ...]) -> None:
    A = normal(*shape)
    before, result = A.clone(), symmetrize(A)
    assert torch.equal(result, result.mT)
    assert torch.equal(A, before)
    assert_close(result, (A + A.transpose(-2, -1)) / 2, 1.0)


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("d", [3, 300])
def test_symmetrised_equals_symmetrize(d: int, with_kernels: bool) -> None:
    A = normal(d, d)
    expected = symmetrize(A)
    with kernels.switched(with_kernels):
        assert torch.equal(symmetrised(A.clone()), expected)
        assert torch.equal(symmetrised(expected.clone()), expected)


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("p", [4, 300])
def test_add_symmetric_product(p: int, weighted: bool, with_kernels: bool) -> None:
    A, total = normal(20, p), symmetrize(normal(p, p))
    weights = normal(20) if weighted else None
    expected = total + A.mT @ (A if weights is None else weights.unsqueeze(-1) * A)
    traced = add_symmetric_product(total, A.clone().requires_grad_(), weights).detach()
    with kernels.switched(with_kernels):
        result = add_symmetric_product(total.clone(), A, weights)
    for value in (traced, result):
        assert torch.equal(value, value.mT)
        assert_close(value, expected, 10.0)
