"""The χ² distribution."""

from __future__ import annotations

import torch


def chi_squared_p_value(statistic: float, df: int) -> float:
    """P(χ²_df > x); 1 where there are no degrees of freedom."""
    if df == 0:
        return 1.0
    half = torch.tensor([df / 2, max(statistic, 0.0) / 2], dtype=torch.float64, device="cpu")
    return float(torch.special.gammaincc(half[0], half[1]))
