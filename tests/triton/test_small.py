"""The kernel of many small Gaussians: against its reference, against higher precision, and what it says of no density."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import mvnjac
from mvnjac.kernels import cuda, reference, triton_batched, triton_probe
from mvnjac.kernels.reference import Gaussians
from mvnjac.parameters.checks import SYMMETRY
from tests.kernels.test_kernel_references import definite, normal
from tests.support.tolerance import assert_close, condition
from tests.triton.test_packed import far

DTYPES = [torch.float64, torch.float32]
VALUES = ("log_prob", "scaled", "gradient")


def require_close(actual: Gaussians, expected: Gaussians, kappa: float) -> None:
    for name in VALUES:
        assert_close(getattr(actual, name), getattr(expected, name), kappa, what=name)
    assert actual.info.dtype == torch.int32
    assert torch.equal(actual.info, expected.info)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("count", "d"),
    [
        (0, 3),
        (1, 1),
        (2, 1),
        (1025, 1),
        (1, 2),
        (257, 2),
        (1, 3),
        (65, 3),
        (130, 3),
        (17, 10),
        (3, 31),
        (2, 33),
        (1, 64),
        (3, 64),
    ],
)
def test_values(count: int, d: int, dtype: torch.dtype, device: torch.device) -> None:
    x, mean, covariance = (t.to(dtype) for t in (normal(count, d, seed=1), normal(count, d, seed=2), definite(count, d)))
    actual = triton_batched.small_gaussians(x.to(device), mean.to(device), covariance.to(device))
    require_close(
        actual, reference.small_gaussians(x.to(device), mean.to(device), covariance.to(device)), condition(covariance)
    )
    assert torch.equal(actual.gradient, actual.gradient.mT)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("d", [3, 17])
def test_accuracy_is_that_of_solving_first(d: int, kappa: float, dtype: torch.dtype, device: torch.device) -> None:
    """Against float64 (float32's) or the tolerance's twin: no more than twice what two triangular solves lose."""
    count = 8
    Q = torch.linalg.qr(normal(count, d, d, seed=1))[0]
    covariance = ((Q * torch.logspace(0, -torch.tensor(kappa).log10(), d, dtype=torch.float64)) @ Q.mT).to(dtype)
    covariance = 0.5 * (covariance + covariance.mT)
    x, mean = normal(count, d, seed=2, dtype=dtype), normal(count, d, seed=3, dtype=dtype)
    given = x.to(device), mean.to(device), covariance.to(device)
    actual, solved = triton_batched.small_gaussians(*given), reference.small_gaussians(*given)
    require_close(actual, solved, condition(covariance))
    if dtype is torch.float64:
        return
    exact = reference.small_gaussians(*(t.double() for t in given))
    for name in VALUES:
        lost, allowed = (_error(getattr(values, name), getattr(exact, name)) for values in (actual, solved))
        assert lost <= 2 * allowed + 4 * torch.finfo(dtype).eps, f"{name}: lost {lost:.3g}, solving first {allowed:.3g}"


def _error(actual: Tensor, exact: Tensor) -> float:
    return float((actual.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_errors_are_data(dtype: torch.dtype, device: torch.device) -> None:
    """Each pivot that can fail, by a negative, a zero, a NaN; neighbours in the same program are as if alone."""
    d, count = 5, 20
    covariance = definite(count, d, dtype).to(device)
    expected = torch.zeros(count, dtype=torch.int32, device=device)
    for pivot in range(d):
        covariance[3 * pivot + 1, pivot:, pivot:] -= 100 * torch.eye(d - pivot, dtype=dtype, device=device)
        covariance[3 * pivot + 2, pivot, pivot] = torch.nan
        expected[[3 * pivot + 1, 3 * pivot + 2]] = pivot + 1
    covariance[18] = 0
    expected[18] = 1
    x, mean = normal(count, d, seed=1, dtype=dtype).to(device), normal(count, d, seed=2, dtype=dtype).to(device)
    actual = triton_batched.small_gaussians(x, mean, covariance)
    assert torch.equal(actual.info, expected)
    sound = expected == 0
    alone = triton_batched.small_gaussians(x[sound], mean[sound], covariance[sound])
    for name in VALUES:
        assert bool(getattr(actual, name)[~sound].isnan().all()), name
        assert torch.equal(getattr(actual, name)[sound], getattr(alone, name)), name


def test_numbers_that_are_not_finite_stay_in_their_row(device: torch.device) -> None:
    x, mean, covariance = normal(4, 3, seed=1).to(device), torch.zeros(4, 3, dtype=torch.float64, device=device), definite(4, 3)
    x[2, 1] = torch.nan
    actual = triton_batched.small_gaussians(x, mean, covariance.to(device))
    assert not actual.info.any()
    assert actual.log_prob.isnan().tolist() == [False, False, True, False]
    assert bool(actual.gradient[[0, 1, 3]].isfinite().all())


def test_only_the_lower_triangle_is_read(device: torch.device) -> None:
    x, mean, covariance = normal(6, 4, seed=1).to(device), normal(6, 4, seed=2).to(device), definite(6, 4).to(device)
    lower = covariance.tril() + torch.full_like(covariance, torch.nan).triu(1)
    whole, half = triton_batched.small_gaussians(x, mean, covariance), triton_batched.small_gaussians(x, mean, lower)
    assert all(torch.equal(a, b) for a, b in zip(whole, half, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gradient", [True, False])
def test_looked_at(gradient: bool, dtype: torch.dtype, device: torch.device) -> None:
    """Each kind of number that is no density, in a program with others that are, and at the ends of the squares."""
    count, d = 23, 5
    x, mean = normal(count, d, seed=1, dtype=dtype).to(device), normal(count, d, seed=2, dtype=dtype).to(device)
    covariance = definite(count, d, dtype).to(device)
    covariance = 0.5 * (covariance + covariance.mT)
    for row, (i, j) in enumerate([(0, 1), (0, 4), (3, 4), (2, 3)]):
        covariance[2 * row, i, j] += 0.01
        covariance[2 * row + 8, i, j] = torch.nan
    covariance[1, 4, 4] = -1
    covariance[3, 1, 0] = torch.inf
    covariance[5, 2, 2] = torch.inf
    covariance[7, 0, 1] *= 1 + torch.finfo(dtype).eps
    x[17, 4] = x[18, 0] = torch.nan
    mean[19, 2], x[20, 1] = torch.inf, -torch.inf
    given = x, mean, covariance
    actual = triton_batched.small_gaussians(*given, gradient=gradient, symmetry=SYMMETRY[dtype])
    expected = reference.small_gaussians(*given, gradient=gradient, symmetry=SYMMETRY[dtype])
    assert torch.equal(actual.info == 0, expected.info == 0)  # LAPACK may find another pivot where there is an infinity
    assert actual.info.tolist() == [-1, 5, -1, 2, -1, -1, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, 0, -1, -1, -1, -1, 0, 0]
    assert (actual.gradient is None) == (not gradient)
    kept = VALUES if gradient else VALUES[:2]
    sound = actual.info == 0
    for name in kept:
        value = getattr(actual, name)
        assert bool(value[~sound].isnan().all()), name
        assert_close(
            value[sound], getattr(expected, name)[sound], condition(covariance[sound].tril() + covariance[sound].tril(-1).mT)
        )


def test_any_strides(device: torch.device) -> None:
    """One mean, or one Σ, for all, at no cost; a transposed Σ; rows of a wider matrix."""
    count, d = 9, 3
    wide, covariance = normal(count, 2 * d, seed=1).to(device), definite(count, d).to(device)
    x, mean = wide[:, 1 : 1 + d], normal(d, seed=2).to(device).expand(count, d)
    plain = triton_batched.small_gaussians(x.contiguous(), mean.contiguous(), covariance)
    for other in (covariance.mT, covariance.repeat(1, 2, 2)[:, d:, :d]):
        strided = triton_batched.small_gaussians(x, mean, other)
        assert all(torch.equal(a, b) for a, b in zip(plain, strided, strict=True))
    shared = triton_batched.small_gaussians(x, mean, covariance[0].expand(count, d, d))
    repeated = triton_batched.small_gaussians(x, mean, covariance[:1].repeat(count, 1, 1))
    assert all(torch.equal(a, b) for a, b in zip(shared, repeated, strict=True))


def test_far_apart(device: torch.device, tmp_path: Path) -> None:
    """Strides that 32 bits count, and a last Σ, x and mean that they do not reach."""
    apart, d = 2**30 + 8, 2
    memory = far(2 * apart + 16, tmp_path, device)
    given = [normal(3, d, seed=1), normal(3, d, seed=2), definite(3, d)]
    places = [memory.as_strided((3, *(d,) * size), (apart, *(d, 1)[-size:]), 4 * k) for k, size in enumerate((1, 1, 2))]
    for place, numbers in zip(places, given, strict=True):
        place.copy_(numbers)
    near = [place.contiguous() for place in places]
    actual = triton_batched.small_gaussians(*places, symmetry=SYMMETRY[torch.float32])
    require_close(actual, reference.small_gaussians(*near), condition(near[2]))


def test_nothing_beyond_the_end_is_written(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result is cut out of memory of sevens; what lies behind it stays."""
    behind: list[tuple[Tensor, int]] = []

    def cut(*shape: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        size = int(torch.Size(shape).numel())
        memory = torch.full((size + 100,), 7, dtype=dtype or like.dtype, device=like.device)
        behind.append((memory, size))
        return memory[:size].view(shape)

    monkeypatch.setattr(triton_batched, "_empty", cut)
    count, d = 5, 3
    x, mean, covariance = (t.to(device) for t in (normal(count, d, seed=1), normal(count, d, seed=2), definite(count, d)))
    actual = triton_batched.small_gaussians(x, mean, covariance)
    require_close(actual, reference.small_gaussians(x, mean, covariance), condition(covariance))
    assert len(behind) == 4
    assert all(bool((memory[size:] == 7).all()) for memory, size in behind)


@pytest.mark.parametrize(
    ("before", "setting", "serves"),
    [("", "1", True), ("", "0", False), ("import sys; sys.modules['triton'] = None", "1", False)],
    ids=["there", "not wanted", "not installed"],
)
def test_where_the_kernels_serve(before: str, setting: str, serves: bool) -> None:
    """Where they do not, plain torch does."""
    code = f"""
{before}
import sys, torch, mvnjac
from mvnjac.kernels import cuda
assert cuda.available(torch.ones(1)) is {serves}
J = mvnjac.jacobian(torch.ones(2, 2), torch.zeros(2), torch.eye(2)).unique("covariance_matrix")
assert J.tolist() == [[0, 1, 0]] * 2
assert ("mvnjac.kernels.triton_packed" in sys.modules) is {serves}
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "MVNJAC_TRITON": setting}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.fixture
def _untried() -> Iterator[None]:
    cuda._refusal.cache_clear()
    yield
    cuda._refusal.cache_clear()


@pytest.mark.usefixtures("_untried")
def test_where_triton_is_there_and_does_not_work(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a C compiler, which Triton needs where it runs: it is tried once, and plain torch serves."""
    tried: list[torch.device] = []

    def fails(device: torch.device) -> None:
        tried.append(device)
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    monkeypatch.setattr(triton_probe, "run", fails)
    t = torch.ones(2, 2, device=device)
    assert not cuda.available(t)
    assert not cuda.available(t)
    assert tried == [t.device]
    assert cuda.why_not() == f"Triton does not work on {t.device}: RuntimeError: Failed to find C compiler."
    expected = torch.tensor([0.0, 1, 0], device=device).expand(2, 3)
    assert torch.equal(mvnjac.jacobian(t, t[0] - 1, torch.eye(2, device=device)).unique("covariance_matrix"), expected)


@pytest.mark.usefixtures("_untried")
def test_it_is_tried_beneath_modes_of_torch(device: torch.device) -> None:
    """What would fail is the mode's tensor, not Triton."""
    t = torch.ones(2, device=device)
    with FakeTensorMode():
        assert cuda.available(t)


def test_dispatch(device: torch.device) -> None:
    x, mean, covariance = (t.to(device) for t in (normal(4, 2, seed=1), normal(4, 2, seed=2), definite(4, 2)))
    assert cuda.available(x, mean, covariance)
    values = cuda.small_gaussians(x, mean, covariance)
    require_close(values, reference.small_gaussians(x, mean, covariance), condition(covariance))
