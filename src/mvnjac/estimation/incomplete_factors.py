"""A factor model at rows with missing entries: likelihood, score, information and EM's step, all rows side by side.

In units of the unique standard deviations u = diag(v)^-½ (x − µ) and B = diag(v)^-½ W. A row that observes o has factors of the mean
ŵ = C⁻¹ B_oᵀ u_o and of the covariance C⁻¹, C = I + B_oᵀ B_o, given what it observes, and leaves e = u_o − B_o ŵ:

    log p = −½ (|o| log 2π + Σ_o log v + log |C| + ‖e‖² + ‖ŵ‖²)

Each row has its own C; nothing is larger than rows × variables × factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mvnjac.statistics.sufficient import SufficientStatistics

#: numbers that are held of rows that are gone through together
_NUMBERS = 2**21


class Rows:
    """Some rows, and their factors given what they observe.

    Attributes:
        weights: (m, 1); seen: (m, d) 1 where an entry is observed, else 0; x: (m, d) the rows, 0 where nothing is.
        B: (d, k); u: (m, d); covariances: (m, k, k) C⁻¹; z: (m, k) ŵ; log_dets: (m,) log |C|.
    """

    def __init__(self, rows: Tensor, weights: Tensor, mean: Tensor, W: Tensor, v: Tensor) -> None:
        k, root = W.shape[-1], v.sqrt()
        self.weights, self.seen, self.x = weights.unsqueeze(-1), (~rows.isnan()).to(W), rows.nan_to_num()
        self.B, self.u = W / root.unsqueeze(-1), self.seen * (self.x - mean) / root
        squares = (self.B.unsqueeze(-1) * self.B.unsqueeze(-2)).reshape(len(W), k * k)
        C = torch.eye(k, dtype=W.dtype, device=W.device) + (self.seen @ squares).reshape(-1, k, k)
        tril = torch.linalg.cholesky(C)
        self.log_dets = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self.covariances = torch.cholesky_inverse(tril)
        self.z = (self.covariances @ (self.u @ self.B).unsqueeze(-1)).squeeze(-1)


def parts(sample: SufficientStatistics, mean: Tensor, W: Tensor, v: Tensor) -> Iterator[Rows]:
    """The rows of a sample, some at a time."""
    step = max(1, _NUMBERS // (W.numel() + W.shape[-1] ** 2))
    for rows, weights in zip(sample.rows.split(step), sample.weights.split(step), strict=True):
        yield Rows(rows, weights, mean, W, v)


def totals(sample: SufficientStatistics, mean: Tensor, W: Tensor, v: Tensor) -> tuple[float, dict[str, Tensor]]:
    """The log-likelihood of all observations, and its gradients by the mean, W and v."""
    root, d = v.sqrt(), len(v)
    value, by_mean, squares, common = 0.0, torch.zeros_like(v), torch.zeros_like(v), torch.zeros_like(W)
    covariance = W.new_zeros(d, W.shape[-1] ** 2)  # Σ w C⁻¹ over the rows that have a variable
    for some in parts(sample, mean, W, v):
        e = some.seen * (some.u - some.z @ some.B.mT)
        constant = some.seen @ (v.log() + math.log(2 * math.pi)) + some.log_dets
        value -= 0.5 * float(some.weights.squeeze(-1) @ (constant + (e * e).sum(-1) + (some.z * some.z).sum(-1)))
        weighted = some.weights * e
        by_mean, squares = by_mean + weighted.sum(0), squares + (weighted * e).sum(0)
        common = common + weighted.mT @ some.z
        covariance = covariance + (some.weights * some.seen).mT @ some.covariances.flatten(1)
    B = W / root.unsqueeze(-1)
    pulled = (B.unsqueeze(-2) @ covariance.reshape(d, *W.shape[-1:], -1)).squeeze(-2)
    count = (sample.weights.unsqueeze(-1) * ~sample.rows.isnan()).sum(0)
    return value, {
        "mean": by_mean / root,
        "cov_factor": (common - pulled) / root.unsqueeze(-1),
        "cov_diag": 0.5 * (squares - count + (pulled * B).sum(-1)) / v,
    }


def information(sample: SufficientStatistics, W: Tensor, v: Tensor, change: dict[str, Tensor]) -> dict[str, Tensor]:
    """The expected information of all observations times a change of the mean, W and log v, by these.

    With P* = I − B_o C⁻¹ B_oᵀ the precision of u_o and D = dB Bᵀ + B dBᵀ + diag(δ) the change of its covariance: by B, P* D B_o C⁻¹; by
    log v, ½ diag(P* D P*).
    """
    root = v.sqrt()
    mean, dB, delta = change["mean"] / root, change["cov_factor"] / root.unsqueeze(-1), change["cov_diag"]
    by_mean, by_factor, by_log = torch.zeros_like(v), torch.zeros_like(W), torch.zeros_like(v)
    step = max(1, _NUMBERS // W.numel())
    B = W / root.unsqueeze(-1)
    for observed, weights in zip(sample.observed.split(step), sample.multiplicity.split(step), strict=True):
        seen, w = observed.to(W).unsqueeze(-1), weights.reshape(-1, 1, 1)
        Bo, dBo = seen * B, seen * dB
        C = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device) + Bo.mT @ Bo
        R = torch.cholesky_solve(Bo.mT, torch.linalg.cholesky(C)).mT  # B_o C⁻¹
        image = dBo @ (Bo.mT @ R) + Bo @ (dBo.mT @ R) + delta.unsqueeze(-1) * R
        by_factor = by_factor + (w * (image - R @ (Bo.mT @ image))).sum(0)
        leverage = (R * Bo).sum(-1)
        inner = R.mT @ (delta.unsqueeze(-1) * R)
        own = (seen.squeeze(-1) - 2 * leverage) * delta + ((Bo @ inner) * Bo).sum(-1)
        crossed = ((dBo - R @ (Bo.mT @ dBo)) * R).sum(-1)
        by_log = by_log + (w.squeeze(-1) * (crossed + 0.5 * own)).sum(0)
        shift = seen * mean.unsqueeze(-1)
        by_mean = by_mean + (w * (shift - R @ (Bo.mT @ shift))).sum(0).squeeze(-1)
    return {"mean": by_mean / root, "cov_factor": by_factor / root.unsqueeze(-1), "cov_diag": by_log}


def step(sample: SufficientStatistics, mean: Tensor, W: Tensor, v: Tensor, lower: float) -> tuple[Tensor, Tensor, Tensor]:
    """One step of EM, which completes the factors, but not the missing entries: each variable is regressed on (ŵ, 1) over the rows that
    have it, C⁻¹ being added to the moments; its unique variance is what is left, or the bound.

    Source: Rubin & Thayer 1982, *EM algorithms for ML factor analysis*.
    """
    d, k = W.shape
    normal, right, square, total = v.new_zeros(d, (k + 1) ** 2), v.new_zeros(d, k + 1), v.new_zeros(d), v.new_zeros(d)
    for some in parts(sample, mean, W, v):
        z = torch.cat([some.z, torch.ones_like(some.z[:, :1])], -1)
        moments = z.unsqueeze(-1) * z.unsqueeze(-2)
        moments[:, :k, :k] += some.covariances
        weights = some.weights * some.seen
        normal, right = normal + weights.mT @ moments.flatten(1), right + (weights * some.x).mT @ z
        square, total = square + (weights * some.x * some.x).sum(0), total + weights.sum(0)
    slopes = torch.linalg.solve(normal.reshape(d, k + 1, k + 1), right)
    left = (square - (slopes * right).sum(-1)) / total
    return slopes[:, k], slopes[:, :k], left.clamp(min=lower)


def improved(sample: SufficientStatistics, W: Tensor, v: Tensor, lower: float, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean, W and v after some steps of EM from the sample's own mean."""
    mean = torch.zeros_like(sample.origin)
    for _ in range(steps):
        mean, W, v = step(sample, mean, W, v, lower)
    return mean, W, v
