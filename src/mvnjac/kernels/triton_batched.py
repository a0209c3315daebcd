"""A batch of small Gaussians, one Σ each, on a GPU: `reference.small_gaussians` in one pass over the memory.

A program holds some Gaussians in registers, each as a square matrix W and accumulated sums. Step j of the elimination takes
column j of the Schur complement of Σ and computes row j of C = L⁻¹ by forward substitution:

    lᵢ = Wᵢⱼ / √Wⱼⱼ (i > j)    g = (Wⱼ₀, …, Wⱼ,ⱼ₋₁, 1, Wⱼ,ⱼ₊₁, …) / √Wⱼⱼ    Wᵢ ← Wᵢ − lᵢ g (i > j, with Wᵢⱼ ← 0 first)    Wⱼ ← g

so that the columns up to j of W hold C, and the others the Schur complement. Row j of C gives zⱼ and the j-th terms of a = Cᵀ
z and Σ⁻¹ = Cᵀ C. Each value is computed as in a triangular solve, with the same accuracy. This module is imported only where a
kernel is launched, since triton is optional.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from mvnjac.kernels.reference import Gaussians

#: matrix entries per warp (16 per thread; more would be spilled from registers), and the largest number of matrices per program
_ENTRIES, _MATRICES = 512, 64


@triton.jit
def _root(t):
    """√t, correctly rounded (IEEE 754), as is the quotient below."""
    return tl.sqrt(t) if t.dtype == tl.float64 else tl.sqrt_rn(t)


@triton.jit
def _quotient(t, u):
    return t / u if t.dtype == tl.float64 else tl.div_rn(t, u)


@triton.jit
def _small_gaussians(
    x, mean, covariance, log_prob, scaled, gradient, info,
    count,
    x_stride, mean_stride, covariance_stride, row_stride, column_stride,
    LOG_TWO_PI: tl.constexpr, SYMMETRY: tl.constexpr, CHECK: tl.constexpr, GRADIENT: tl.constexpr,
    D: tl.constexpr, EACH: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    dtype = x.dtype.element_ty
    b = tl.program_id(0).to(tl.int64) * EACH + tl.arange(0, EACH)
    i = tl.arange(0, SIDE)
    in_batch = b < count
    vector = in_batch[:, None] & (i < D)[None, :]
    square = vector[:, :, None] & (i < D)[None, None, :]
    row, column = i[None, :, None], i[None, None, :]

    lower, upper = tl.maximum(row, column), tl.minimum(row, column)
    place = b[:, None, None] * covariance_stride + lower.to(tl.int64) * row_stride + upper.to(tl.int64) * column_stride
    W = tl.load(covariance + place, mask=square, other=0)
    if CHECK:
        place = b[:, None, None] * covariance_stride + row.to(tl.int64) * row_stride + column.to(tl.int64) * column_stride
        difference = tl.abs(W - tl.load(covariance + place, mask=square, other=0))
        scale = _root(tl.abs(tl.sum(tl.where(row == column, W, 0), 2)))
        allowed = tl.full((), SYMMETRY, dtype) * scale[:, :, None] * scale[:, None, :]
        asymmetric = tl.sum(tl.sum(tl.where(difference <= allowed, 0, 1), 2), 1) > 0  # also for NaN
    W = tl.where(in_batch[:, None, None], W, tl.where(row == column, 1, 0).to(dtype))
    r = tl.load(x + b[:, None] * x_stride + i[None, :], mask=vector, other=0)
    r -= tl.load(mean + b[:, None] * mean_stride + i[None, :], mask=vector, other=0)
    if GRADIENT:
        P = tl.zeros((EACH, SIDE, SIDE), dtype)
    a = tl.zeros((EACH, SIDE), dtype)
    squares = tl.zeros((EACH,), dtype)
    log_det = tl.zeros((EACH,), dtype)
    failed = tl.zeros((EACH,), tl.int32)

    for j in range(D):
        at_column = tl.sum(tl.where(column == j, W, 0), 2)
        at_row = tl.sum(tl.where(row == j, W, 0), 1)
        pivot = tl.sum(tl.where((i == j)[None, :], at_column, 0), 1)
        failed = tl.where((failed == 0) & ~(pivot > 0), j + 1, failed)
        sound = failed == 0
        root = _root(tl.where(sound, pivot, 1))
        # For a Gaussian that has failed the elimination continues with zeros.
        below = _quotient(tl.where((i > j)[None, :] & sound[:, None], at_column, 0), root[:, None])
        g = tl.where((i == j)[None, :], 1, tl.where(sound[:, None], at_row, 0))
        g = _quotient(g, root[:, None])
        z = _quotient(tl.sum(tl.where((i == j)[None, :], r, 0), 1), root)
        W = tl.where(row == j, g[:, None, :], tl.where(column == j, 0, W) - below[:, :, None] * g[:, None, :])
        r -= below * z[:, None]
        c = tl.where((i <= j)[None, :], g, 0)
        if GRADIENT:
            P += c[:, :, None] * c[:, None, :]
        a += c * z[:, None]
        squares += z * z
        log_det += tl.log(root)

    nan = tl.full((), float("nan"), dtype)
    value = -0.5 * (tl.full((), LOG_TWO_PI * D, dtype) + squares) - log_det
    if CHECK:
        failed = tl.where((failed == 0) & (asymmetric | ~(tl.abs(value) < float("inf"))), -1, failed)
    tl.store(info + b, failed, mask=in_batch)
    tl.store(log_prob + b, tl.where(failed == 0, value, nan), mask=in_batch)
    tl.store(scaled + b[:, None] * D + i[None, :], tl.where((failed == 0)[:, None], a, nan), mask=vector)
    if GRADIENT:
        G = 0.5 * (a[:, :, None] * a[:, None, :] - P)
        place = (b[:, None, None] * D + row) * D + column
        tl.store(gradient + place, tl.where((failed == 0)[:, None, None], G, nan), mask=square)


def small_gaussians(
    x: Tensor, mean: Tensor, covariance: Tensor, *, gradient: bool = True, symmetry: float | None = None
) -> Gaussians:
    """`reference.small_gaussians` in one kernel: x (B, d), mean (B, d), covariance (B, d, d), possibly expanded; d ≤ 64."""
    count, d = x.shape
    result = Gaussians(
        _empty(count, like=x),
        _empty(count, d, like=x),
        _empty(count, d, d, like=x) if gradient else None,
        _empty(count, like=x, dtype=torch.int32),
    )
    if count == 0:
        return result
    x, mean = (t if t.stride(-1) == 1 else t.contiguous() for t in (x, mean))
    launch = settings(d, count)
    _small_gaussians[(triton.cdiv(count, launch["EACH"]),)](
        x, mean, covariance, *result,
        count,
        x.stride(0), mean.stride(0), *covariance.stride(),
        LOG_TWO_PI=math.log(2 * math.pi), SYMMETRY=symmetry or 0.0, CHECK=symmetry is not None, GRADIENT=gradient, D=d, **launch,
    )  # fmt: skip
    return result


def settings(d: int, count: int) -> dict[str, int]:
    """The number of Gaussians per program, the side of their padded matrices, and the number of warps.

    Up to d = 16 a program is one warp, which needs no synchronisation; for larger d it has as many warps as one matrix needs.
    """
    side = triton.next_power_of_2(d)
    each = max(min(_ENTRIES // side**2, _MATRICES, triton.next_power_of_2(count)), 1)
    return {"EACH": each, "SIDE": side, "num_warps": max(side**2 // _ENTRIES, 1)}


def _empty(*shape: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
