"""Missing entries: by pattern, by variable, and over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.plots.diagnostics import missing_shares
from mvnjac.statistics.patterns import distinct

#: the largest number of patterns that are shown
_MOST_PATTERNS = 12
#: the number of parts of the axis of time, at most
_PARTS = 240


@dataclass(frozen=True)
class PatternCount:
    """A pattern: the number of its rows, and which of the d variables they observe."""

    rows: int
    observed: list[bool]


@dataclass(frozen=True)
class ObservedVariable:
    """When a variable is observed.

    Attributes:
        variable: its name.
        observed: the number of its entries.
        share: the share of missing entries.
        first, last: the labels of its first and last observed row; None if there is none.
        longest_gap: the largest number of consecutive missing entries between these.
    """

    variable: str
    observed: int
    share: float
    first: Any
    last: Any
    longest_gap: int


@dataclass(frozen=True)
class Timeline:
    """The share of missing entries in equal parts of time: (d, parts), NaN in a part without rows, and the first row of each."""

    shares: list[list[float]]
    first: list[Any]


@dataclass(frozen=True)
class Missing:
    """Missing entries.

    Attributes:
        patterns: the patterns with the most rows, in descending order.
        count: the number of all patterns.
        entries: the number of missing entries.
        share: their share of all entries.
        by_variable: (d,) the number of missing entries of each variable.
        variables: (d,) when each variable is observed.
        timeline: None if no entry is missing.
    """

    patterns: list[PatternCount]
    count: int
    entries: int
    share: float
    by_variable: list[int]
    variables: list[ObservedVariable]
    timeline: Timeline | None


def missing_entries(x: Float[Tensor, "n d"], names: Sequence[str], labels: Sequence[Any]) -> Missing:
    """The missing entries of x, NaN; the rows are in the order of time."""
    observed = ~x.isnan()
    patterns, of_row = distinct(observed.numpy())
    counts = torch.bincount(torch.from_numpy(of_row), minlength=len(patterns))
    largest = counts.argsort(descending=True, stable=True)[:_MOST_PATTERNS].tolist()
    missing = (~observed).sum(0)
    entries = int(missing.sum())
    return Missing(
        [PatternCount(int(counts[p]), patterns[p].tolist()) for p in largest],
        len(patterns),
        entries,
        entries / observed.numel(),
        missing.tolist(),
        [_variable(name, column, labels) for name, column in zip(names, observed.numpy().T, strict=True)],
        _timeline(~observed.numpy(), labels) if entries else None,
    )


def _variable(name: str, observed: np.ndarray, labels: Sequence[Any]) -> ObservedVariable:
    rows = np.flatnonzero(observed)
    share = 1 - len(rows) / len(observed)
    if not len(rows):
        return ObservedVariable(name, 0, share, None, None, 0)
    gap = int(np.diff(rows).max(initial=1)) - 1
    return ObservedVariable(name, len(rows), share, labels[int(rows[0])], labels[int(rows[-1])], gap)


def _timeline(missing: np.ndarray, labels: Sequence[Any]) -> Timeline:
    shares, first = missing_shares(missing, labels, min(_PARTS, len(missing)))
    return Timeline(shares.round(4).tolist(), [labels[min(int(row), len(labels) - 1)] for row in first])
