"""BandedPrecision against dense matrices and against the densities of autoregressions; cost and memory."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.functional import pad

import mvnjac
from mvnjac.covariance.samples import Maker
from mvnjac.covariance.structured.bands import Bands
from mvnjac.linalg.cyclic_reduction import CyclicReduction
from tests.support.tolerance import assert_close, condition
from tests.support.work import Written

SHAPES = [(b, d) for b in range(5) for d in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 23) if b < d]


def random_bands(b: int, d: int, batch: tuple[int, ...] = (), padding: float = torch.nan) -> Tensor:
    """The bands of Λ Λᵀ for a random banded Λ."""
    P = Maker(batch=batch, seed=10 * d + b).lower(d).triu(-b)
    P = P @ P.mT
    return torch.stack([pad(P.diagonal(-k, -2, -1), (0, k), value=padding) for k in range(b + 1)], -2)


def dominant_bands(b: int, d: int) -> Tensor:
    """The bands of a diagonally dominant P, for any d, without forming P."""
    bands = Maker(seed=d).normal(b + 1, d).clamp(-2, 2) * (0.4 / max(b, 1))
    return torch.cat([3 + bands[:1].abs(), bands[1:]])


def dense(bands: Tensor) -> Tensor:
    """P, entry by entry."""
    b, d = bands.shape[0] - 1, bands.shape[1]
    P = torch.zeros(d, d, dtype=bands.dtype)
    for k in range(b + 1):
        for j in range(d - k):
            P[j + k, j] = P[j, j + k] = bands[k, j]
    return P


# --- cyclic reduction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "d"), SHAPES)
def test_cyclic_reduction(b: int, d: int) -> None:
    """Determinant, root, solution and selected inverse, for all divisions of d into blocks and levels."""
    bands = random_bands(b, d)
    P, reduction = dense(bands), CyclicReduction.of(bands)
    sigma, rows = torch.linalg.inv(P), Maker(seed=1).normal(3, d)
    kappa = condition(sigma)
    assert_close(reduction.log_det(), torch.logdet(P), kappa, what="log det", scale=float(d))
    assert_close(reduction.root_times(rows).square().sum(-1), ((rows @ P) * rows).sum(-1), kappa, what="‖Λᵀr‖²")
    assert_close(reduction.solve(rows), rows @ sigma, kappa, what="P⁻¹ r")
    expected = torch.stack([pad(sigma.diagonal(-k), (0, k)) for k in range(b + 1)])
    assert_close(reduction.inverse_bands(), expected, kappa, what="bands of P⁻¹")


def test_root_is_a_root() -> None:
    """Λ Λᵀ = P, not only the norm of Λᵀ r."""
    bands = random_bands(2, 9)
    root = CyclicReduction.of(bands).root_times(torch.eye(9).double())
    torch.testing.assert_close(root @ root.mT, dense(bands))


def test_batches_of_precisions() -> None:
    bands, x = random_bands(2, 7, (3,)), Maker(batch=(5, 1), seed=1).normal(7)
    J = mvnjac.jacobian(x, torch.zeros(7).double(), mvnjac.BandedPrecision(bands))
    for k in range(3):
        alone = mvnjac.jacobian(x[:, 0], torch.zeros(7).double(), mvnjac.BandedPrecision(bands[k]))
        torch.testing.assert_close(J.log_prob[:, k], alone.log_prob)
        torch.testing.assert_close(J["precision_bands"][:, k], alone["precision_bands"])


# --- padding ---------------------------------------------------------------------------------------------------------


def test_padding_does_not_matter() -> None:
    """Neither values nor NaN in the padding affect the density or its derivatives."""
    x, mean = Maker(batch=(4,), seed=1).normal(6), Maker(seed=2).normal(6)
    results = []
    for padding in (0.0, 7.0, math.nan, math.inf):
        leaf = random_bands(2, 6, padding=padding).requires_grad_()
        value = mvnjac.log_prob(x, mean, mvnjac.BandedPrecision(leaf)).sum()
        (first,) = torch.autograd.grad(value, leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        results.append((value.detach(), first.detach(), second))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])
    for gradient in results[0][1:]:
        assert torch.equal(gradient[1, 5:], torch.zeros(1).double())
        assert torch.equal(gradient[2, 4:], torch.zeros(2).double())


def test_an_element_moves_two_entries() -> None:
    """J, its total and autograd agree for the bands; the gradient with respect to P is half of it off the diagonal."""
    bands, x, mean = random_bands(1, 4), Maker(batch=(3,), seed=1).normal(4), torch.zeros(4).double()
    J = mvnjac.jacobian(x, mean, mvnjac.BandedPrecision(bands))
    by_P = J["precision_matrix"]
    torch.testing.assert_close(J["precision_bands"][:, 1, :3], 2 * by_P.diagonal(-1, -2, -1))
    leaf = bands.clone().requires_grad_()
    mvnjac.log_prob(x, mean, mvnjac.BandedPrecision(leaf)).sum().backward()
    torch.testing.assert_close(J.sum()["precision_bands"], leaf.grad)


# --- names and errors ------------------------------------------------------------------------------------------------


def test_names() -> None:
    """The names of the elements of P, with the two variables in any order; the full layout has rows of bands."""
    x, mean, structure = torch.ones(2, 3).double(), torch.zeros(3).double(), mvnjac.BandedPrecision(random_bands(1, 3))
    J = mvnjac.jacobian(x, mean, structure, names=["A", "B", "C"])
    expected = [f"precision_bands{label}" for label in ("[A,A]", "[B,B]", "[C,C]", "[B,A]", "[C,B]")]
    assert J.columns("precision_bands") == expected
    columns = J.matrix("precision_bands")
    for i, name in enumerate(expected):
        torch.testing.assert_close(J.matrix(name)[:, 0], columns[:, i])
    torch.testing.assert_close(J.matrix("precision_bands[A,B]")[:, 0], columns[:, 3])
    with pytest.raises(KeyError, match=r"precision_bands\[C,A\]' is not an element"):
        J.matrix("precision_bands[C,A]")
    full = J.matrix("precision_bands", layout="full")
    torch.testing.assert_close(full, J["precision_bands"].flatten(-2))
    assert J.columns("precision_bands", layout="full")[3:] == [f"precision_bands[1,{name}]" for name in "ABC"]


def test_positions_of_elements() -> None:
    """Positions, free entries and names, for more than one band below the diagonal."""
    kind, padded = Bands(2, 5), dense(random_bands(2, 5, padding=0.0))
    bands = random_bands(2, 5)
    assert kind.size == len(kind.labels(None)) == 12
    for position, label in zip(kind.positions().tolist(), kind.labels(None), strict=True):
        row, column = map(int, label[1:-1].split(","))
        assert bands.flatten()[position] == padded[row, column]
    assert torch.equal(kind.free(torch.arange(15)), bands.isfinite().flatten())
    torch.testing.assert_close(kind.unpack(kind.pack(bands)), bands.nan_to_num(0.0))
    J = mvnjac.jacobian(torch.ones(2, 5).double(), torch.zeros(5).double(), mvnjac.BandedPrecision(bands))
    torch.testing.assert_close(J.matrix("precision_bands[4,2]")[:, 0], J["precision_bands"][:, 2, 2])


def test_error_names_the_pivot() -> None:
    """The message names the first leading minor that is not positive, in the order of the variables."""
    bands, x, mean = dominant_bands(2, 3000), torch.zeros(3000).double(), torch.zeros(3000).double()
    bands[0, 1234] = 0.01
    with pytest.raises(
        mvnjac.errors.NotPositiveDefiniteError, match=r"of variable 1234 \(pivot 1235 of 3000\).*variable 1232, variable 1233"
    ):
        mvnjac.jacobian(x, mean, mvnjac.BandedPrecision(bands))
    several = torch.stack([random_bands(1, 4), random_bands(1, 4)])
    several[1, 0, 2] = -1
    with pytest.raises(
        mvnjac.errors.NotPositiveDefiniteError, match=r"batch index 1.*variable 2 \(pivot 3 of 4\).*entry is -1.0"
    ):
        mvnjac.jacobian(torch.zeros(4).double(), torch.zeros(4).double(), mvnjac.BandedPrecision(several))


# --- autoregressions -------------------------------------------------------------------------------------------------

PHI = {1: [0.7], 2: [0.5, -0.6], 3: [0.4, 0.3, -0.5]}


def autocovariance(phi: list[float], variance: float, d: int) -> Tensor:
    """(d, d) from the stationary covariance of the companion form, C = A C Aᵀ + σ² e eᵀ, and powers of A."""
    p = len(phi)
    A = torch.zeros(p, p, dtype=torch.float64)
    A[0], A[1:, :-1] = Maker().tensor(phi), torch.eye(p - 1)
    noise = torch.zeros(p * p, dtype=torch.float64)
    noise[0] = variance
    C = torch.linalg.solve(torch.eye(p * p).double() - torch.kron(A, A), noise).reshape(p, p)
    lags = torch.stack([(torch.linalg.matrix_power(A, k) @ C)[0, 0] for k in range(d)])
    return lags[(torch.arange(d)[:, None] - torch.arange(d)).abs()]


@pytest.mark.parametrize("p", PHI)
@pytest.mark.parametrize("more", [1, 2, 3, 9])
def test_autoregression(p: int, more: int) -> None:
    """The inverse of the Toeplitz covariance, also if the corrections at both ends overlap."""
    d = p + more
    structure = mvnjac.BandedPrecision.autoregressive(Maker().tensor(PHI[p]), Maker().tensor(1.7), d)
    sigma = autocovariance(PHI[p], 1.7, d)
    P = torch.linalg.inv(sigma)
    torch.testing.assert_close(dense(structure.parameters["precision_bands"]), P, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(structure.dense(), sigma)
    assert structure.bandwidth == p


def test_autoregression_is_differentiable_and_batched() -> None:
    phi, variance = Maker().tensor([PHI[2], [0.1, 0.2]]), Maker().tensor([[1.0], [2.0]])
    build = mvnjac.BandedPrecision.autoregressive
    batched = build(phi, variance, 5).parameters["precision_bands"]
    assert batched.shape == (2, 2, 3, 5)
    torch.testing.assert_close(batched[1, 0], build(phi[0], variance[1, 0], 5).parameters["precision_bands"])
    leaves = phi.requires_grad_(), variance.requires_grad_()
    assert gradcheck(lambda f, v: build(f, v, 5).parameters["precision_bands"], leaves, check_forward_ad=True)
    stacked = torch.func.vmap(lambda f: build(f, variance[0, 0], 5).parameters["precision_bands"])(phi)
    torch.testing.assert_close(stacked, batched[0])
    white = build(torch.zeros(0).double(), torch.tensor(2.0).double(), 3)
    torch.testing.assert_close(white.dense(), 2 * torch.eye(3).double())


@pytest.mark.parametrize(
    ("phi", "variance", "d", "says"),
    [
        ([1.0], 1.0, 5, "order 1 is 1; it must lie"),
        ([0.5, 0.6], 1.0, 5, "order 1 is 1.25"),
        ([0.0, -1.2], 1.0, 5, "order 2 is -1.2"),
        ([math.nan], 1.0, 5, "order 1 is nan"),
        ([0.5], 0.0, 5, "variance is 0.0"),
        ([0.5, 0.1], 1.0, 2, r"expected \(..., p\) with p < d"),
        (0.5, 1.0, 5, r"have shape \(\)"),
    ],
)
def test_invalid_autoregressions(phi: list[float], variance: float, d: int, says: str) -> None:
    with pytest.raises(mvnjac.errors.ArgumentError, match=says):
        mvnjac.BandedPrecision.autoregressive(torch.tensor(phi), torch.tensor(variance), d)


def test_a_million_variables() -> None:
    """Density and score of an AR(2) of a million values, against its conditional densities."""
    d, variance = 1_000_000, torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    phi = torch.tensor([0.5, -0.3], dtype=torch.float64, requires_grad=True)
    x = Maker(batch=(2,), seed=1).normal(d)
    structure = mvnjac.BandedPrecision.autoregressive(phi, variance, d)
    actual = mvnjac.log_prob(x, torch.zeros(d).double(), structure)
    innovations = x[:, 2:] - phi[0] * x[:, 1:-1] - phi[1] * x[:, :-2]
    r0 = variance * (1 - phi[1]) / ((1 + phi[1]) * ((1 - phi[1]) ** 2 - phi[0] ** 2))  # the stationary variance
    lag = phi[0] / (1 - phi[1])
    det = r0**2 * (1 - lag**2)
    start = (x[:, 0] ** 2 - 2 * lag * x[:, 0] * x[:, 1] + x[:, 1] ** 2) * r0 / det
    squares = start + innovations.square().sum(-1) / variance
    expected = -0.5 * (d * math.log(2 * math.pi) + det.log() + (d - 2) * variance.log() + squares)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    for actual_gradient, gradient in zip(
        torch.autograd.grad(actual.sum(), (phi, variance)), torch.autograd.grad(expected.sum(), (phi, variance)), strict=True
    ):
        torch.testing.assert_close(actual_gradient, gradient, rtol=1e-8, atol=0)
    untracked = mvnjac.log_prob(x, torch.zeros(d).double(), structure.map(Tensor.detach))
    torch.testing.assert_close(untracked, actual.detach(), rtol=1e-12, atol=0)


# --- information -----------------------------------------------------------------------------------------------------


def test_large_information() -> None:
    """d = 100 000: `solve` is the inverse of `matvec`, and the natural gradient is the solution for the average score."""
    d = 100_000
    bands, x, mean = dominant_bands(1, d), Maker(batch=(3,), seed=1).normal(d), torch.zeros(d).double()
    gaussian = mvnjac.Gaussian(mean, mvnjac.BandedPrecision(bands))
    F = gaussian.fisher_information()
    v = Maker(seed=4).normal(F.shape[-1])
    torch.testing.assert_close(F.solve(F.matvec(v)), v, rtol=1e-10, atol=1e-10)
    step = gaussian.natural_gradient(x)
    torch.testing.assert_close(step["mean"], x.mean(0))
    packed = torch.cat([step["mean"], step["precision_bands"][0], step["precision_bands"][1, :-1]])
    torch.testing.assert_close(3 * F.matvec(packed), gaussian.jacobian(x).rmatvec(torch.ones(3).double()))


@pytest.mark.parametrize(("b", "d"), [(0, 3), (1, 2), (1, 4), (2, 3), (2, 4), (3, 7)])
def test_inverse_information(b: int, d: int) -> None:
    F = mvnjac.fisher_information(torch.zeros(d).double(), mvnjac.BandedPrecision(random_bands(b, d)))
    inverse = torch.linalg.inv(F.matrix())
    torch.testing.assert_close(F.inverse(), inverse, rtol=1e-9, atol=1e-9 * float(inverse.abs().max()))


def test_information_is_differentiable() -> None:
    v = Maker(seed=5).normal(11)

    def products(bands: Tensor) -> Tensor:
        F = mvnjac.fisher_information(torch.zeros(4).double(), mvnjac.BandedPrecision(bands))
        return torch.cat([F.matvec(v), F.solve(v)])

    assert gradcheck(products, [random_bands(1, 4, padding=0.0).requires_grad_()])


def test_units_are_those_of_the_information() -> None:
    """In these units the information does not depend on the units of the variables."""
    bands, scale = random_bands(2, 6, padding=0.0), torch.tensor([1e-3, 1.0, 1e2, 1e4, 1.0, 1e-2]).double()
    matrices = []
    for s in (torch.ones(6).double(), scale):
        pairs = torch.stack([pad(s[k:] * s[: 6 - k], (0, k)) for k in range(3)])
        structure = mvnjac.BandedPrecision(bands / torch.where(pairs > 0, pairs, 1))
        F = mvnjac.fisher_information(torch.zeros(6).double(), structure)
        units = structure.units(structure.factor(6))
        unit = torch.cat([units["mean"], structure.coordinates_of("precision_bands", 6).pack(units["precision_bands"])])
        assert units["precision_bands"].shape == bands.shape
        matrices.append(F.matrix() * unit * unit.unsqueeze(-1))
    torch.testing.assert_close(matrices[0], matrices[1])
    white = mvnjac.BandedPrecision(torch.full((1, 3), 4.0))
    assert white.units(white.factor(3))["mean"].tolist() == [0.5, 0.5, 0.5]


# --- cost ------------------------------------------------------------------------------------------------------------


def work(d: int, b: int) -> None:
    """Compute value, total, information, a Hessian product and a gradient."""
    x, mean, bands = Maker(batch=(5,), seed=1).normal(d), torch.zeros(d).double(), dominant_bands(b, d)
    gaussian = mvnjac.Gaussian(mean, mvnjac.BandedPrecision(bands))
    J = gaussian.jacobian(x)
    _ = J.log_prob
    J.sum()
    F = gaussian.fisher_information()
    v = torch.ones(F.shape[-1], dtype=torch.float64)
    F.solve(F.matvec(v))
    gaussian.hessian(x).matvec(v)
    mvnjac.log_prob(x, mean, mvnjac.BandedPrecision(bands.requires_grad_())).sum().backward()


def counted(d: int, b: int) -> Written:
    with Written() as mode:
        work(d, b)
    return mode


@pytest.mark.parametrize("b", [0, 1, 3])
def test_cost_is_linear_in_the_dimension(b: int) -> None:
    """Twice as many variables take twice the operations; no array is larger than a few times n d b."""
    small, large = counted(4000, b), counted(8000, b)
    assert small.count < large.count < 2.05 * small.count
    assert large.largest <= 5 * 8000 * 3 * (b + 1)


@pytest.mark.slow
def test_memory_is_linear_in_the_dimension() -> None:
    """The peak of a process that does the same work is about 230 numbers per variable for five rows, bandwidth 2 and any d."""
    code = (
        "from tests.support.peak import peak; from tests.covariance.test_banded_precision import work\n"
        "for d in (1000, 50_000, 100_000, 200_000): work(d, 2); print(peak())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    before, *peaks = (int(line) for line in done.stdout.split())
    for d, peak in zip((50_000, 100_000, 200_000), peaks, strict=True):
        assert peak - before < 350 * 8 * d
