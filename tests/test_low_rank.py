"""LowRank at its own cost: sums of squares, no d×d array, and solutions that leave rotations alone."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

import mvnjac
from mvnjac.covariance.base import Maker
from tests.contract import reference


def model(d: int, k: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, mvnjac.LowRank]:
    make = Maker(dtype, seed=d)
    return Maker(dtype, (20,), seed=1).normal(d), make.normal(d), mvnjac.LowRank(0.5 * make.normal(d, k), make.positive(d))


def test_float32_keeps_its_digits() -> None:
    """Strong factors, weak noise: a difference of two large terms would return 66 for 62.3."""
    make = Maker(torch.float32, seed=2)
    W, v = 100 * make.normal(60, 3), 1e-2 * make.positive(60)
    x = make.normal(3) @ W.mT + make.normal(60) * v.sqrt()
    exact = reference.log_density(x.double(), torch.zeros(60).double(), mvnjac.LowRank(W.double(), v.double()).dense())
    ours = mvnjac.log_prob(x, torch.zeros(60), mvnjac.LowRank(W, v))
    assert abs(float(ours) - float(exact)) < 1e-2 * abs(float(exact))


def test_iterated_solution_is_of_minimum_norm() -> None:
    """Above a few thousand parameters: F v = b is met, the rotations W A get nothing, and the closed one says the same."""
    _, mean, structure = model(450, 8)
    F = mvnjac.fisher_information(mean, structure, wrt=("cov_factor", "cov_diag"))
    assert F.shape[-1] > 4000
    b = F.matvec(Maker(seed=4).normal(F.shape[-1]))
    solution = F.solve(b)
    torch.testing.assert_close(F.matvec(solution), b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))
    change = solution[: 450 * 8].reshape(450, 8)
    inner = structure.parameters["cov_factor"].mT @ change
    assert float((inner - inner.mT).abs().max()) < 1e-8 * float(inner.abs().max())


def test_rotations_are_the_null_space() -> None:
    """k (k − 1)/2 directions in which the density does not change: F has exactly these, and solve ignores them."""
    _, mean, structure = model(12, 3)
    F = mvnjac.fisher_information(mean, structure)
    values = torch.linalg.eigvalsh(F.matrix())
    assert int((values < 1e-10 * values[-1]).sum()) == 3
    b = F.matvec(Maker(seed=4).normal(F.shape[-1]))
    torch.testing.assert_close(F.solve(b), torch.linalg.pinv(F.matrix(), hermitian=True, rtol=1e-10) @ b)


def operations(d: int) -> int:
    x, mean, structure = model(d, 4)
    with FlopCounterMode(display=False) as counter:
        gaussian = mvnjac.Gaussian(mean, structure)
        J = gaussian.jacobian(x)
        J.sum()
        _ = J.log_prob
        F = gaussian.fisher_information()
        F.matvec(torch.ones(F.shape[-1], dtype=torch.float64))
        gaussian.hessian(x).matvec(torch.ones(F.shape[-1], dtype=torch.float64))
    return counter.get_total_flops()


def test_cost_is_linear_in_the_dimension() -> None:
    """Doubling d doubles the floating-point operations of value, total, information and Hessian products."""
    assert operations(4000) < 2.1 * operations(2000)
    assert operations(2000) > 0
