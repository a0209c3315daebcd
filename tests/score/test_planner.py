"""The planner's choices at their corners, against measurement; and what `explain` says."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

import mvnjac
from mvnjac import kernels
from mvnjac.fused.dense import FusedDense, fused_rows
from mvnjac.kernels import limits, planner
from mvnjac.linalg.triangular import solve_rows


def best(*calls: Callable[[], object]) -> list[float]:
    """The least processor time of each, interleaved."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(7):
        for call, own in zip(calls, times, strict=True):
            start = time.thread_time()
            call()
            own.append(time.thread_time() - start)
    return [min(own) for own in times]


def data(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n + d)
    A = torch.randn(d, 2 * d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64), torch.zeros(d, dtype=torch.float64), A @ A.mT / (2 * d)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("n", "d"), [(4, 400), (8000, 100)])
def test_sums_first(n, d, monkeypatch) -> None:
    """Far from the crossover the chosen order is not the slower one (within the noise)."""
    x, mean, sigma = data(n, d)

    def total(first: bool) -> None:
        with kernels.switched(on=False):
            monkeypatch.setattr(planner, "sums_first", lambda *_: first)
            mvnjac.jacobian(x, mean, sigma).sum()

    chosen = n >= 2 * d
    ours, other = best(lambda: total(chosen), lambda: total(not chosen))
    assert ours < 1.25 * other


@pytest.mark.skipif(kernels.native is None, reason="the kernels are not built, or switched off")
@pytest.mark.parametrize(("n", "d"), [(160, 40), (20_000, 5), (4000, 100)])
def test_sums_of_centred_rows(n, d) -> None:
    """Where they are chosen they are not slower than those of whitened rows, which weights ask for."""
    quick = fused_rows(*(t.contiguous() for t in data(n, d)))
    assert isinstance(quick, FusedDense)
    assert limits.halves_sums(8, quick.prepared.data, n, d)
    ones = torch.ones(n, dtype=torch.float64)
    ours, other = best(lambda: quick.sum(), lambda: quick.sum(ones))
    assert ours < 1.25 * other


@pytest.mark.parametrize(("n", "d"), [(4, 600), (4000, 100)])
def test_product_or_solves(n, d) -> None:
    x, _, sigma = data(n, d)
    L = torch.linalg.cholesky(sigma)

    def product() -> None:
        _ = x @ torch.cholesky_inverse(L)

    def solves() -> None:
        solve_rows(solve_rows(x, L), L, transposed=True)

    ours, other = best(*((product, solves) if planner.multiplies(n, d) else (solves, product)))
    assert ours < 1.25 * other


@pytest.mark.skipif(kernels.native is None, reason="the kernels are not built, or switched off: there is no choice")
@pytest.mark.parametrize(("n", "d"), [(1, 3), (1000, 10), (10_000, 50), (2000, 200)])
def test_kernels_where_they_serve(n, d) -> None:
    x, mean, sigma = data(n, d)

    def total(on: bool) -> None:
        with kernels.switched(on=on):
            mvnjac.jacobian(x, mean, sigma).sum()

    ours, other = best(lambda: total(True), lambda: total(False))
    assert limits.kernel_sums(d)
    assert ours < 1.25 * other


def test_explanations() -> None:
    x, mean, sigma = data(50, 4)
    assert "rows (50,) of 4 variables, Dense, cpu, float64" in mvnjac.jacobian(x, mean, sigma).explain()
    with kernels.switched(on=False):
        plain = mvnjac.jacobian(x, mean, sigma).explain()
        few = mvnjac.jacobian(x[:2], mean, sigma).explain()
    assert "sums of whitened rows first" in plain
    assert "as a product with Σ⁻¹" in plain
    assert "by two triangular solves" in few
    assert "block by block" in few
    traced = mvnjac.jacobian(x, mean.clone().requires_grad_(), sigma).explain()
    assert "plain differentiable torch" in traced
    gaps = x.clone()
    gaps[0, 0] = torch.nan
    assert "nested patterns" in mvnjac.jacobian(gaps, mean, sigma, missing="marginalise").explain()
    many = mvnjac.jacobian(x, mean.expand(50, 4).contiguous(), sigma.expand(50, 4, 4).contiguous())
    assert "Dense" in many.explain()
    if kernels.native is not None:
        assert "SIMD-batched Cholesky" in many.explain()
