"""Precision: what surrounds a call does not reach its results, and float32 can be worked in float64 inside."""

from __future__ import annotations

import functools

import pytest
import torch

import mvnjac
from mvnjac.covariance.samples import Maker
from tests.tolerance import assert_close

D = 60


@functools.cache  # made outside of any surroundings
def data(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    A = Maker(dtype, seed=1).normal(D, 2 * D)
    return Maker(dtype, (300,), seed=2).normal(D), Maker(dtype, seed=3).normal(D), A @ A.mT / D


def results(precision: str | None = None) -> dict[str, torch.Tensor]:
    J = mvnjac.jacobian(*data(torch.float32), precision=precision)
    v = torch.ones(D + D * (D + 1) // 2)
    total = J.sum()
    return {
        "log_prob": J.log_prob,
        "matrix": J.matrix(),
        "sum": total["covariance_matrix"],
        "matvec": J.matvec(v),
        "rmatvec": J.rmatvec(torch.ones(300)),
        "gram": J.gram(wrt="mean"),
        "precision_matrix": J["precision_matrix"],
        "precision_tril": J["precision_tril"],
        "mean": J["mean"],
        "log_density": mvnjac.log_prob(*data(torch.float32), precision=precision),
    }


@pytest.mark.parametrize("surrounding", ["autocast", "medium"])
def test_surroundings_have_no_effect(surrounding: str) -> None:
    expected = results()  # also makes the data
    if surrounding == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = results()
            assert torch.is_autocast_enabled("cpu")
    else:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            actual = results()
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision(before)
    for name, value in actual.items():
        assert value.dtype is torch.float32
        assert torch.equal(value, expected[name]), name


def test_float32_worked_in_float64_is_right_to_the_last_digit() -> None:
    """At κ = 1e6, where float32 arithmetic keeps one digit."""
    scale = torch.logspace(0, -3, D)
    x, mean, _ = data(torch.float32)
    Q = torch.linalg.qr(Maker(seed=5).normal(D, D))[0]
    sigma64 = Q @ torch.diag(scale.double() ** 2) @ Q.mT
    sigma = (0.5 * (sigma64 + sigma64.mT)).float()
    exact = mvnjac.jacobian(x.double(), mean.double(), sigma.double())
    J = mvnjac.jacobian(x, mean, sigma, precision="float64")
    for name in ("mean", "covariance_matrix", "scale_tril", "precision_tril"):
        assert J[name].dtype is torch.float32
        assert_close(J[name], exact[name], 0.1, what=name)  # one rounding at the end, whatever κ
    out = torch.empty(300, D + D * (D + 1) // 2)
    assert torch.equal(J.matrix(out=out), J.matrix())
    assert_close(J.gram(wrt="mean"), exact.gram(wrt="mean"), 0.1)
    assert_close(J.sum()["covariance_matrix"], exact.sum()["covariance_matrix"], 0.1)


def test_dtype_is_kept() -> None:
    for dtype in (torch.float32, torch.float64):
        J = mvnjac.jacobian(*data(dtype))
        total = J.sum(torch.ones(300, dtype=torch.float64))
        for value in (J.matrix(), J.log_prob, J.gram(wrt="mean"), *total.values(), J["natural_matrix"]):
            assert value.dtype is dtype
