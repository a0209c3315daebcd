"""Parameters at a bound: which columns these are, and which are free to vary."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.gaussian import Gaussian


def columns_at_bound(gaussian: Gaussian, scaled: Covariance, lower: float) -> list[str]:
    """The columns of the parameters at their lower bound; `scaled` is the covariance of variables with variance 1."""
    return [
        column
        for name in scaled.bounded
        for column, value in zip(gaussian.columns(name), scaled.parameters[name].tolist(), strict=True)
        if value <= lower * (1 + 1e-12)
    ]


def free_columns(columns: Sequence[str], boundary: Collection[str], device: torch.device | str) -> Tensor | None:
    """(p,) bool, False for the columns at a bound; None where there are none."""
    at_bound = [column in boundary for column in columns]
    return ~torch.tensor(at_bound, dtype=torch.bool, device=device) if any(at_bound) else None
