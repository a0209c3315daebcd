"""Every output of every C++ kernel, for every instruction set of the machine, against plain torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mvnjac
from mvnjac import kernels
from mvnjac.blocks.outer import Outer
from mvnjac.fused.batched import FusedBatch
from mvnjac.fused.dense import FusedDense, fused_rows
from mvnjac.kernels import cpu
from mvnjac.kernels.reference import Form, PackedProduct, Patterns, packed
from mvnjac.parameters.checks import SYMMETRY
from mvnjac.parameters.coordinates import correlation, lower_triangular, symmetric
from tests.kernels.support import guarded, instruction_sets, reference, rows
from tests.support.tolerance import assert_close, condition

pytestmark = pytest.mark.skipif(kernels.native is None, reason="the kernels are not built or switched off")

SIZES = [1, 2, 3, 5, 8, 9, 16, 17, 31, 50, 64, 65, 100, 256]
COUNTS = [1, 7, 33, 100]
DTYPES = [torch.float64, torch.float32]


@pytest.fixture(params=instruction_sets(), autouse=True)
def instructions(request):
    with kernels.switched(on=True, instructions=request.param):
        yield request.param


def agree(got: Tensor, expected: Tensor, sigma: Tensor) -> None:
    assert_close(got, expected, condition(sigma))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("n", COUNTS)
def test_rows_of_one_gaussian(n, d, dtype) -> None:
    x, mean, sigma = rows(n, d, dtype)
    log_prob, a, P = reference(x, mean, sigma)
    quick = fused_rows(x, mean, sigma)
    assert isinstance(quick, FusedDense)
    agree(quick.log_prob(), log_prob, sigma)
    total = quick.sum()
    agree(total["mean"], a.sum(0), sigma)
    agree(total["covariance_matrix"], 0.5 * (a.mT @ a - n * P), sigma)
    assert torch.equal(total["covariance_matrix"], total["covariance_matrix"].mT)
    step, r = quick.natural_gradient(), x.double() - mean.double()
    assert step is not None
    agree(step["mean"], r.mean(0), torch.eye(d))
    torch.testing.assert_close(step["covariance_matrix"].double(), r.mT @ r / n - sigma.double(), rtol=1e-5, atol=1e-5)
    out, behind = guarded((n, d + d * (d + 1) // 2), dtype)
    assert quick.matrix(out)
    packed = symmetric(d).pack_gradient(0.5 * (a.unsqueeze(-1) * a.unsqueeze(-2) - P))
    agree(out, torch.cat([a, packed], -1), sigma)
    assert bool((behind == 7).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 3, 10, 50, 130])
def test_weighted_sums_of_whitened_rows(d, dtype) -> None:
    x, mean, sigma = rows(77, d, dtype)
    weights = torch.randn(77, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    L = torch.linalg.cholesky(sigma.double())
    z = torch.linalg.solve_triangular(L, (x.double() - mean.double()).mT, upper=False).mT
    squares, behind = guarded((77,), dtype)
    first, second = cpu.whitened_sums(x, mean, L.to(dtype), weights, squares)
    agree(first, weights.double() @ z, sigma)
    agree(second, z.mT @ (weights.double().unsqueeze(-1) * z), sigma)
    agree(squares, z.square().sum(-1), sigma)
    assert bool((behind == 7).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 5, 8, 20, 33, 130, 256])
@pytest.mark.parametrize("n", [1, 7, 32, 77])
@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_fourth_moments_of_row_major_and_column_major_rows(d, n, dtype, by_column, weighted) -> None:
    x, mean, sigma = rows(n, d, dtype)
    weights = torch.linspace(-1, 2, n, dtype=dtype) if weighted else None
    L = torch.linalg.cholesky(sigma.double())
    z = torch.linalg.solve_triangular(L, (x.double() - mean.double()).mT, upper=False)
    squares = torch.linalg.solve_triangular(L.mT, z, upper=True).square()
    wide = torch.full((d, n + 5), torch.nan, dtype=dtype)  # columns with gaps between them
    wide[:, 2 : 2 + n] = x.mT
    given = wide[:, 2 : 2 + n].mT if by_column else x
    memory, behind = guarded((d, d), dtype)
    w = torch.ones(n, dtype=torch.float64) if weights is None else weights.double()
    first, second = cpu.whitened_sums(given, mean, L.to(dtype), weights, fourth=memory)
    agree(first, z @ w, sigma)
    agree(second, (z * w) @ z.mT, sigma)
    agree(memory, (squares * w) @ squares.mT, sigma)
    assert torch.equal(memory, memory.mT)
    assert bool((behind == 7).all())


def test_an_expanded_column_is_not_supported() -> None:
    x, mean, sigma = torch.ones(9, 1).expand(9, 3), torch.zeros(3), torch.eye(3)
    assert cpu.whitened_sums(x, mean, sigma, None) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 33, 50, 64])
@pytest.mark.parametrize("n", [1, 3, 8, 9, 17, 40])
def test_batched_small_gaussians(n, d, dtype) -> None:
    x, mean, sigma = rows(n, d, dtype, batch=True)
    log_prob, a, P = reference(x, mean, sigma)
    quick = fused_rows(x, mean, sigma)
    assert isinstance(quick, FusedBatch)
    agree(quick.log_prob(), log_prob, sigma)
    total = quick.sum()
    agree(total["mean"], a, sigma)
    agree(total["covariance_matrix"], 0.5 * (a.unsqueeze(-1) * a.unsqueeze(-2) - P), sigma)
    again = quick.sum()  # a second call returns new tensors
    assert torch.equal(again["mean"], total["mean"])
    assert again["mean"].data_ptr() != total["mean"].data_ptr()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 9, 21])
def test_batched_small_gaussians_write_only_their_results(n, dtype) -> None:
    x, mean, sigma = rows(n, 3, dtype, batch=True)
    results = [guarded(shape, dtype) for shape in ((n,), (n, 3), (n, 3, 3))]
    addresses = [t.data_ptr() for t in (x, mean, sigma, *(out for out, _ in results))]
    assert kernels.native.small(dtype.itemsize, *addresses, n, 3, SYMMETRY[dtype], 1)
    for out, behind in results:
        assert bool(out.isfinite().all())
        assert bool((behind == 7).all())


FORMS = {
    "symmetric": Form(0.5, mirrored=True),
    "triangle": Form(1.0, mirrored=False),
    "correlation": Form(0.5, mirrored=True, strict=True),
    "both": Form(1.0, both=True, mirrored=True),
}


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 9, 17, 40, 300])
@pytest.mark.parametrize("offsets", ["shared", "of each row", "of each pattern"])
def test_packed_rows(d, dtype, kind, offsets) -> None:
    form, n = FORMS[kind], 11
    generator = torch.Generator().manual_seed(d)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    p = form.size(d)
    left, right, diagonal = numbers(n, d), numbers(n, d), numbers(d)
    offset = numbers({"shared": 1, "of each row": n, "of each pattern": 3}[offsets], p)
    offset = offset[0] if offsets == "shared" else offset
    observed = torch.rand(n, d, generator=generator) > 0.3
    patterns = Patterns(torch.arange(n) % 3, observed, True, True) if offsets == "of each pattern" else None
    memory = torch.full((n, p + 5), 7.0, dtype=dtype)
    assert cpu.packed(PackedProduct(left, right, offset, memory[:, 2 : 2 + p], form, diagonal, patterns))
    wide = [t.double() for t in (left, right, offset)]
    out = torch.empty(n, p, dtype=torch.float64)
    expected = packed(PackedProduct(*wide, out, form, diagonal.double(), patterns))
    assert_close(memory[:, 2 : 2 + p], expected, 1.0)
    assert bool((memory[:, :2] == 7).all())
    assert bool((memory[:, 2 + p :] == 7).all())


@pytest.mark.parametrize("make", [symmetric, lower_triangular, correlation])
def test_blocks_are_packed_by_the_kernel(make, monkeypatch) -> None:
    """`Outer.unique` calls the kernel once and agrees with plain torch."""
    a, coordinates = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64), make(5)
    offset = torch.eye(5, dtype=torch.float64)
    block = Outer(a, a, offset, coordinates, coefficient=0.5)
    calls, kernel = [], cpu.packed
    monkeypatch.setattr(cpu, "packed", lambda operands: calls.append(operands) or kernel(operands))
    got = block.unique()
    assert len(calls) == 1
    with kernels.switched(on=False):
        assert_close(got, block.unique(), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_are_not_finite(dtype) -> None:
    for count in (1, 7, 64, 1000):
        for bad in (torch.nan, torch.inf, -torch.inf):
            for at in {0, count // 2, count - 1}:
                x = torch.ones(count, dtype=dtype)
                assert cpu.finite(x) is True
                x[at] = bad
                assert cpu.finite(x) is False
    assert cpu.finite(torch.full((3,), torch.finfo(dtype).max, dtype=dtype)) is True


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 33, 70])
def test_exact_symmetry(d, dtype) -> None:
    _, _, A = rows(1, d, dtype)
    assert cpu.equals_transpose(A) is True
    assert cpu.equals_transpose(torch.stack([A, A])) is True
    if d > 1:
        A[d - 1, 0] = torch.nextafter(A[d - 1, 0], torch.tensor(9.0, dtype=dtype))
        assert cpu.equals_transpose(A) is False
        assert cpu.equals_transpose(torch.stack([A.mT @ A @ A.new_zeros(d, d), A])) is False


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 5, 24, 130])
@pytest.mark.parametrize("weighted", [False, True])
def test_outer_products(p, dtype, weighted) -> None:
    generator = torch.Generator().manual_seed(p)
    wide = torch.randn(45, p + 3, generator=generator, dtype=torch.float64).to(dtype)
    A, start = wide[:, 1 : p + 1], torch.ones(p, p, dtype=dtype)
    weights = torch.randn(45, generator=generator, dtype=torch.float64).to(dtype) if weighted else None
    total = start.clone()
    assert cpu.outer_products(A, weights, total)
    left = A.double() if weights is None else A.double() * weights.double().unsqueeze(-1)
    assert_close(total, start.double() + left.mT @ A.double(), 1.0)
    assert torch.equal(total, total.mT)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 5, 20, 30])
@pytest.mark.parametrize("weighted", [False, True])
def test_gram(d, dtype, weighted) -> None:
    x, mean, sigma = rows(50, d, dtype)
    weights = torch.linspace(-1, 2, 50, dtype=dtype) if weighted else None
    _, a, P = reference(x, mean, sigma)
    full = torch.cat([a, symmetric(d).pack_gradient(0.5 * (a.unsqueeze(-1) * a.unsqueeze(-2) - P))], -1)
    left = full if weights is None else full * weights.double().unsqueeze(-1)
    quick = fused_rows(x, mean, sigma)
    assert isinstance(quick, FusedDense)
    got = quick.gram(weights)
    agree(got, left.mT @ full, sigma)
    assert torch.equal(got, got.mT)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 5, 20])
def test_hessian(d, dtype) -> None:
    x, mean, sigma = rows(50, d, dtype)
    wide = [t.double() for t in (mean, sigma)]

    def total(mean: Tensor, elements: Tensor) -> Tensor:
        L = torch.linalg.cholesky(symmetric(d).unpack(elements))
        z = torch.linalg.solve_triangular(L, (x.double() - mean).mT, upper=False)
        return -0.5 * (z * z).sum() - 50 * L.diagonal().log().sum()

    blocks = torch.func.hessian(total, (0, 1))(wide[0], symmetric(d).pack(wide[1]))
    expected = torch.cat([torch.cat(row, -1) for row in blocks], 0)
    got = mvnjac.hessian(x, mean, sigma).matrix()
    agree(got, expected, sigma)
    assert torch.equal(got, got.mT)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(20_000, 9), (2500, 33), (90, 160)])
def test_large_results_into_used_memory(n, d, dtype) -> None:
    """Non-temporal stores write whole cache lines, for any alignment of the result."""
    x, mean, sigma = rows(n, d, dtype)
    p = d + d * (d + 1) // 2
    expected = torch.cat([mvnjac.jacobian(some, mean, sigma).matrix() for some in x.split(32)])
    quick = fused_rows(x, mean, sigma)
    assert isinstance(quick, FusedDense)
    assert expected.numel() * dtype.itemsize > 4 * 2**20
    for shift in (0, 1, 7):
        memory = torch.full((n * p + 80,), 7.0, dtype=dtype)
        out = memory[shift : shift + n * p].view(n, p)
        assert quick.matrix(out)
        assert torch.equal(out, expected)
        assert bool((memory[:shift] == 7).all())
        assert bool((memory[shift + n * p :] == 7).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("both", [False, True])
def test_long_triangles_into_used_memory(both, dtype) -> None:
    """Non-temporal stores of columns that are longer than the limit of the dense kernels."""
    n, d, shift = 40, 300, 3
    left, right, offset = (torch.randn(*shape, dtype=dtype) for shape in ((n, d), (n, d), (d * (d + 1) // 2,)))
    form = Form(1.0, both=both)
    expected = packed(PackedProduct(left, right, offset, torch.empty(n, offset.numel(), dtype=dtype), form))
    memory = torch.full((n * offset.numel() + 80,), 7.0, dtype=dtype)
    out = memory[shift : shift + expected.numel()].view(expected.shape)
    assert cpu.packed(PackedProduct(left, right, offset, out, form))
    torch.testing.assert_close(out, expected)
    assert bool((memory[:shift] == 7).all())
    assert bool((memory[shift + expected.numel() :] == 7).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (7, 3, 2), (33, 129, 8), (40, 300, 17), (2100, 20, 3), (5, 2200, 64)])
def test_rows_of_a_factor_model(n, d, k, dtype) -> None:
    wide = torch.randn(n, d + 3, dtype=dtype)
    x, mean, root = wide[:, 2 : d + 2], torch.randn(d, dtype=dtype), torch.rand(d, dtype=dtype) + 0.5
    B, w, weights = torch.randn(d, k, dtype=dtype), torch.randn(n, k, dtype=dtype), torch.randn(n, dtype=dtype)
    u = (x.double() - mean.double()) / root.double()
    e = u - w.double() @ B.double().mT
    close = {"rtol": 100 * torch.finfo(dtype).eps, "atol": 1000 * (n + d) * torch.finfo(dtype).eps}
    got = cpu.project(x, mean, root, B)
    assert got is not None
    torch.testing.assert_close(got.double(), u @ B.double(), **close)
    for each in (None, weights):
        squares = torch.ones(n, dtype=dtype)
        sums = cpu.factor_residuals(x, mean, root, B, w, squares, each)
        assert sums is not None
        torch.testing.assert_close(squares.double(), 1 + e.square().sum(-1), **close)
        left = e if each is None else each.double().unsqueeze(-1) * e
        for one, expected in zip(sums, (left.sum(0), (left * e).sum(0), left.mT @ w.double()), strict=True):
            torch.testing.assert_close(one.double(), expected, **close)
    assert cpu.factor_residuals(x, mean, root, B, w, squares, totals=False) == ()
    torch.testing.assert_close(squares.double(), 1 + 2 * e.square().sum(-1), **close)


def test_sums_of_a_factor_model_do_not_depend_on_the_threads() -> None:
    x, mean, root, B, w = (torch.randn(*shape, dtype=torch.float64) for shape in ((90, 700), (700,), (700,), (700, 5), (90, 5)))
    squares, before = [torch.zeros(90, dtype=torch.float64) for _ in range(2)], torch.get_num_threads()
    results = []
    try:
        for threads, out in zip((1, 3), squares, strict=True):
            torch.set_num_threads(threads)
            results.append((cpu.project(x, mean, root, B), out, *cpu.factor_residuals(x, mean, root, B, w, out)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))
