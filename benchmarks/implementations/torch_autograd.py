"""torch, as textbooks write it: Cholesky, one triangular solve, backward. No torch.distributions, no closed forms."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.functional import hessian as functional_hessian

from benchmarks.implementations.operands import leaves, tensors
from benchmarks.workload import Data, Result


def total_density(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Σ log p of the rows of x (n, d)."""
    n, d = x.shape
    L = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(L, (x - mean).mT, upper=False)
    return -0.5 * (z * z).sum() - n * (L.diagonal().log().sum() + 0.5 * d * math.log(2 * math.pi))


def density(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """log p of x (..., d), with one Gaussian per row."""
    L = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(L, (x - mean).unsqueeze(-1), upper=False).squeeze(-1)
    log_root = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (z * z).sum(-1) - log_root - 0.5 * x.shape[-1] * math.log(2 * math.pi)


def total(data: Data):
    x, *parameters = tensors(data)

    def call() -> Result:
        mean, covariance = leaves(*parameters)
        value = total_density(x, mean, covariance)
        value.backward()
        return {"value": value, "mean": mean.grad, "covariance": covariance.grad}

    return call


def one_per_row(data: Data):
    x, *parameters = tensors(data)

    def call() -> Result:
        mean, covariance = leaves(*parameters)
        value = density(x, mean, covariance)
        value.sum().backward()
        return {"value": value, "mean": mean.grad, "covariance": covariance.grad}

    return call


def vech_density(x: Tensor, parameters: Tensor) -> Tensor:
    """Σ log p as a function of the p unique elements, (mean, vech Σ)."""
    d = x.shape[-1]
    columns, rows = torch.triu_indices(d, d)  # vech: the lower triangle, column after column
    lower = torch.zeros(d, d, dtype=x.dtype).index_put((rows, columns), parameters[d:])
    return total_density(x, parameters[:d], lower + lower.tril(-1).mT)


def unique(mean: Tensor, covariance: Tensor) -> Tensor:
    columns, rows = torch.triu_indices(*covariance.shape)
    return torch.cat([mean, covariance[rows, columns]])


def hessian(data: Data):
    x, *parameters = tensors(data)
    at = unique(*parameters)
    return lambda: {"hessian": functional_hessian(lambda p: vech_density(x, p), at)}


def natural_gradient(data: Data):
    """The score by autograd, and one Cholesky solve with the p×p information over the unique elements, ½ Dᵀ (P⊗P) D."""
    x, *parameters = tensors(data)
    n, d = x.shape
    columns, rows = torch.triu_indices(d, d)
    twice = torch.where(rows == columns, 1.0, 2.0).to(x.dtype)

    def call() -> Result:
        mean, covariance = leaves(*parameters)
        total_density(x, mean, covariance).backward()
        P = torch.linalg.inv(covariance.detach())
        products = P[rows][:, rows] * P[columns][:, columns] + P[rows][:, columns] * P[columns][:, rows]
        information = products * (twice[:, None] * twice / 4)
        score = covariance.grad[rows, columns] * twice
        elements = torch.cholesky_solve(score[:, None], torch.linalg.cholesky(n * information)).squeeze(-1)
        step = torch.zeros_like(P).index_put((rows, columns), elements)
        return {"mean": covariance.detach() @ mean.grad / n, "covariance": step + step.tril(-1).mT}

    return call


def missing(data: Data):
    """Closed forms with one Cholesky factor per pattern; the patterns are computed beforehand."""
    holes, mean, covariance = tensors(data, "holes", "mean", "covariance")
    patterns, of_row = (~holes.isnan()).unique(dim=0, return_inverse=True)
    rows = [(of_row == p).nonzero().squeeze(-1) for p in range(len(patterns))]
    indices = [pattern.nonzero().squeeze(-1) for pattern in patterns]

    def call() -> Result:
        by_mean, by_matrix, value = torch.zeros_like(mean), torch.zeros_like(covariance), 0.0
        for observed, members in zip(indices, rows, strict=True):
            L = torch.linalg.cholesky(covariance[observed][:, observed])
            r = holes[members][:, observed] - mean[observed]
            a = torch.cholesky_solve(r.mT, L).mT
            log_root = L.diagonal().log().sum() + 0.5 * len(observed) * math.log(2 * math.pi)
            value += float(-0.5 * (a * r).sum() - len(members) * log_root)
            by_mean[observed] += a.sum(0)
            by_matrix[observed.unsqueeze(-1), observed] += 0.5 * (a.mT @ a - len(members) * torch.cholesky_inverse(L))
        return {"value": value, "mean": by_mean, "covariance": by_matrix}

    return call
