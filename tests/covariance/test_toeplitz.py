"""Toeplitz: accuracy, cost, memory, and derivatives of higher order."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import mpmath
import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap

import mvnjac
from mvnjac.covariance.samples import Maker
from mvnjac.covariance.structured.toeplitz import ToeplitzFactor
from mvnjac.errors import NotPositiveDefiniteError
from mvnjac.linalg.toeplitz_algebra import newton, spectrum
from mvnjac.tensors.broadcasting import RowLayout
from tests.covariance import reference
from tests.support.tolerance import assert_close, condition
from tests.support.work import written

ROOT = Path(__file__).resolve().parents[2]


def lags(d: int) -> Tensor:
    return torch.arange(d, dtype=torch.float64)


SERIES = {
    "autoregression": lambda t: 0.9**t,
    "near a random walk": lambda t: 0.9999**t,
    "alternating": lambda t: (-0.8) ** t,
    "smooth": lambda t: torch.exp(-0.5 * (t / 6) ** 2) + 1e-6 * (t == 0),
    "long memory": lambda t: (1 + t) ** -0.2,
    "a wave in noise": lambda t: 3 * torch.cos(0.7 * t) + 1e-4 * (t == 0),
    "moving average at its limit": lambda t: 1.0 * (t == 0) + 0.4999 * (t == 1),
}


def exact(x: Tensor, c: Tensor) -> tuple[float, Tensor, Tensor]:
    """log p and its gradients with respect to the mean and c, for one row and mean 0, with 60 digits."""
    d = len(c)
    with mpmath.workdps(60):
        sigma = mpmath.matrix(d, d)
        for i, j in itertools.product(range(d), repeat=2):
            sigma[i, j] = mpmath.mpf(c[abs(i - j)].item())
        P, r = sigma**-1, mpmath.matrix([mpmath.mpf(v.item()) for v in x])
        a = P * r
        sums = [sum(a[i] * a[i + k] - P[i, i + k] for i in range(d - k)) for k in range(d)]
        by_c = torch.tensor([float(s / (1 if k else 2)) for k, s in enumerate(sums)], dtype=torch.float64)
        value = -(d * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(sigma)) + (r.T * a)[0]) / 2
        return float(value), torch.tensor([float(v) for v in a], dtype=torch.float64), by_c


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SERIES)
def test_against_exact_arithmetic(name: str, dtype: torch.dtype) -> None:
    """The error is at most c·κ·eps for any condition number, as that of a dense factorisation."""
    d = 24
    x, c = Maker(dtype, seed=1).normal(d), SERIES[name](lags(d)).to(dtype)
    value, by_mean, by_c = exact(x, c)
    structure = mvnjac.Toeplitz(c)
    kappa = condition(structure.dense().double())
    if dtype is torch.float32 and kappa > 1e6:  # a dense factorisation has no correct digit either
        c = c + 1e-4 * (lags(d) == 0).float()
        value, by_mean, by_c = exact(x, c)
        structure = mvnjac.Toeplitz(c)
        kappa = condition(structure.dense().double())
    J = mvnjac.jacobian(x, torch.zeros(d, dtype=dtype), structure)
    assert_close(J.log_prob, torch.tensor(value, dtype=torch.float64), kappa, "oracle", "log p")
    assert_close(J["mean"], by_mean, kappa, "oracle", "mean")
    assert_close(J["first_column"], by_c, kappa, "oracle", "first_column")


def test_float32_stays_definite() -> None:
    """Many waves with little noise: the factorisation succeeds as Cholesky's does, with the same accuracy."""
    make, d = Maker(seed=11), 200
    for _ in range(20):
        waves = make.positive(30).unsqueeze(-1) * torch.cos(2 * make.positive(30).unsqueeze(-1) * lags(d))
        c = (waves.sum(0) + 1e-3 * (lags(d) == 0)).float()
        structure, wide = mvnjac.Toeplitz(c), mvnjac.Toeplitz(c.double())
        kappa = condition(wide.dense())
        assert 1e3 < kappa < 1e6
        x = make.normal(d)
        ours = mvnjac.jacobian(x.float(), torch.zeros(d), structure)
        exactly = mvnjac.jacobian(x.float().double(), torch.zeros(d).double(), wide)
        assert_close(ours.log_prob, exactly.log_prob, kappa, what="log p")
        assert_close(ours["mean"], exactly["mean"], kappa, what="mean")
        assert_close(ours["first_column"], exactly["first_column"], kappa, what="first_column")


@pytest.mark.parametrize("d", [1, 2, 63, 64, 65, 150])
def test_whitening_is_the_cholesky_factor(d: int) -> None:
    """z = L⁻¹ r and s = Λᵀ r for L in one or several blocks of columns; and the score with respect to c."""
    make = Maker(batch=(2,), seed=d)
    structure = next(iter(mvnjac.Toeplitz.samples(d, make)))
    factor, dense = structure.factor(d), structure.factor(d).dense()
    rows, kappa = Maker(batch=(5, 2), seed=2).normal(d), condition(structure.dense())
    layout = RowLayout(torch.Size((5, 2)), torch.Size((2,)))
    folded = layout.fold(rows)
    assert_close(factor.whiten(folded, layout), dense.whiten(folded, layout), kappa, what="z")
    assert_close(factor.reverse_whiten(folded, layout), folded @ dense.precision_tril, kappa, what="s")
    expected = reference.own_gradients(rows, torch.zeros(d).double(), structure)
    J = mvnjac.jacobian(rows, torch.zeros(d).double(), structure)
    assert_close(J["first_column"], expected["first_column"], kappa, what="first_column")


def test_one_structure_per_row() -> None:
    """A slice of rows with one structure per row reuses the factorisation."""
    structure = next(iter(mvnjac.Toeplitz.samples(5, Maker(batch=(4,), seed=3))))
    x, mean = Maker(batch=(4,), seed=4).normal(5), torch.zeros(5).double()
    J = mvnjac.jacobian(x, mean, structure)
    torch.testing.assert_close(J[1:3].matrix(), J.matrix()[1:3])
    torch.testing.assert_close(J[1:3].log_prob, J.log_prob[1:3])


# --- derivatives ------------------------------------------------------------------------------------------------------


def test_third_derivatives() -> None:
    """Forward and reverse mode, mixed, against reverse mode of the textbook density."""
    d = 4
    x, mean, c = Maker(batch=(3,), seed=2).normal(d), Maker(seed=3).normal(d), SERIES["long memory"](lags(d))

    def textbook(c: Tensor) -> Tensor:
        return reference.log_density(x, mean, mvnjac.Toeplitz(c).dense()).sum()

    def ours(c: Tensor) -> Tensor:
        return mvnjac.log_prob(x, mean, mvnjac.Toeplitz(c)).sum()

    expected = jacrev(jacrev(jacrev(textbook)))(c)
    for one, two, three in [(jacfwd, jacfwd, jacfwd), (jacrev, jacfwd, jacrev), (jacfwd, jacfwd, grad), (jacrev, jacrev, grad)]:
        torch.testing.assert_close(one(two(three(ours)))(c), expected, rtol=1e-10, atol=1e-10)


def test_newton_steps_are_exact_through_the_seventh_derivative() -> None:
    """Started at a nearby Σ⁻¹, the error is of eighth order in the distance: half of it leaves 1/256 of the error."""
    c, change = torch.tensor([[1.0, 0.4, 0.1], [0.3, -0.2, 0.5]], dtype=torch.float64)
    errors = []
    for t in (0.04, 0.02):
        at = c + t * change
        exactly = torch.linalg.inv(mvnjac.Toeplitz(at).dense())[0]
        errors.append(float((newton(at, ToeplitzFactor(c).inverse_column) - exactly).abs().max()))
    assert 1e-3 > errors[0] > 1e-10
    assert 200 < errors[0] / errors[1] < 320


# --- information ------------------------------------------------------------------------------------------------------


def test_units_of_white_noise() -> None:
    """The information is diagonal with d/2 and d − k, the number of pairs; in these units, 1/2 and 1."""
    d, c = 6, 3.0 * (lags(6) == 0).double()
    structure = mvnjac.Toeplitz(c)
    F = mvnjac.fisher_information(torch.zeros(d).double(), structure, wrt="first_column").matrix()
    units = structure.units(structure.factor(d))["first_column"]
    torch.testing.assert_close(units.unsqueeze(-1) * F * units, torch.diag(torch.tensor([0.5, 1, 1, 1, 1, 1]).double()))


# --- cost -------------------------------------------------------------------------------------------------------------


def prepared(d: int, n: int = 50) -> tuple[Tensor, mvnjac.Gaussian]:
    c = 0.9 ** lags(d) * torch.cos(0.3 * lags(d)) + 0.2 * (lags(d) == 0)
    return Maker(batch=(n,), seed=1).normal(d), mvnjac.Gaussian(torch.zeros(d).double(), mvnjac.Toeplitz(c))


def numbers_written(d: int) -> dict[str, int]:
    x, gaussian = prepared(d, 10)
    counts = {"value": written(lambda: gaussian.log_prob(x))}
    F, v = gaussian.fisher_information(), Maker(seed=2).normal(2 * d)
    gaussian.jacobian(x).sum()
    counts["total"] = written(lambda: gaussian.jacobian(x).sum())
    counts["score of each row"] = written(lambda: gaussian.jacobian(x).matrix())
    counts["information"] = written(lambda: F.matvec(v))
    return counts


def test_cost() -> None:
    """Twice as many variables take four times the work for the factorisation, and twice the work for derivatives after it."""
    once, twice = numbers_written(1024), numbers_written(2048)
    assert twice["value"] < 4.1 * once["value"]
    for call in ("total", "score of each row", "information"):
        assert once[call] < 1024**2
        assert twice[call] < 2.2 * once[call], call


def test_length_of_fourier_transforms() -> None:
    """The length is the smallest power of two from 2d − 1 on; half of the spectrum is kept, including both ends."""
    assert [spectrum(torch.ones(d)).shape[-1] for d in (1, 2, 3, 4, 5, 4096)] == [2, 3, 5, 5, 9, 4097]


PEAK = """
import sys, torch
from tests.support.peak import peak
from tests.covariance.test_toeplitz import prepared
torch.set_num_threads(1)
calls = {
    "log_prob": lambda x, gaussian, v: gaussian.log_prob(x),
    "sum": lambda x, gaussian, v: gaussian.jacobian(x).sum(),
    "information": lambda x, gaussian, v: gaussian.fisher_information().matvec(v),
    "Hessian": lambda x, gaussian, v: gaussian.hessian(x).matvec(v),
}
call, n, d = calls[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])
call(*prepared(64), torch.ones(128).double())
x, gaussian = prepared(d, n)
before = peak()
call(x, gaussian, torch.ones(2 * d).double())
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "n", "d", "megabytes"),
    [("log_prob", 50, 4096, 60), ("sum", 50, 4096, 60), ("information", 50, 4096, 60), ("Hessian", 25, 8192, 250)],
)
def test_nothing_is_d_by_d(call: str, n: int, d: int, megabytes: int) -> None:
    """n×d is 1.6 MB, of which a Hessian product keeps about seventy for its reverse pass; d×d is 134 and 537 MB."""
    assert megabytes * 1e6 < 0.5 * d * d * 8
    done = subprocess.run([sys.executable, "-c", PEAK, call, str(n), str(d)], check=True, capture_output=True, cwd=ROOT)
    assert int(done.stdout) < megabytes * 1e6


# --- invalid input ----------------------------------------------------------------------------------------------------


def test_indefinite() -> None:
    """The message has the order, the cause and the batch index."""
    mean = torch.zeros(4).double()
    fine = SERIES["autoregression"](lags(4))
    late = torch.tensor([1.0, 0.5, 0.25, -0.9], dtype=torch.float64)  # partial autocorrelations 1/2, 0, then too large
    with pytest.raises(NotPositiveDefiniteError, match=r"index 1: indefinite at order 4 of 4: .* at lag 3 is -1\.36"):
        mvnjac.jacobian(mean, mean, mvnjac.Toeplitz(torch.stack([fine, late])))
    with pytest.raises(NotPositiveDefiniteError, match=r"order 1 of 4: entry 0, the variance, is -0\.9"):
        mvnjac.jacobian(mean, mean, mvnjac.Toeplitz(late.flip(0)))


def test_nan_without_checks() -> None:
    """If a leading minor is not positive, the value and all derivatives are NaN, even if later minors are positive."""
    x, mean = torch.ones(4).double(), torch.zeros(4).double()
    bad = torch.tensor([1.0, 2, 1, 3], dtype=torch.float64)
    J = mvnjac.jacobian(x, mean, mvnjac.Toeplitz(bad), check=False)
    for value in (J.log_prob, J["mean"], J["first_column"]):
        assert value.isnan().all()
    stacked = torch.stack([SERIES["autoregression"](lags(4)), bad])
    gradient = vmap(grad(lambda c: mvnjac.log_prob(x, mean, mvnjac.Toeplitz(c))))(stacked)
    assert gradient[0].isfinite().all()
    assert gradient[1].isnan().all()
