"""Operations with a symmetric Toeplitz matrix Σ with first column c, without forming it.

Schur's recursion gives the Cholesky factor column by column and is numerically stable (Bojanczyk, Brent, de Hoog & Sweet 1995,
*On the stability of the Bareiss and related Toeplitz factorization algorithms*); Durbin's recursion, which gives predictors,
breaks down for much smaller condition numbers. Operations with Σ⁻¹ need only its first column u, by the formula of Gohberg &
Semencul (1972): with L(u) the lower triangular Toeplitz matrix with first column u, and ũ = (0, u_{d−1}, …, u₁),

    Σ⁻¹ = (L(u) L(u)ᵀ − L(ũ) L(ũ)ᵀ) / u₀

so that products and sums over diagonals are fast Fourier transforms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.linalg.padding import pad
from mvnjac.linalg.triangular import solve_rows
from mvnjac.tensors.tracing import constant_size

#: the number of columns of L per block: matrix products run at full speed, with memory for this number times d
_BLOCK = 64

# --- the recursion ----------------------------------------------------------------------------------------------------


def schur(c: Tensor) -> Tensor:
    """(..., d) → (..., 3, d): partial autocorrelations (0 at order 0), prediction variances, and the first column of Σ⁻¹.

    If Σ is not positive definite, the variances are NaN from the first order with a non-positive variance.
    """
    ahead, behind, variance = c, c[..., 1:], c[..., :1]
    predictor, partials, variances = torch.ones_like(variance), [torch.zeros_like(variance)], [variance]
    for _ in range(1, c.shape[-1]):
        ahead, behind, partial = next_order(ahead, behind)
        # the weights (1, −φ₁, …) of the prediction error; torch 2.13 crashes under compile for addcmul without tangents
        longer = pad(predictor, (0, 1))
        predictor = longer - partial * longer.flip(-1)
        partials.append(partial)
        variances.append(ahead[..., :1].clone())  # a view would keep the whole column in memory
    all_variances = torch.cat(variances, -1)
    positive = (all_variances > 0).to(torch.uint8).cummin(-1).values > 0
    all_variances = torch.where(positive, all_variances, torch.nan)
    return torch.stack([torch.cat(partials, -1), all_variances, predictor / all_variances[..., -1:]], -2)


def next_order(ahead: Tensor, behind: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of Schur's recursion, order k − 1 → k: the next `ahead` and `behind`, and the partial autocorrelation at lag k.

    ahead: (..., d − k + 1) the covariances of the variables k − 1, k, … with the error of predicting variable k − 1 from all
    previous ones; this is column k − 1 of L times the standard deviation of the error. behind: (..., d − k) the covariances of
    the variables k, k + 1, … with the error of the backward prediction of variable 0.
    """
    ahead = ahead[..., :-1]
    partial = behind[..., :1] / ahead[..., :1]
    return ahead - partial * behind, (behind - partial * ahead)[..., 1:], partial


def innovations(rows: Tensor, c: Tensor, variances: Tensor) -> Tensor:
    """L⁻¹ r for rows r (..., n, d) by forward substitution, with L formed by blocks of columns: c, variances (..., d)."""
    ahead, behind, roots = c, c[..., 1:], variances.sqrt()
    d, blocks = rows.shape[-1], []
    for first in range(0, d, _BLOCK):
        size, columns = min(_BLOCK, d - first), []
        for j in range(size):
            if first or j:
                ahead, behind, _ = next_order(ahead, behind)
            columns.append(pad(ahead, (j, 0)))
        panel = torch.stack(columns, -2) / roots[..., first : first + size].unsqueeze(-1)
        blocks.append(solve_rows(rows[..., :size], panel[..., :size].mT))
        rows = rows[..., size:] - blocks[-1] @ panel[..., size:]
    return torch.cat(blocks, -1)


# --- by fast Fourier transforms ---------------------------------------------------------------------------------------


def toeplitz(c: Tensor) -> Tensor:
    """(..., d) → (..., d, d): the symmetric Toeplitz matrix with first column c."""
    lags = torch.arange(c.shape[-1], dtype=torch.long, device=c.device)
    return c[..., (lags.unsqueeze(-1) - lags).abs()]


def toeplitz_times(c: Tensor, v: Tensor) -> Tensor:
    """Σ v, by embedding Σ into a circulant matrix, whose spectrum is real."""
    return signal((2 * spectrum(c).real - c[..., :1]) * spectrum(v), constant_size(v))


def inverse_times(u: Tensor, v: Tensor) -> Tensor:
    """Σ⁻¹ v by the formula of Gohberg & Semencul, with u the first column of Σ⁻¹."""
    d, image, u = constant_size(u), spectrum(v), u / u[..., :1].sqrt()
    first, second = spectrum(u), spectrum(pad(u[..., 1:].flip(-1), (1, 0)))
    inner, outer = signal(first.conj() * image, d), signal(second.conj() * image, d)
    return signal(first * spectrum(inner) - second * spectrum(outer), d)


def newton(c: Tensor, u: Tensor) -> Tensor:
    """The first column of Σ⁻¹ by three Newton steps for Σ u = e₀ from an approximation u.

    Each step doubles the number of derivatives with respect to c that are correct: starting with the exact value without an
    autograd graph, three steps make the derivatives up to the seventh exact.
    """
    unit = pad(torch.ones_like(c[..., :1]), (0, c.shape[-1] - 1))
    for _ in range(3):
        u = u + inverse_times(u, unit - toeplitz_times(c, u))
    return u


def autocorrelation(a: Tensor) -> Tensor:
    """Σᵢ aᵢ aᵢ₊ₖ for each lag k."""
    image = spectrum(a)
    return signal(image.real.square() + image.imag.square(), constant_size(a))


def weighted_lags(x: Tensor, y: Tensor) -> Tensor:
    """Σₜ (d/2 − t) (xₜ₊ₖ yₜ) + (d/2 − t − k) (xₜ yₜ₊ₖ) for each lag k; with x = y, Σₜ (d − k − 2t) xₜ xₜ₊ₖ."""
    d = constant_size(y)
    weights = 0.5 * d - torch.arange(d, dtype=y.dtype, device=y.device)
    left, right = spectrum(x), spectrum(weights * y)
    return 2 * signal(left.real * right.real + left.imag * right.imag, d)


def half_at_first(lags: Tensor) -> Tensor:
    """The lags with the first one halved, since the diagonal occurs once in the matrix and every other lag twice."""
    return torch.cat([0.5 * lags[..., :1], lags[..., 1:]], -1)


def spectrum(v: Tensor) -> Tensor:
    """The Fourier transform, padded with zeros to a power of two of at least 2d − 1, so that products do not wrap around."""
    d = constant_size(v)
    if v.numel() == 0:  # MKL does not support empty transforms
        return pad(v, (0, _length(d) // 2 + 1 - d)).to(v.dtype.to_complex())
    return torch.fft.rfft(v, n=_length(d))


def signal(image: Tensor, d: int) -> Tensor:
    """The first d entries of the inverse Fourier transform."""
    if image.numel() == 0:
        return image.real[..., :d]
    return torch.fft.irfft(image, n=_length(d))[..., :d]


def _length(d: int) -> int:
    return 2 << (d - 1).bit_length()
