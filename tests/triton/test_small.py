"""The kernel for a batch of small Gaussians: against its reference, its accuracy, and its error codes."""

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
from mvnjac.kernels import cuda, reference, triton_batched, triton_packed
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
def test_accuracy_is_that_of_triangular_solves(d: int, kappa: float, dtype: torch.dtype, device: torch.device) -> None:
    """At most twice the error of two triangular solves: relative to float64 for float32, else within the tolerance."""
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
        error, reference_error = (_error(getattr(values, name), getattr(exact, name)) for values in (actual, solved))
        assert error <= 2 * reference_error + 4 * torch.finfo(dtype).eps, f"{name}: {error:.3g}, solving {reference_error:.3g}"


def _error(actual: Tensor, exact: Tensor) -> float:
    return float((actual.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_codes_of_failed_pivots(dtype: torch.dtype, device: torch.device) -> None:
    """Each pivot fails by a negative value, a zero or a NaN; other Gaussians of the same program are not affected."""
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


def test_values_that_are_not_finite_affect_only_their_row(device: torch.device) -> None:
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
def test_checks(gradient: bool, dtype: torch.dtype, device: torch.device) -> None:
    """Each kind of invalid value, in a program with valid Gaussians, and at the corners of the matrices."""
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
    assert torch.equal(actual.info == 0, expected.info == 0)  # with an infinity LAPACK may report another pivot
    assert actual.info.tolist() == [-1, 5, -1, 2, -1, -1, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, 0, -1, -1, -1, -1, 0, 0]
    assert (actual.gradient is None) == (not gradient)
    names = VALUES if gradient else VALUES[:2]
    sound = actual.info == 0
    for name in names:
        value = getattr(actual, name)
        assert bool(value[~sound].isnan().all()), name
        assert_close(
            value[sound], getattr(expected, name)[sound], condition(covariance[sound].tril() + covariance[sound].tril(-1).mT)
        )


def test_any_strides(device: torch.device) -> None:
    """An expanded mean or Σ; a transposed Σ; rows of a wider matrix."""
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


def test_large_offsets(device: torch.device, tmp_path: Path) -> None:
    """Strides that fit in 32 bits, while the offsets of the last Σ, x and mean do not."""
    apart, d = 2**30 + 8, 2
    memory = far(2 * apart + 16, tmp_path, device)
    given = [normal(3, d, seed=1), normal(3, d, seed=2), definite(3, d)]
    strided = [memory.as_strided((3, *(d,) * size), (apart, *(d, 1)[-size:]), 4 * k) for k, size in enumerate((1, 1, 2))]
    for place, numbers in zip(strided, given, strict=True):
        place.copy_(numbers)
    near = [place.contiguous() for place in strided]
    actual = triton_batched.small_gaussians(*strided, symmetry=SYMMETRY[torch.float32])
    require_close(actual, reference.small_gaussians(*near), condition(near[2]))


def test_nothing_beyond_the_end_is_written(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result is followed by guard values, which must not change."""
    allocated: list[tuple[Tensor, int]] = []

    def guarded(*shape: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        size = int(torch.Size(shape).numel())
        memory = torch.full((size + 100,), 7, dtype=dtype or like.dtype, device=like.device)
        allocated.append((memory, size))
        return memory[:size].view(shape)

    monkeypatch.setattr(triton_batched, "_empty", guarded)
    count, d = 5, 3
    x, mean, covariance = (t.to(device) for t in (normal(count, d, seed=1), normal(count, d, seed=2), definite(count, d)))
    actual = triton_batched.small_gaussians(x, mean, covariance)
    require_close(actual, reference.small_gaussians(x, mean, covariance), condition(covariance))
    assert len(allocated) == 4
    assert all(bool((memory[size:] == 7).all()) for memory, size in allocated)


@pytest.mark.parametrize(
    ("before", "setting", "available"),
    [("", "1", True), ("", "0", False), ("import sys; sys.modules['triton'] = None", "1", False)],
    ids=["available", "disabled", "not installed"],
)
def test_availability(before: str, setting: str, available: bool) -> None:
    """Without the kernels, plain torch is used."""
    code = f"""
{before}
import sys, torch, mvnjac
from mvnjac.kernels import cuda
assert cuda.available(torch.ones(1)) is {available}
J = mvnjac.jacobian(torch.ones(2, 2), torch.zeros(2), torch.eye(2)).unique("covariance_matrix")
assert J.tolist() == [[0, 1, 0]] * 2
assert ("mvnjac.kernels.triton_packed" in sys.modules) is {available}
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "MVNJAC_TRITON": setting}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.fixture
def _unprobed() -> Iterator[None]:
    cuda._refusal.cache_clear()
    yield
    cuda._refusal.cache_clear()


@pytest.mark.usefixtures("_unprobed")
def test_triton_that_does_not_work(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example without a C compiler, which Triton needs at run time: it is probed once, and plain torch is used."""
    probed: list[torch.device] = []

    def fails(device: torch.device) -> None:
        probed.append(device)
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    monkeypatch.setattr(triton_packed, "probe", fails)
    t = torch.ones(2, 2, device=device)
    assert not cuda.available(t)
    assert not cuda.available(t)
    assert probed == [t.device]
    assert cuda.why_not() == f"Triton does not work on {t.device}: RuntimeError: Failed to find C compiler."
    expected = torch.tensor([0.0, 1, 0], device=device).expand(2, 3)
    assert torch.equal(mvnjac.jacobian(t, t[0] - 1, torch.eye(2, device=device)).unique("covariance_matrix"), expected)


@pytest.mark.usefixtures("_unprobed")
def test_the_probe_ignores_modes_of_torch(device: torch.device) -> None:
    """Under a mode the tensors would be fake, and the probe would fail although Triton works."""
    t = torch.ones(2, device=device)
    with FakeTensorMode():
        assert cuda.available(t)


def test_call_through_cuda(device: torch.device) -> None:
    x, mean, covariance = (t.to(device) for t in (normal(4, 2, seed=1), normal(4, 2, seed=2), definite(4, 2)))
    assert cuda.available(x, mean, covariance)
    values = cuda.small_gaussians(x, mean, covariance)
    require_close(values, reference.small_gaussians(x, mean, covariance), condition(covariance))
