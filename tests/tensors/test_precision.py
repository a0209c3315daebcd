"""Precision: global torch settings do not affect results, and float32 arguments can be evaluated in float64."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

import mvnjac
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from tests.support.tolerance import assert_close, condition

D = 60


@functools.cache  # computed without autocast or reduced precision
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


@pytest.mark.parametrize("setting", ["autocast", "medium"])
def test_settings_have_no_effect(setting: str) -> None:
    expected = results()  # this call also computes the data
    if setting == "autocast":
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


def test_float32_evaluated_in_float64_is_accurate_to_the_last_digit() -> None:
    """At κ = 1e6, where float32 arithmetic has one correct digit."""
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


@pytest.mark.parametrize("name", structures())
def test_every_structure_in_float32_is_evaluated_in_float64(name: str) -> None:
    """Blocks, matrix, Hessian, information and natural gradient equal those of the same values in float64, rounded once."""
    x, mean = Maker(torch.float32, (5,), seed=2).normal(4), Maker(torch.float32, seed=3).normal(4)
    for structure in structures()[name].samples(4, Maker(torch.float32, seed=1)):
        exact = mvnjac.Gaussian(mean.double(), structure.map(Tensor.double))
        rounded = mvnjac.Gaussian(mean, structure, precision="float64")
        J, expected = rounded.jacobian(x), exact.jacobian(x.double())
        for block in ("x", "mean", *structure.parameters):
            assert J[block].dtype is torch.float32
            assert_close(J[block], expected[block], 1, what=block)
        assert_close(J.matrix(), expected.matrix(), 1, what="matrix")
        assert_close(rounded.hessian(x).matrix(), exact.hessian(x.double()).matrix(), 1, what="hessian")
        information = exact.fisher_information().matrix()
        assert_close(rounded.fisher_information().matrix(), information, 1, what="fisher")
        steps = rounded.natural_gradient(x), exact.natural_gradient(x.double())
        for parameter, step in steps[0].items():
            assert_close(step, steps[1][parameter], float(torch.linalg.cond(information, "fro")) ** 0.5, what=parameter)


def test_extreme_units() -> None:
    """With variances of 1e200 and 1e-200 in one matrix the results change only by the units."""
    make = Maker(seed=1)
    sigma, mean, x = make.definite(3), make.normal(3), Maker(batch=(5,), seed=2).normal(3)
    units = torch.tensor([1e100, 1e-100, 1.0], dtype=torch.float64)
    squares = torch.outer(units, units)
    plain, J = mvnjac.jacobian(x, mean, sigma), mvnjac.jacobian(x * units, mean * units, sigma * squares)
    kappa = condition(sigma)
    assert_close(J.log_prob, plain.log_prob - units.log().sum(), kappa, scale=300)
    assert_close(J["mean"] * units, plain["mean"], kappa)
    assert_close(J["covariance_matrix"] * squares, plain["covariance_matrix"], kappa)
    assert_close(J.sum()["covariance_matrix"] * squares, plain.sum()["covariance_matrix"], kappa)


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_overflowing_derivatives_are_not_finite(size: float) -> None:
    """A derivative that exceeds the range of float64 is inf or nan; every finite value is correct."""
    make = Maker(seed=1)
    sigma, x = make.definite(3), Maker(batch=(5,), seed=2).normal(3)
    mean = torch.zeros(3, dtype=torch.float64)
    plain = mvnjac.jacobian(x, mean, sigma)
    far, wide = mvnjac.jacobian(x * size, mean, sigma), mvnjac.jacobian(x, mean, sigma * size)
    assert_close(far["mean"] / size, plain["mean"], condition(sigma))
    assert_close(wide["mean"] * size, plain["mean"], condition(sigma))
    constant = -0.5 * torch.linalg.inv(sigma)
    beyond = (far["covariance_matrix"], wide["covariance_matrix"])
    if size > 1:
        assert not beyond[0].isfinite().any()
        assert_close(beyond[1] * size, constant.expand(5, 3, 3), condition(sigma))
    else:
        assert not beyond[1].isfinite().any()
        assert_close(beyond[0], constant.expand(5, 3, 3), condition(sigma))
