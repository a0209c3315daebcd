"""Accuracy of the kernels at any condition number: against mpmath with 50 digits, compared with triangular solves per row.

Errors are relative to the largest entry and averaged over some draws. Forming Σ r rᵀ before solving would have up to 11 times
the error in the gradient with respect to Σ, and 100 times in the value; the kernels therefore sum whitened rows unless both
are equal.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mp
from torch import Tensor

from mvnjac import kernels
from mvnjac.fused.dense import fused_rows
from mvnjac.kernels import limits
from mvnjac.kernels.reference import small_gaussians
from mvnjac.parameters.coordinates import symmetric
from tests.kernels.support import instruction_sets

pytestmark = pytest.mark.skipif(kernels.native is None, reason="the kernels are not built or switched off")

KAPPAS = {torch.float64: [2, 1e1, 1e2, 1e6, 1e10, 1e14], torch.float32: [2, 1e1, 1e3, 1e5]}
DRAWS, D, N = 16, 4, 24


@dataclass
class Case:
    """Arguments of a dtype, and the exact results rounded to float64."""

    x: Tensor
    mean: Tensor
    sigma: Tensor
    log_prob: np.ndarray
    a: np.ndarray
    P: np.ndarray


@functools.cache
def draw(kappa: float, seed: int, dtype: torch.dtype) -> Case:
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(D, D)))[0]
    root = basis * np.sqrt(np.geomspace(1, 1 / kappa, D))
    sigma = torch.from_numpy(root @ root.T).to(dtype)
    sigma = sigma.tril() + sigma.tril(-1).mT
    x = torch.from_numpy(generator.normal(size=(N, D)) @ root.T).to(dtype)
    mean = torch.from_numpy(0.1 * generator.normal(size=D)).to(dtype)
    mp.dps = 50
    exact = mpmath.matrix(sigma.double().tolist())
    P, logs = exact**-1, mp.log(mp.det(exact))
    rows, values = [], []
    for row in x.double().tolist():
        r = mpmath.matrix(row) - mpmath.matrix(mean.double().tolist())
        a = P * r
        rows.append([float(v) for v in a])
        values.append(float(-(D * mp.log(2 * mp.pi) + logs + (r.T * a)[0]) / 2))
    return Case(x, mean, sigma, np.array(values), np.array(rows), np.array(P.tolist(), dtype=float))


def worst(got: Tensor, expected: np.ndarray) -> float:
    return float(np.abs(got.double().numpy() - expected).max() / np.abs(expected).max())


def errors_of_kernels(case: Case) -> dict[str, float]:
    quick = fused_rows(case.x, case.mean, case.sigma)
    assert quick is not None
    total = quick.sum()
    out = torch.empty(N, D + D * (D + 1) // 2, dtype=case.x.dtype)
    assert quick.matrix(out)
    return _errors(case, quick.log_prob(), total["mean"], total["covariance_matrix"], out[:, D:])


def errors_of_solving(case: Case) -> dict[str, float]:
    L = torch.linalg.cholesky(case.sigma)
    r = (case.x - case.mean).mT
    z = torch.linalg.solve_triangular(L, r, upper=False)
    a = torch.linalg.solve_triangular(L.mT, z, upper=True).mT
    values = small_gaussians(case.x, case.mean.expand(N, D), case.sigma.expand(N, D, D))
    G = 0.5 * (a.mT @ a - N * torch.cholesky_inverse(L))
    each = symmetric(D).pack_gradient(0.5 * (a.unsqueeze(-1) * a.unsqueeze(-2) - torch.cholesky_inverse(L)))
    return _errors(case, values.log_prob, a.sum(0), G, each)


def _errors(case: Case, log_prob: Tensor, by_mean: Tensor, by_matrix: Tensor, each: Tensor) -> dict[str, float]:
    a, P = case.a, case.P
    rows = symmetric(D).pack_gradient(torch.from_numpy(0.5 * (a[:, :, None] * a[:, None, :] - P))).numpy()
    return {
        "value": worst(log_prob, case.log_prob),
        "total by the mean": worst(by_mean, a.sum(0)),
        "total by Σ": worst(by_matrix, 0.5 * (a.T @ a - N * P)),
        "rows by Σ": worst(each, rows),
    }


def cases() -> list[tuple[torch.dtype, float]]:
    return [(dtype, kappa) for dtype, kappas in KAPPAS.items() for kappa in kappas]


@pytest.mark.parametrize(("dtype", "kappa"), cases())
@pytest.mark.parametrize("instructions", instruction_sets())
def test_as_accurate_as_triangular_solves(dtype, kappa, instructions) -> None:
    of_kernels, of_solving = [], []
    with kernels.switched(on=True, instructions=instructions):
        for seed in range(DRAWS):
            case = draw(kappa, seed, dtype)
            of_kernels.append(errors_of_kernels(case))
            of_solving.append(errors_of_solving(case))
    eps = torch.finfo(dtype).eps
    for name in of_kernels[0]:
        error, peer = (sum(one[name] for one in errors) / DRAWS for errors in (of_kernels, of_solving))
        assert error <= 2 * peer, f"{name}: {error:.3g}, triangular solves {peer:.3g}"
        assert max(one[name] for one in of_kernels) <= 10 * kappa * eps


def test_rows_far_from_the_mean_are_whitened_before_they_are_summed() -> None:
    """Σ alone would allow summing first, but these rows lie along a direction in which the second entry of z is small."""
    generator = np.random.default_rng(0)
    sigma = torch.tensor([[1.0, 0.75], [0.75, 1.0]], dtype=torch.float64)
    x = torch.from_numpy(1e6 * generator.normal(size=(40, 1)) * np.array([1.0, 0.75]) + generator.normal(size=(40, 2)))
    mean = torch.zeros(2, dtype=torch.float64)
    quick = fused_rows(x, mean, sigma)
    assert quick is not None
    assert limits.halves_sums(8, quick.prepared.data, 40, 2)
    mp.dps = 50
    P = mpmath.matrix(sigma.tolist()) ** -1
    a = mpmath.matrix(x.tolist()) * P
    exact = (mp.fsum(v * v for v in a[:, 1]) - 40 * P[1, 1]) / 2
    assert float(quick.sum()["covariance_matrix"][1, 1]) == pytest.approx(float(exact), rel=1e-8)
