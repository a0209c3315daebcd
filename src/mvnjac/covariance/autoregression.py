"""The exact precision of a stationary autoregression, as bands."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from mvnjac.arithmetic import below, concrete
from mvnjac.batches import batch_shape
from mvnjac.covariance import checks
from mvnjac.covariance.base import same_kind
from mvnjac.errors import NotPositiveDefiniteError, ShapeError

_FUNCTION = "BandedPrecision.autoregressive"


def autoregressive_bands(coefficients: Tensor, variance: Tensor, d: int) -> Tensor:
    """(..., p + 1, d) the bands of the inverse covariance of d consecutive values: see `BandedPrecision.autoregressive`."""
    checks.floating(_FUNCTION, "coefficients", coefficients)
    checks.floating(_FUNCTION, "variance", variance)
    same_kind(_FUNCTION, "coefficients", coefficients, "variance", variance)
    if coefficients.ndim == 0 or coefficients.shape[-1] >= d:
        raise ShapeError(
            f"{_FUNCTION}: coefficients have shape {tuple(coefficients.shape)}, and d is {d}; expected (..., p) with p < d: so few "
            "values have a precision without zeros; give that to Precision."
        )
    if concrete(coefficients, variance):
        with torch.no_grad():
            _require_stationary(below(coefficients))
            _require_positive(below(variance))
    p = coefficients.shape[-1]
    a = torch.cat([coefficients.new_ones((*batch_shape(coefficients, 1), 1)), -coefficients], -1)
    rows = []
    for k in range(p + 1):
        sums = (a[..., k:] * a[..., : p + 1 - k]).cumsum(-1)  # C_k(0), …, C_k(p − k)
        known = torch.arange(d - k, device=a.device).clamp(max=p - k)
        row = sums.index_select(-1, known) + sums.index_select(-1, known.flip(0)) - sums[..., -1:]
        rows.append(pad(row, (0, k)))
    return torch.stack(rows, -2) / variance[..., None, None]


def _require_stationary(coefficients: Tensor) -> None:
    """All partial autocorrelations, by the Durbin–Levinson recursion run backwards, lie between −1 and 1."""
    shorter = coefficients
    for order in range(coefficients.shape[-1], 0, -1):
        partial = shorter[..., -1]
        bad = ~(partial.abs() < 1)
        if bool(bad.any()):
            batch = bad.nonzero()[0].tolist()
            raise NotPositiveDefiniteError(
                f"{_FUNCTION}: coefficients {coefficients[tuple(batch)].tolist()} are not those of a stationary autoregression: the "
                f"partial autocorrelation of order {order} is {partial[tuple(batch)].item():.6g}; it must lie between -1 and 1."
            )
        rest, last = shorter[..., :-1], partial.unsqueeze(-1)
        shorter = (rest + last * rest.flip(-1)) / (1 - last * last)


def _require_positive(variance: Tensor) -> None:
    bad = ~(variance > 0)
    if bool(bad.any()):
        worst = variance[bad][0].item()
        raise NotPositiveDefiniteError(f"{_FUNCTION}: variance is {worst!r}; the innovations' variance must be positive.")
