"""The one table of tolerances: |actual − expected| ≤ c · κ(Σ) · eps(dtype) · the largest expected entry."""

from __future__ import annotations

import torch
from torch import Tensor

#: c, by what is compared with what
FACTOR = {
    "oracle": 10,  # against numbers good to the last digit (mpmath)
    "twin": 40,  # against another floating-point computation, which errs itself
    "kernels": 4,  # with the compiled kernels, against without them
}


def condition(covariance: Tensor) -> float:
    """κ(Σ) of Σ scaled to unit diagonal: errors are seen in each variable's own units. The largest in a batch."""
    scale = covariance.double().diagonal(dim1=-2, dim2=-1).sqrt()
    scaled = covariance.double() / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    return max(float(torch.linalg.cond(scaled).max()) if scaled.numel() else 1.0, 1.0)


def assert_close(
    actual: Tensor, expected: Tensor, kappa: float, against: str = "twin", what: str = "", scale: float | None = None
) -> None:
    """Shapes are equal, and no entry is off by more than the tolerance; a failure names the worst entry.

    scale: what errors are relative to, where sums cancel (the sum of the absolute terms); else the largest expected entry.
    """
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if actual.numel() == 0:
        return
    error = (actual.double() - expected.double()).abs()
    scale = float(expected.abs().max()) if scale is None else scale
    allowed = FACTOR[against] * kappa * torch.finfo(actual.dtype).eps * max(scale, 1e-300)
    worst = error.flatten().argmax()
    assert bool(error.max() <= allowed), (
        f"{what}: got {actual.flatten()[worst].item()!r}, expected {expected.flatten()[worst].item()!r} at flat index "
        f"{int(worst)} of {tuple(actual.shape)}; off by {float(error.max()):.3g}, allowed {allowed:.3g}"
    )
