"""Which columns belong to parameters at a bound, and which are free to vary."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor


def free_columns(columns: Sequence[str], boundary: Collection[str], device: torch.device | str) -> Tensor | None:
    """(p,) bool, False for the columns at a bound; None where there are none."""
    at_bound = [column in boundary for column in columns]
    return ~torch.tensor(at_bound, dtype=torch.bool, device=device) if any(at_bound) else None
