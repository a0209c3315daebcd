"""The planner's choices against measurements, far from the thresholds; and the text of `explain`."""

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


def assert_not_slower(planned: Callable[[], object], other: Callable[[], object], by: float = 1.25) -> None:
    """The minimum processor times of two calls that alternate; a busy machine gets more rounds, since noise only adds time."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(40):
        for call, measured in zip((planned, other), times, strict=True):
            start = time.thread_time()
            call()
            measured.append(time.thread_time() - start)
        if len(times[0]) >= 5 and min(times[0]) < by * min(times[1]):
            return
    raise AssertionError(
        f"{min(times[0]):.3g} s is more than {by} times {min(times[1]):.3g} s, the minima of {len(times[0])} calls"
    )


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
    """Far from the threshold the order that the planner chooses is not slower than the other, within the noise."""
    x, mean, sigma = data(n, d)

    def total(first: bool) -> None:
        with kernels.switched(on=False):
            monkeypatch.setattr(planner, "sums_first", lambda *_: first)
            mvnjac.jacobian(x, mean, sigma).sum()

    sums_first = n >= 2 * d
    assert_not_slower(lambda: total(sums_first), lambda: total(not sums_first))


@pytest.mark.skipif(kernels.native is None, reason="the kernels are not built or are disabled")
@pytest.mark.parametrize(("n", "d"), [(160, 40), (20_000, 5), (4000, 100)])
def test_sums_of_centred_rows(n, d) -> None:
    """If they are used, they are not slower than sums of whitened rows, which are used with weights."""
    fused = fused_rows(*(t.contiguous() for t in data(n, d)))
    assert isinstance(fused, FusedDense)
    assert limits.halves_sums(8, fused.prepared.data, n, d)
    ones = torch.ones(n, dtype=torch.float64)
    assert_not_slower(lambda: fused.sum(), lambda: fused.sum(ones))


@pytest.mark.parametrize(("n", "d"), [(4, 600), (4000, 100)])
def test_product_or_solves(n, d) -> None:
    x, _, sigma = data(n, d)
    L = torch.linalg.cholesky(sigma)

    def product() -> None:
        _ = x @ torch.cholesky_inverse(L)

    def solves() -> None:
        solve_rows(solve_rows(x, L), L, transposed=True)

    assert_not_slower(*((product, solves) if planner.multiplies(n, d) else (solves, product)))


@pytest.mark.skipif(kernels.native is None, reason="the kernels are not built or are disabled: there is no choice")
@pytest.mark.parametrize(("n", "d"), [(1, 3), (1000, 10), (10_000, 50), (2000, 200)])
def test_kernels_are_not_slower(n, d) -> None:
    x, mean, sigma = data(n, d)

    def total(on: bool) -> None:
        with kernels.switched(on=on):
            mvnjac.jacobian(x, mean, sigma).sum()

    assert limits.kernel_sums(d)
    assert_not_slower(lambda: total(True), lambda: total(False))


def test_explanations() -> None:
    x, mean, sigma = data(50, 4)
    assert "rows (50,) of 4 variables, Dense, cpu, float64" in mvnjac.jacobian(x, mean, sigma).explain()
    with kernels.switched(on=False):
        plain = mvnjac.jacobian(x, mean, sigma).explain()
        two_rows = mvnjac.jacobian(x[:2], mean, sigma).explain()
    assert "sums of whitened rows first" in plain
    assert "as a product with Σ⁻¹" in plain
    assert "by two triangular solves" in two_rows
    assert "block by block" in two_rows
    traced = mvnjac.jacobian(x, mean.clone().requires_grad_(), sigma).explain()
    assert "plain differentiable torch" in traced
    incomplete = x.clone()
    incomplete[0, 0] = torch.nan
    assert "nested patterns" in mvnjac.jacobian(incomplete, mean, sigma, missing="marginalise").explain()
    batch = mvnjac.jacobian(x, mean.expand(50, 4).contiguous(), sigma.expand(50, 4, 4).contiguous())
    assert "Dense" in batch.explain()
    if kernels.native is not None:
        assert "SIMD-batched Cholesky" in batch.explain()
