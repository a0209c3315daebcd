"""Patterns of missing entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.statistics.patterns import distinct

#: the largest number of patterns that are shown
_MOST_PATTERNS = 12


@dataclass(frozen=True)
class PatternCount:
    """A pattern: the number of its rows, and which of the d variables they observe."""

    rows: int
    observed: list[bool]


@dataclass(frozen=True)
class Missing:
    """Missing entries.

    Attributes:
        patterns: the patterns with the most rows, in descending order.
        count: the number of all patterns.
        entries: the number of missing entries.
        share: their share of all entries.
        by_variable: (d,) the number of missing entries of each variable.
    """

    patterns: list[PatternCount]
    count: int
    entries: int
    share: float
    by_variable: list[int]


def missing_entries(x: Float[Tensor, "n d"]) -> Missing:
    """The patterns of NaN in x."""
    observed = ~x.isnan()
    patterns, of_row = distinct(observed.numpy())
    counts = torch.bincount(torch.from_numpy(of_row), minlength=len(patterns))
    largest = counts.argsort(descending=True, stable=True)[:_MOST_PATTERNS].tolist()
    missing = (~observed).sum(0)
    shown = [PatternCount(int(counts[p]), patterns[p].tolist()) for p in largest]
    return Missing(shown, len(patterns), int(missing.sum()), float(missing.sum()) / observed.numel(), missing.tolist())
