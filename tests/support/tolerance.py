"""The tolerances of all tests: |actual − expected| ≤ c · κ(Σ) · eps(dtype) · the largest expected entry."""

from __future__ import annotations

import torch
from torch import Tensor

#: c, by the kind of comparison
FACTOR = {
    "oracle": 10,  # against exactly rounded numbers (mpmath)
    "twin": 40,  # against another floating-point computation
    "kernels": 4,  # with the compiled kernels against without
}


def condition(covariance: Tensor) -> float:
    """The condition number of Σ scaled to unit diagonal; the largest of a batch."""
    scale = covariance.double().diagonal(dim1=-2, dim2=-1).sqrt()
    scaled = covariance.double() / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    return max(float(torch.linalg.cond(scaled).max()) if scaled.numel() else 1.0, 1.0)


def assert_close(
    actual: Tensor, expected: Tensor, kappa: float, against: str = "twin", what: str = "", scale: float | None = None
) -> None:
    """Require equal shapes, and errors within the tolerance; a failure names the worst entry.

    scale: the size to which errors are relative, such as the sum of the absolute terms if sums cancel; by default the largest
    expected entry.
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
