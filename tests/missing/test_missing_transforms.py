"""log_prob with missing entries under every transform of `tests/autodiff/test_transforms.py`, for rows of different patterns.

The reference is reverse-mode autodiff of the textbook's marginal densities, row by row (`tests/covariance/missing.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap

import mvnjac
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from tests.autodiff import test_transforms as table
from tests.autodiff.test_transforms import ALONG, EACH_ROW, QUIET, SECOND, TOTALS, Arguments, D, N, close
from tests.covariance import missing
from tests.support.speed import mostly_slow

STRUCTURES = structures()
#: the structures for which compiled and nested transforms are tested; the others differ only in their formulas
FEW = ["Dense", "Precision", "LowRank"]


def uncompiled(transforms: dict[str, Callable]) -> list[str]:
    return [name for name in transforms if "compile" not in name]


def compiled(transforms: dict[str, Callable]) -> list[str]:
    return [name for name in transforms if "compile" in name]


def arguments(name: str) -> Arguments:
    """x, whose rows miss every other entry, none, all, and random ones; the mean; the parameters of the structure."""
    x, *others = table.arguments(name)
    return missing.gaps(x), *others


def ours(name: str) -> Callable[..., Tensor]:
    structure = table.instance(name)
    return lambda x, mean, *parameters: mvnjac.log_prob(x, mean, structure.at(parameters), missing="marginalise")


def textbook(name: str) -> Callable[..., Tensor]:
    def density(*values: Tensor) -> Tensor:
        x, mean, *parameters = table.free(name, values)
        return missing.log_density(x, mean, table.instance(name).at(parameters).dense(D))

    return density


def check_total(name: str, transform: str) -> None:
    values = arguments(name)
    expected = [row.sum(0) for row in table.each_row(textbook(name), values)]
    for actual, wanted in zip(TOTALS[transform](ours(name), values), expected, strict=True):
        close(actual, wanted)


def check_each_row(name: str, transform: str) -> None:
    values = arguments(name)
    rows = table.each_row(textbook(name), values)
    expected = [torch.stack([rows[0][i, i] for i in range(N)]), *rows[1:]]
    for actual, wanted in zip(EACH_ROW[transform](ours(name), values), expected, strict=True):
        close(actual, wanted)


def check_along(name: str, transform: str) -> None:
    values = arguments(name)
    v = table.directions(values)
    rows = table.each_row(textbook(name), values)
    expected = sum((g * t).reshape(N, -1).sum(1) for g, t in zip(rows, v, strict=True))
    close(ALONG[transform](ours(name), values, v), expected)


def check_second(name: str, transform: str) -> None:
    table.check_second(transform, ours(name), textbook(name), arguments(name))


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("transform", uncompiled(TOTALS))
def test_totals(name: str, transform: str) -> None:
    check_total(name, transform)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("transform", uncompiled(EACH_ROW))
def test_each_row(name: str, transform: str) -> None:
    """Gradients of each row, including vmap(grad) with a different pattern in each row that is mapped over."""
    check_each_row(name, transform)


@QUIET
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("transform", uncompiled(ALONG))
def test_directional_derivatives(name: str, transform: str) -> None:
    check_along(name, transform)


@pytest.mark.parametrize("name", mostly_slow(STRUCTURES))
@pytest.mark.parametrize("transform", ["create_graph", "hessian"])
def test_second_derivatives(name: str, transform: str) -> None:
    check_second(name, transform)


@QUIET
@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("transform", [t for t in uncompiled(SECOND) if t not in ("create_graph", "hessian")])
def test_nested_second_derivatives(name: str, transform: str) -> None:
    check_second(name, transform)


@QUIET
@pytest.mark.parametrize("name", mostly_slow(FEW))
@pytest.mark.parametrize(
    ("check", "transform"),
    [
        pytest.param(check, transform, id=transform)
        for check, transforms in (
            (check_total, TOTALS),
            (check_each_row, EACH_ROW),
            (check_along, ALONG),
            (check_second, SECOND),
        )
        for transform in compiled(transforms)
    ],
)
def test_compiled(name: str, check: Callable[[str, str], None], transform: str) -> None:
    """The compiler gets whole graphs, although patterns depend on the data."""
    check(name, transform)


@pytest.mark.parametrize("name", mostly_slow(STRUCTURES))
def test_gradcheck(name: str) -> None:
    """Forward, reverse and second derivatives against numerical differences in the mean and the parameters (x contains NaN)."""
    x, *leaves = (v.clone().requires_grad_() for v in arguments(name))
    x = x.detach()

    def density(*values: Tensor) -> Tensor:
        return ours(name)(*table.free(name, (x, *values)))

    assert gradcheck(density, leaves, check_forward_ad=True)
    assert gradgradcheck(density, leaves, check_fwd_over_rev=True)


@pytest.mark.parametrize("name", STRUCTURES)
def test_gradients_at_missing_entries_are_exactly_zero(name: str) -> None:
    """For any cotangent, and in second derivatives; no derivative is NaN."""
    values = [v.clone().requires_grad_() for v in arguments(name)]
    w = Maker(batch=(N,), seed=7).normal()
    gradients = torch.autograd.grad((ours(name)(*values) * w).sum(), values, create_graph=True)
    absent = values[0].isnan()
    assert absent.any()
    assert not gradients[0][absent].any()
    assert not gradients[1].isnan().any()
    again = torch.autograd.grad(sum(g.square().sum() for g in gradients), values)
    assert not again[0][absent].any()
    assert all(g.isfinite().all() for g in again)


@pytest.mark.parametrize("name", STRUCTURES)
def test_only_empty_rows(name: str) -> None:
    x, *others = arguments(name)
    values = [v.clone().requires_grad_() for v in (torch.full_like(x, torch.nan), *others)]
    log_prob = ours(name)(*values)
    assert not log_prob.any()
    for gradient in torch.autograd.grad(log_prob.sum(), values):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)


def test_complete_rows() -> None:
    """With complete rows, values and derivatives are those without missing=."""
    for name in STRUCTURES:
        values = [v.clone().requires_grad_() for v in table.arguments(name)]
        results = [(f(*values), torch.autograd.grad(f(*values).sum(), values)) for f in (ours(name), table.ours(name))]
        torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", FEW)
def test_mapped_over_parameters(name: str) -> None:
    """vmap over stacked parameters, with all rows inside."""
    x, *others = arguments(name)
    stacked = [
        torch.stack([v, 1.1 * v]) for v in others
    ]  # scaled parameters are valid: positive definite, triangular, positive
    if name == "LowRank":
        stacked[2] = torch.stack([others[2], others[2] + 0.1])
    total = lambda *values: ours(name)(x, *values).sum()  # noqa: E731
    argnums = tuple(range(len(others)))
    batched = vmap(grad(total, argnums=argnums))(*stacked)
    for k in range(2):
        single = grad(total, argnums=argnums)(*(v[k] for v in stacked))
        for a, b in zip(batched, single, strict=True):
            close(a[k], b)


def test_float32() -> None:
    """Gradients in float32 equal those in float64 up to rounding."""
    x, mean, sigma = arguments("Dense")
    exact, rounded = (
        grad(lambda *v: ours("Dense")(*v).sum(), argnums=(0, 1, 2))(*(t.to(dtype) for t in (x, mean, sigma)))
        for dtype in (torch.float64, torch.float32)
    )
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(b.double(), a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_many_rows(weighted: bool) -> None:
    """Gradients of sums and means over many rows, for any weights and after in-place changes of the parameters."""
    x = missing.gaps(Maker(batch=(60,), seed=5).normal(D))
    _, mean, sigma = table.arguments("Dense")
    w = Maker(batch=(60,), seed=6).normal() if weighted else torch.tensor(1 / 60, dtype=torch.float64)
    leaves = mean.clone().requires_grad_(), sigma.clone().requires_grad_()
    gaussian = mvnjac.Gaussian(*leaves, missing="marginalise")
    for _ in range(2):
        actual = torch.autograd.grad((gaussian.log_prob(x) * w).sum(), leaves)
        expected = torch.autograd.grad((missing.log_density(x, *leaves) * w).sum(), leaves)
        close(actual[0], expected[0])
        close(actual[1], 0.5 * (expected[1] + expected[1].mT))
        with torch.no_grad():
            leaves[0].add_(1)
            leaves[1].mul_(2)


def test_optimiser_step() -> None:
    """The likelihood increases along its gradient, and differs from that of rows with zeros in place of NaN."""
    x = missing.gaps(Maker(batch=(40,), seed=5).normal(D))
    _, mean, sigma = table.arguments("Dense")
    leaf = mean.clone().requires_grad_()
    before = mvnjac.log_prob(x, leaf, sigma, missing="marginalise").sum()
    (step,) = torch.autograd.grad(before, leaf)
    after = mvnjac.log_prob(x, mean + 1e-3 * step, sigma, missing="marginalise").sum()
    assert after > before
    filled = mvnjac.log_prob(x.nan_to_num(), mean, sigma)
    assert (filled - mvnjac.log_prob(x, mean, sigma, missing="marginalise")).abs().max() > 0.1
