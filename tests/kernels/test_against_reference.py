"""Every output of every compiled kernel, in every instruction set of the machine, against plain torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvnjac import kernels
from mvnjac.blocks import Outer
from mvnjac.coordinates import correlation, lower_triangular, symmetric
from mvnjac.covariance.checks import SYMMETRY
from mvnjac.everyday import Everyday, Many, everyday
from mvnjac.kernels import compiled
from tests.kernels.support import guarded, instruction_sets, reference, rows
from tests.tolerance import assert_close, condition

pytestmark = pytest.mark.skipif(kernels.native is None, reason="the kernels are not built, or switched off: plain torch serves")

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
    quick = everyday(x, mean, sigma)
    assert isinstance(quick, Everyday)
    agree(quick.log_prob(), log_prob, sigma)
    total = quick.sum()
    agree(total["mean"], a.sum(0), sigma)
    agree(total["covariance_matrix"], 0.5 * (a.mT @ a - n * P), sigma)
    assert torch.equal(total["covariance_matrix"], total["covariance_matrix"].mT)
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
    first, second = compiled.whitened_sums(x, mean, L.to(dtype), weights, squares)
    agree(first, weights.double() @ z, sigma)
    agree(second, z.mT @ (weights.double().unsqueeze(-1) * z), sigma)
    agree(squares, z.square().sum(-1), sigma)
    assert bool((behind == 7).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 33, 50, 64])
@pytest.mark.parametrize("n", [1, 3, 8, 9, 17, 40])
def test_many_small_gaussians(n, d, dtype) -> None:
    x, mean, sigma = rows(n, d, dtype, batch=True)
    log_prob, a, P = reference(x, mean, sigma)
    quick = everyday(x, mean, sigma)
    assert isinstance(quick, Many)
    agree(quick.log_prob(), log_prob, sigma)
    total = quick.sum()
    agree(total["mean"], a, sigma)
    agree(total["covariance_matrix"], 0.5 * (a.unsqueeze(-1) * a.unsqueeze(-2) - P), sigma)
    again = quick.sum()  # the first results were given away
    assert torch.equal(again["mean"], total["mean"])
    assert again["mean"].data_ptr() != total["mean"].data_ptr()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 9, 21])
def test_nothing_is_written_behind_many_small_results(n, dtype) -> None:
    x, mean, sigma = rows(n, 3, dtype, batch=True)
    results = [guarded(shape, dtype) for shape in ((n,), (n, 3), (n, 3, 3))]
    addresses = [t.data_ptr() for t in (x, mean, sigma, *(out for out, _ in results))]
    assert kernels.native.small(dtype.itemsize, *addresses, n, 3, SYMMETRY[dtype], 1)
    for out, behind in results:
        assert bool(out.isfinite().all())
        assert bool((behind == 7).all())


KINDS = {
    "symmetric": (symmetric, {"coefficient": 0.5}),
    "triangle": (lower_triangular, {}),
    "triangle with a diagonal of its own": (lower_triangular, {"scaled": True}),
    "correlation": (correlation, {"coefficient": 0.5}),
    "both": (symmetric, {"both": True}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 9, 17, 40, 300])
@pytest.mark.parametrize("strided", [False, True])
def test_packed_rows(d, dtype, kind, strided) -> None:
    make, options = KINDS[kind]
    options, coordinates, n = dict(options), make(d), 11
    generator = torch.Generator().manual_seed(d)
    left, right = (torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    offset = torch.randn(d, d, generator=generator, dtype=torch.float64).to(dtype)
    if coordinates.mirrored:
        offset = offset + offset.mT
        right = right if options.get("both") else left
    else:
        offset = offset.tril()
    diagonal = torch.rand(d, generator=generator, dtype=torch.float64).to(dtype) if options.pop("scaled", False) else None
    block = Outer(left, right, offset, coordinates, diagonal=diagonal, **options)
    memory = torch.full((n, coordinates.size + 5), 7.0, dtype=dtype)
    out = memory[:, 2 : 2 + coordinates.size] if strided else memory[:, :0].new_empty(n, coordinates.size)
    assert block.packs
    got = block.unique(out=out)
    wide = Outer(
        left.double(),
        right.double(),
        offset.double(),
        coordinates,
        diagonal=None if diagonal is None else diagonal.double(),
        **options,
    )
    expected = coordinates.pack_gradient(wide.full())
    assert_close(got, expected, 1.0)
    if strided:
        assert bool((memory[:, :2] == 7).all())
        assert bool((memory[:, 2 + coordinates.size :] == 7).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_patterns_and_missing_variables(dtype) -> None:
    d, coordinates = 13, symmetric(13)
    a = torch.randn(20, d, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    table = torch.randn(3, coordinates.size, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    pattern = torch.arange(20) % 3
    observed = torch.rand(20, d, generator=torch.Generator().manual_seed(4)) > 0.3
    out, behind = guarded((20, coordinates.size), dtype)
    assert compiled.packed(a, a, table, out, below=1.0, on=0.5, with_diagonal=True, pattern=pattern, observed=observed)
    wide = a.double()
    expected = coordinates.pack(wide.unsqueeze(-1) * wide.unsqueeze(-2)) * coordinates.multiplicity(coordinates.positions()) / 2
    kept = coordinates.pack(observed.unsqueeze(-1) & observed.unsqueeze(-2))
    assert_close(out, (expected + table.double()[pattern]) * kept, 1.0)
    assert bool((out[~kept] == 0).all())
    assert bool((behind == 7).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_are_none(dtype) -> None:
    for count in (1, 7, 64, 1000):
        for bad in (torch.nan, torch.inf, -torch.inf):
            for at in {0, count // 2, count - 1}:
                x = torch.ones(count, dtype=dtype)
                assert compiled.finite(x) is True
                x[at] = bad
                assert compiled.finite(x) is False
    assert compiled.finite(torch.full((3,), torch.finfo(dtype).max, dtype=dtype)) is True


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 33, 70])
def test_symmetry_to_the_last_bit(d, dtype) -> None:
    _, _, A = rows(1, d, dtype)
    assert compiled.equals_transpose(A) is True
    assert compiled.equals_transpose(torch.stack([A, A])) is True
    if d > 1:
        A[d - 1, 0] = torch.nextafter(A[d - 1, 0], torch.tensor(9.0, dtype=dtype))
        assert compiled.equals_transpose(A) is False
        assert compiled.equals_transpose(torch.stack([A.mT @ A @ A.new_zeros(d, d), A])) is False
