"""A factor model for rows with missing entries: log-likelihood, score, information and EM step, vectorised over rows.

In units of the unique standard deviations let u = diag(v)^-½ (x − µ) and B = diag(v)^-½ W. Given the observed entries o of a
row, its factors have the mean ŵ = C⁻¹ B_oᵀ u_o and the covariance C⁻¹, with C = I + B_oᵀ B_o. With the residuals e = u_o − B_o
ŵ

    log p = −½ (|o| log 2π + Σ_o log v + log |C| + ‖e‖² + ‖ŵ‖²)

Each row has its own C; no array is larger than rows × variables × factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mvnjac.statistics.sufficient import SufficientStatistics

#: numbers per array in a chunk of rows
_CHUNK_NUMBERS = 2**21


class FactorPosterior:
    """Rows, and the distribution of their factors given the observed entries.

    Attributes:
        weights: (m, 1).
        observed: (m, d) 1 where an entry is observed, else 0.
        x: (m, d) the rows, 0 where entries are missing.
        B: (d, k).
        u: (m, d).
        covariances: (m, k, k) C⁻¹.
        means: (m, k) ŵ.
        log_dets: (m,) log |C|.
    """

    def __init__(self, rows: Tensor, weights: Tensor, mean: Tensor, W: Tensor, v: Tensor) -> None:
        k, root = W.shape[-1], v.sqrt()
        self.weights, self.observed, self.x = weights.unsqueeze(-1), (~rows.isnan()).to(W), rows.nan_to_num()
        self.B, self.u = W / root.unsqueeze(-1), self.observed * (self.x - mean) / root
        squares = (self.B.unsqueeze(-1) * self.B.unsqueeze(-2)).reshape(len(W), k * k)
        C = torch.eye(k, dtype=W.dtype, device=W.device) + (self.observed @ squares).reshape(-1, k, k)
        tril = torch.linalg.cholesky(C)
        self.log_dets = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self.covariances = torch.cholesky_inverse(tril)
        self.means = (self.covariances @ (self.u @ self.B).unsqueeze(-1)).squeeze(-1)


def posteriors(sample: SufficientStatistics, mean: Tensor, W: Tensor, v: Tensor) -> Iterator[FactorPosterior]:
    """The rows of a sample in chunks."""
    step = max(1, _CHUNK_NUMBERS // (W.numel() + W.shape[-1] ** 2))
    for rows, weights in zip(sample.rows.split(step), sample.weights.split(step), strict=True):
        yield FactorPosterior(rows, weights, mean, W, v)


def totals(sample: SufficientStatistics, mean: Tensor, W: Tensor, v: Tensor) -> tuple[float, dict[str, Tensor]]:
    """The log-likelihood of all observations, and its gradients with respect to the mean, W and v."""
    root, d = v.sqrt(), len(v)
    value, by_mean, squares, cross = 0.0, torch.zeros_like(v), torch.zeros_like(v), torch.zeros_like(W)
    covariance = W.new_zeros(d, W.shape[-1] ** 2)  # Σ w C⁻¹ over the rows in which a variable is observed
    for chunk in posteriors(sample, mean, W, v):
        e = chunk.observed * (chunk.u - chunk.means @ chunk.B.mT)
        constant = chunk.observed @ (v.log() + math.log(2 * math.pi)) + chunk.log_dets
        value -= 0.5 * float(chunk.weights.squeeze(-1) @ (constant + (e * e).sum(-1) + (chunk.means * chunk.means).sum(-1)))
        weighted = chunk.weights * e
        by_mean, squares = by_mean + weighted.sum(0), squares + (weighted * e).sum(0)
        cross = cross + weighted.mT @ chunk.means
        covariance = covariance + (chunk.weights * chunk.observed).mT @ chunk.covariances.flatten(1)
    B = W / root.unsqueeze(-1)
    loadings = (B.unsqueeze(-2) @ covariance.reshape(d, *W.shape[-1:], -1)).squeeze(-2)
    count = (sample.weights.unsqueeze(-1) * ~sample.rows.isnan()).sum(0)
    return value, {
        "mean": by_mean / root,
        "cov_factor": (cross - loadings) / root.unsqueeze(-1),
        "cov_diag": 0.5 * (squares - count + (loadings * B).sum(-1)) / v,
    }


def information(sample: SufficientStatistics, W: Tensor, v: Tensor, change: dict[str, Tensor]) -> dict[str, Tensor]:
    """The product of the expected information of all observations with a change of the mean, W and log v.

    Let P* = I − B_o C⁻¹ B_oᵀ be the precision of u_o, and D = dB Bᵀ + B dBᵀ + diag(δ) the change of its covariance. The product
    is P* D B_o C⁻¹ with respect to B, and ½ diag(P* D P*) with respect to log v.
    """
    root = v.sqrt()
    mean, dB, delta = change["mean"] / root, change["cov_factor"] / root.unsqueeze(-1), change["cov_diag"]
    by_mean, by_factor, by_log = torch.zeros_like(v), torch.zeros_like(W), torch.zeros_like(v)
    step = max(1, _CHUNK_NUMBERS // W.numel())
    B = W / root.unsqueeze(-1)
    for patterns, weights in zip(sample.observed.split(step), sample.multiplicity.split(step), strict=True):
        observed, w = patterns.to(W).unsqueeze(-1), weights.reshape(-1, 1, 1)
        Bo, dBo = observed * B, observed * dB
        C = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device) + Bo.mT @ Bo
        R = torch.cholesky_solve(Bo.mT, torch.linalg.cholesky(C)).mT  # B_o C⁻¹
        image = dBo @ (Bo.mT @ R) + Bo @ (dBo.mT @ R) + delta.unsqueeze(-1) * R
        by_factor = by_factor + (w * (image - R @ (Bo.mT @ image))).sum(0)
        leverage = (R * Bo).sum(-1)
        inner = R.mT @ (delta.unsqueeze(-1) * R)
        by_delta = (observed.squeeze(-1) - 2 * leverage) * delta + ((Bo @ inner) * Bo).sum(-1)
        by_loadings = ((dBo - R @ (Bo.mT @ dBo)) * R).sum(-1)
        by_log = by_log + (w.squeeze(-1) * (by_loadings + 0.5 * by_delta)).sum(0)
        shift = observed * mean.unsqueeze(-1)
        by_mean = by_mean + (w * (shift - R @ (Bo.mT @ shift))).sum(0).squeeze(-1)
    return {"mean": by_mean / root, "cov_factor": by_factor / root.unsqueeze(-1), "cov_diag": by_log}


def step(sample: SufficientStatistics, mean: Tensor, W: Tensor, v: Tensor, lower: float) -> tuple[Tensor, Tensor, Tensor]:
    """One EM step, in which the factors, but not the missing entries, are the complete data.

    Each variable is regressed on (ŵ, 1) over the rows that observe it, with C⁻¹ added to the second moments of ŵ. Its unique
    variance is the residual variance, or the lower bound.

    Source: Rubin & Thayer 1982, *EM algorithms for ML factor analysis*.
    """
    d, k = W.shape
    normal, right, square, total = v.new_zeros(d, (k + 1) ** 2), v.new_zeros(d, k + 1), v.new_zeros(d), v.new_zeros(d)
    for chunk in posteriors(sample, mean, W, v):
        z = torch.cat([chunk.means, torch.ones_like(chunk.means[:, :1])], -1)
        moments = z.unsqueeze(-1) * z.unsqueeze(-2)
        moments[:, :k, :k] += chunk.covariances
        weights = chunk.weights * chunk.observed
        normal, right = normal + weights.mT @ moments.flatten(1), right + (weights * chunk.x).mT @ z
        square, total = square + (weights * chunk.x * chunk.x).sum(0), total + weights.sum(0)
    slopes = torch.linalg.solve(normal.reshape(d, k + 1, k + 1), right)
    residual = (square - (slopes * right).sum(-1)) / total
    return slopes[:, k], slopes[:, :k], residual.clamp(min=lower)


def iterate(sample: SufficientStatistics, W: Tensor, v: Tensor, lower: float, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean, W and v after the given number of EM steps, starting at the sample mean."""
    mean = torch.zeros_like(sample.origin)
    for _ in range(steps):
        mean, W, v = step(sample, mean, W, v, lower)
    return mean, W, v
