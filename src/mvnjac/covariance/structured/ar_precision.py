"""The bands of the exact precision matrix of a stationary autoregression."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.covariance.base import same_kind
from mvnjac.errors import NotPositiveDefiniteError, ShapeError
from mvnjac.linalg.padding import pad
from mvnjac.parameters import checks
from mvnjac.tensors.broadcasting import batch_shape
from mvnjac.tensors.tracing import is_concrete, unwrap

_FUNCTION = "BandedPrecision.autoregressive"


def autoregressive_bands(coefficients: Tensor, variance: Tensor, d: int) -> Tensor:
    """(..., p + 1, d) the bands of the precision matrix of d consecutive values (see `BandedPrecision.autoregressive`)."""
    checks.floating(_FUNCTION, "coefficients", coefficients)
    checks.floating(_FUNCTION, "variance", variance)
    same_kind(_FUNCTION, "coefficients", coefficients, "variance", variance)
    if coefficients.ndim == 0 or coefficients.shape[-1] >= d:
        raise ShapeError(
            f"{_FUNCTION}: coefficients have shape {tuple(coefficients.shape)}, and d is {d}; expected (..., p) with p < d: the "
            "precision matrix of fewer values is not banded; use Precision for it."
        )
    if is_concrete(coefficients, variance):
        with torch.no_grad():
            _require_stationary(unwrap(coefficients))
            _require_positive(unwrap(variance))
    a = polynomial(coefficients)
    return correlated_bands(a, a, d) / variance[..., None, None]


def polynomial(coefficients: Tensor) -> Tensor:
    """(..., p + 1) a = (1, −φ₁, …, −φ_p)."""
    return torch.cat([coefficients.new_ones((*batch_shape(coefficients, 1), 1)), -coefficients], -1)


def correlated_bands(a: Tensor, b: Tensor, d: int) -> Tensor:
    """(..., p + 1, d) the bands of σ² P for a = b; in general the symmetric bilinear form of a and b, both (..., p + 1)."""
    p, rows = a.shape[-1] - 1, []
    for k in range(p + 1):
        products = 0.5 * (a[..., k:] * b[..., : p + 1 - k] + b[..., k:] * a[..., : p + 1 - k])
        sums = products.cumsum(-1)  # C_k(0), …, C_k(p − k)
        last = torch.arange(d - k, dtype=torch.long, device=a.device).clamp(max=p - k)
        row = sums.index_select(-1, last) + sums.index_select(-1, last.flip(0)) - sums[..., -1:]
        rows.append(pad(row, (0, k)))
    return torch.stack(rows, -2)


def partial_autocorrelations(coefficients: Tensor) -> Tensor:
    """(..., p) by the reverse Durbin–Levinson recursion; NaN for the orders below one at which it is ±1."""
    shorter = coefficients
    partials: list[Tensor] = []
    for _ in range(coefficients.shape[-1]):
        last = shorter[..., -1:]
        partials.insert(0, last)
        shorter = (shorter[..., :-1] + last * shorter[..., :-1].flip(-1)) / (1 - last * last)
    return torch.cat([*partials, coefficients[..., :0]], -1)


def not_stationary(coefficients: Tensor) -> str | None:
    """The error message if the coefficients are not those of a stationary autoregression; None if they are."""
    partials = partial_autocorrelations(coefficients)
    bad = ~(partials.abs() < 1)
    if not bool(bad.any()):
        return None
    *batch, _ = bad.nonzero()[0].tolist()
    order = int(bad[tuple(batch)].nonzero().max()) + 1
    return (
        f"coefficients {coefficients[tuple(batch)].tolist()} are not those of a stationary autoregression: the partial "
        f"autocorrelation of order {order} is {partials[(*batch, order - 1)].item():.6g}; it must lie between -1 and 1."
    )


def _require_stationary(coefficients: Tensor) -> None:
    message = not_stationary(coefficients)
    if message is not None:
        raise NotPositiveDefiniteError(f"{_FUNCTION}: {message}")


def _require_positive(variance: Tensor) -> None:
    bad = ~(variance > 0)
    if bool(bad.any()):
        worst = variance[bad][0].item()
        raise NotPositiveDefiniteError(f"{_FUNCTION}: variance is {worst!r}; the innovations' variance must be positive.")
