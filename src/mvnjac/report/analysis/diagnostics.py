"""What the data are like: missing entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.statistics.patterns import distinct

#: as many patterns of missing entries are shown
_PATTERNS = 12


@dataclass(frozen=True)
class PatternCount:
    """Rows that observe the same: how many, and (d,) what."""

    rows: int
    observed: list[bool]


@dataclass(frozen=True)
class Missing:
    """The largest patterns, and how many there are.

    Attributes:
        patterns: the largest first; count: of all; entries: how many are missing; share: of all entries.
        by_variable: (d,) how many rows do not have it.
    """

    patterns: list[PatternCount]
    count: int
    entries: int
    share: float
    by_variable: list[int]


def missing_entries(x: Float[Tensor, "n d"]) -> Missing:
    """The patterns of NaN."""
    observed = ~x.isnan()
    patterns, of_row = distinct(observed.numpy())
    counts = torch.bincount(torch.from_numpy(of_row), minlength=len(patterns))
    largest = counts.argsort(descending=True, stable=True)[:_PATTERNS].tolist()
    gone = (~observed).sum(0)
    shown = [PatternCount(int(counts[p]), patterns[p].tolist()) for p in largest]
    return Missing(shown, len(patterns), int(gone.sum()), float(gone.sum()) / observed.numel(), gone.tolist())
