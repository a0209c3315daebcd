"""Data for the tests of the kernels, and a reference implementation in float64 in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvnjac import kernels

SETS = [name for name in ("plain", "avx2", "avx512") if kernels.native is not None]


def instruction_sets() -> list[str]:
    """The instruction sets supported by this machine."""
    found = []
    for name in SETS:
        try:
            with kernels.switched(on=True, instructions=name):
                found.append(name)
        except ValueError:
            continue
    return found


def rows(n: int, d: int, dtype: torch.dtype, batch: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, d), mean and Σ, either one of each or one per row, generated in float64 and rounded to the dtype."""
    generator = torch.Generator().manual_seed(1000 * n + d)
    param_batch = (n,) if batch else ()
    A = torch.randn(*param_batch, d, 2 * d + 1, generator=generator, dtype=torch.float64)
    sigma = A @ A.mT / (2 * d)
    x, mean = (torch.randn(*shape, d, generator=generator, dtype=torch.float64) for shape in ((n,), param_batch))
    return x.to(dtype), mean.to(dtype), (0.5 * (sigma + sigma.mT)).to(dtype)


def reference(x: Tensor, mean: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p, a = Σ⁻¹(x − µ) and P = Σ⁻¹ in float64."""
    x, mean, sigma = x.double(), mean.double(), sigma.double()
    L = torch.linalg.cholesky(sigma)
    z = torch.linalg.solve_triangular(L, (x - mean).unsqueeze(-1), upper=False)
    a = torch.linalg.solve_triangular(L.mT, z, upper=True).squeeze(-1)
    logs = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_prob = -0.5 * (z.square().sum((-2, -1)) + 2 * logs + x.shape[-1] * math.log(2 * math.pi))
    return log_prob, a, torch.cholesky_inverse(L)


def guarded(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Memory for a result, and the guard values behind it, which must not change."""
    size = math.prod(shape)
    memory = torch.full((size + 64,), 7.0, dtype=dtype)
    return memory[:size].view(shape), memory[size:]
