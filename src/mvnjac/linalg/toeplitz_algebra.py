"""What is done with a symmetric Toeplitz matrix Σ of first column c, without forming it.

The factorisation is Schur's recursion, which gives the Cholesky factor column by column, as accurate as any (Bojanczyk, Brent, de
Hoog & Sweet 1995, *On the stability of the Bareiss and related Toeplitz factorization algorithms*); Durbin's, which gives
predictors, loses definiteness long before. What is done with Σ⁻¹ is done by its first column u alone, through the formula of
Gohberg & Semencul (1972): with L(u) the lower triangular Toeplitz matrix of first column u, and ũ = (0, u_{d−1}, …, u₁),

    Σ⁻¹ = (L(u) L(u)ᵀ − L(ũ) L(ũ)ᵀ) / u₀

so that products and sums over diagonals are fast Fourier transforms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.linalg.padding import pad
from mvnjac.linalg.triangular import solve_rows
from mvnjac.tensors.tracing import constant_size

#: so many columns of L meet the rows at once: matrix products at full speed, and never more than this times d
_BLOCK = 64

# --- the recursion ----------------------------------------------------------------------------------------------------


def schur(c: Tensor) -> Tensor:
    """(..., d) → (..., 3, d): partial autocorrelations (0 at order 0), prediction variances, the first column of Σ⁻¹.

    The variances are NaN from the first order on that leaves none: then Σ is not positive definite.
    """
    ahead, behind, variance = c, c[..., 1:], c[..., :1]
    predictor, partials, variances = torch.ones_like(variance), [torch.zeros_like(variance)], [variance]
    for _ in range(1, c.shape[-1]):
        ahead, behind, partial = next_order(ahead, behind)
        # the weights (1, −φ₁, …) of the prediction error; addcmul of what has no tangent crashes torch 2.13 under compile
        longer = pad(predictor, (0, 1))
        predictor = longer - partial * longer.flip(-1)
        partials.append(partial)
        variances.append(ahead[..., :1].clone())  # not a view, which would keep all of the column
    every = torch.cat(variances, -1)
    every = torch.where((every > 0).to(torch.uint8).cummin(-1).values > 0, every, torch.nan)
    return torch.stack([torch.cat(partials, -1), every, predictor / every[..., -1:]], -2)


def next_order(ahead: Tensor, behind: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of Schur's recursion, order k − 1 → k, with the partial autocorrelation at lag k.

    ahead: (..., d − k + 1) the covariance of each variable from k − 1 on with the error of predicting variable k − 1 from all before
    it, which is column k − 1 of L times its prediction deviation; behind: (..., d − k) the same from k on with the error of
    predicting variable 0 backwards. They predict each other's next.
    """
    ahead = ahead[..., :-1]
    partial = behind[..., :1] / ahead[..., :1]
    return ahead - partial * behind, (behind - partial * ahead)[..., 1:], partial


def innovations(rows: Tensor, c: Tensor, variances: Tensor) -> Tensor:
    """L⁻¹ r for rows r (..., n, d) by forward substitution, the columns of L made block by block: c, variances (..., d)."""
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
    """(..., d) → (..., d, d): the symmetric matrix of first column c."""
    lags = torch.arange(c.shape[-1], dtype=torch.long, device=c.device)
    return c[..., (lags.unsqueeze(-1) - lags).abs()]


def toeplitz_times(c: Tensor, v: Tensor) -> Tensor:
    """The symmetric Toeplitz matrix of first column c, times v: within a circulant one, whose spectrum is real."""
    return signal((2 * spectrum(c).real - c[..., :1]) * spectrum(v), constant_size(v))


def inverse_times(u: Tensor, v: Tensor) -> Tensor:
    """Σ⁻¹ v by the formula of Gohberg & Semencul, u the first column of Σ⁻¹."""
    d, image, u = constant_size(u), spectrum(v), u / u[..., :1].sqrt()
    first, second = spectrum(u), spectrum(pad(u[..., 1:].flip(-1), (1, 0)))
    inner, outer = signal(first.conj() * image, d), signal(second.conj() * image, d)
    return signal(first * spectrum(inner) - second * spectrum(outer), d)


def newton(c: Tensor, u: Tensor) -> Tensor:
    """The first column of Σ⁻¹ from one nearby, by three of Newton's steps for Σ u = e₀.

    Each step doubles the number of derivatives by c that are right. If the value is, without a graph, three make them exact through
    the seventh.
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
    """Half of the first entry: the diagonal is there once, every other lag on both sides of it."""
    return torch.cat([0.5 * lags[..., :1], lags[..., 1:]], -1)


def spectrum(v: Tensor) -> Tensor:
    """The Fourier transform, padded by zeros so that nothing wraps around: to a power of two, at least 2d − 1."""
    d = constant_size(v)
    if v.numel() == 0:  # which MKL refuses to transform
        return pad(v, (0, _length(d) // 2 + 1 - d)).to(v.dtype.to_complex())
    return torch.fft.rfft(v, n=_length(d))


def signal(image: Tensor, d: int) -> Tensor:
    """The first d entries of what has this Fourier transform, real or complex."""
    if image.numel() == 0:
        return image.real[..., :d]
    return torch.fft.irfft(image, n=_length(d))[..., :d]


def _length(d: int) -> int:
    return 2 << (d - 1).bit_length()
