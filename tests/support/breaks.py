"""Samples for tests of structural change: rows with variables observed at different times, and their estimates."""

from __future__ import annotations

import torch
from torch import Tensor

DESIGNS = ("complete", "late", "drop-out", "scattered")
#: (d, d) the variables are linear combinations of independent normal variables
MIXING = torch.tensor([[1.0, 0.5, 0.2], [0.0, 1.0, -0.4], [0.0, 0.0, 1.0]], dtype=torch.float64)


def observed(design: str, n: int, generator: torch.Generator) -> Tensor:
    """(n, 3) the observed entries: variables that start at 50 % and 30 %, that end early, or with 30 % missing at random."""
    mask = torch.ones(n, 3, dtype=torch.bool)
    if design == "late":
        mask[: n // 2, 2] = False
        mask[: 3 * n // 10, 1] = False
    elif design == "drop-out":
        mask[3 * n // 5 :, 1] = False
        mask[4 * n // 5 :, 0] = False
    elif design == "scattered":
        mask = torch.rand(n, 3, generator=generator) > 0.3
        mask[:, 0] |= ~mask.any(-1)
    return mask


def draws(design: str, runs: int, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(runs, n, 3) normal rows with missing entries, and their estimates (runs, 3) and (runs, 3, 3)."""
    generator = torch.Generator().manual_seed(seed)
    mask = observed(design, n, generator)
    x = torch.randn(runs, n, 3, generator=generator, dtype=torch.float64) @ MIXING
    mean, covariance = estimates(x, mask)
    return torch.where(mask, x, torch.nan), mean, covariance


def estimates(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum likelihood by Fisher scoring, for samples x (R, n, d) with the same missing entries."""
    d = x.shape[-1]
    rows, columns = torch.tril_indices(d, d)
    pairs = len(rows)
    double = torch.zeros(d * d, pairs, dtype=x.dtype)
    double[rows * d + columns, range(pairs)] = 1
    double[columns * d + rows, range(pairs)] = 1
    groups = []
    for pattern in mask.unique(dim=0):
        if pattern.any():
            rows_of_pattern, at = x[:, (mask == pattern).all(1)], pattern.nonzero().squeeze(1)
            part = rows_of_pattern[..., at]
            groups.append((at, part.shape[1], part.mean(1), part.mT @ part / part.shape[1]))
    zero = torch.where(mask, x, 0.0)
    mean = zero.sum(1) / mask.sum(0)
    covariance = torch.diag_embed((torch.where(mask, x - mean.unsqueeze(1), 0.0) ** 2).sum(1) / mask.sum(0))
    for _ in range(100):
        score = torch.zeros(len(x), d + pairs, dtype=x.dtype)
        information = torch.zeros(len(x), d + pairs, d + pairs, dtype=x.dtype)
        for at, count, average, squares in groups:
            precision, gradient = torch.zeros_like(covariance), torch.zeros_like(covariance)
            inverse, r = torch.linalg.inv(covariance[:, at][:, :, at]), average - mean[:, at]
            centred = squares - average.unsqueeze(-1) * average.unsqueeze(-2) + r.unsqueeze(-1) * r.unsqueeze(-2)
            precision[:, at.unsqueeze(-1), at] = inverse
            gradient[:, at.unsqueeze(-1), at] = count / 2 * (inverse @ centred @ inverse - inverse)
            score[:, at] += count * (inverse @ r.unsqueeze(-1)).squeeze(-1)
            score[:, d:] += gradient.flatten(1) @ double
            information[:, :d, :d] += count * precision
            kronecker = torch.einsum("rij,rkl->rikjl", precision, precision).reshape(-1, d * d, d * d)
            information[:, d:, d:] += count / 2 * (double.mT @ kronecker @ double)
        step = torch.linalg.solve(information, score)
        mean = mean + step[:, :d]
        covariance = covariance + (step[:, d:] @ double.mT).reshape(-1, d, d)
        if float((score * step).sum(-1).max()) < 1e-16:
            return mean, covariance
    raise AssertionError("Fisher scoring has not converged")
