"""What the reader should know before the results: series that do not move, and few observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

#: the length from which a run of equal values counts
_STALE = 5
#: a variable counts as continuous if this share of its values outside the run is distinct
_DISTINCT = 0.5
#: fewer observed entries of a variable, and fewer rows per parameter, are few
FEW_ENTRIES, FEW_ROWS = 30, 5


@dataclass(frozen=True)
class Stale:
    """The longest run of equal values of a variable that is otherwise continuous.

    Attributes:
        variable: its name.
        rows: the length of the run.
        value: that is repeated.
        first, last: the labels of its first and last row.
    """

    variable: str
    rows: int
    value: float
    first: Any
    last: Any


@dataclass(frozen=True)
class Alerts:
    """What may make results misleading.

    Attributes:
        stale: the variables with a run of equal values, the longest run first.
        few: (variable, number) of variables with fewer than `FEW_ENTRIES` observed entries.
        rows_per_parameter: n/p.
    """

    stale: list[Stale]
    few: list[tuple[str, int]]
    rows_per_parameter: float


def alerts(x: Float[Tensor, "n d"], names: Sequence[str], labels: Sequence[Any], parameters: int) -> Alerts:
    """The alerts of rows in the order of time, NaN where an entry is missing."""
    columns = x.cpu().numpy().T
    stale = [found for name, column in zip(names, columns, strict=True) if (found := _stale(name, column, labels))]
    counts = (~np.isnan(columns)).sum(1)
    few = [(name, int(count)) for name, count in zip(names, counts, strict=True) if count < FEW_ENTRIES]
    return Alerts(sorted(stale, key=lambda run: -run.rows), few, len(x) / max(parameters, 1))


def _stale(name: str, column: np.ndarray, labels: Sequence[Any]) -> Stale | None:
    """The longest run of equal observed values; None if it is short, or the variable has few distinct values anyway."""
    rows = np.flatnonzero(~np.isnan(column))
    values = column[rows]
    if len(values) < 2 * _STALE:
        return None
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    lengths = np.diff(np.concatenate([starts, [len(values)]]))
    longest = int(lengths.argmax())
    first, length = int(starts[longest]), int(lengths[longest])
    others = np.concatenate([values[:first], values[first + length :]])
    if length < _STALE or len(np.unique(others)) < _DISTINCT * max(len(others), 1):
        return None
    return Stale(name, length, float(values[first]), labels[rows[first]], labels[rows[first + length - 1]])
