"""What may be wrong with the rows of a table: stale values and outliers, which are pointed out, and incomplete rows.

Nothing is changed. The memory does not grow with the number of rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mvnjac.errors import TableWarning, counted, warn

#: rows of a column that stay the same in succession, at least, to be called stale; and how often that may happen by chance
_STALE_ROWS, _CHANCE = 5, 0.001
#: the distance of an outlier from the median, in standard deviations that are estimated from the quartiles
_OUTLIER = 20.0
#: values of a column from which the quartiles are computed, at most; the extremes of a column that are kept; columns named
_SAMPLE, _EXTREMES, _NAMED = 4096, 3, 3
#: the quartiles of a normal distribution are this far apart, in standard deviations
_QUARTILES = 1.3489795


@dataclass(frozen=True)
class Finding:
    """A column in which something is worth a look: where, and how much of it there is."""

    column: str
    size: float
    text: str


class SuspiciousValues:
    """Collects, batch by batch, the runs of equal values, the extremes and a sample of each column.

    Attributes:
        rows: the number of rows.
        incomplete: the number of rows with missing values.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.rows, self.incomplete, self._names = 0, 0, list(names)
        self._runs = [_Runs() for _ in names]
        self._extremes = [_Extremes() for _ in names]
        self._sampled = [list[np.ndarray]() for _ in names]
        self._every, self._held = 1, 0

    def add(self, x: Float[np.ndarray, "n d"], labels: Sequence[Any] | None) -> None:
        """Add rows, NaN where an entry is missing, with their labels."""
        missing = np.isnan(x)
        self.incomplete += int(missing.any(1).sum())
        at = range(self.rows + 1, self.rows + len(x) + 1) if labels is None else labels
        for j in range(x.shape[1]):
            observed = np.flatnonzero(~missing[:, j])
            values = x[observed, j]
            self._runs[j].add(values, observed, at)
            self._extremes[j].add(values, observed, at)
            self._sampled[j].append(values[:: self._every])
        self.rows += len(x)
        self._held += -(-len(x) // self._every)
        if self._held > 2 * _SAMPLE:
            self._thin()

    def stale(self) -> list[Finding]:
        """Columns with more equal values in succession than chance explains, the longest first."""
        found = [runs.finding(name) for name, runs in zip(self._names, self._runs, strict=True)]
        return sorted((each for each in found if each is not None), key=lambda each: -each.size)

    def outliers(self) -> list[Finding]:
        """Columns with values far from the others, the farthest first."""
        found = [self._outlier(j) for j in range(len(self._names))]
        return sorted((each for each in found if each is not None), key=lambda each: -each.size)

    def _outlier(self, j: int) -> Finding | None:
        values = np.concatenate(self._sampled[j]) if self._sampled[j] else np.zeros(0)
        if len(values) < 20:
            return None
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        deviation = (high - low) / _QUARTILES
        return self._extremes[j].finding(self._names[j], middle, deviation) if deviation > 0 else None

    def _thin(self) -> None:
        """Keep every second value of the samples."""
        self._sampled = [[np.concatenate(parts)[::2]] for parts in self._sampled]
        self._every, self._held = 2 * self._every, self._held // 2


class _Runs:
    """The longest run of equal values of a column, and how many values are equal to the one before."""

    def __init__(self) -> None:
        self.count = self.equal = self.length = self.longest = 0
        self.last = math.nan
        self.first: Any = None
        self.span: tuple[Any, Any] = (None, None)
        self.value = math.nan

    def add(self, values: np.ndarray, rows: np.ndarray, labels: Sequence[Any]) -> None:
        if not len(values):
            return
        same = np.diff(values, prepend=self.last) == 0
        starts = np.flatnonzero(~same)
        self.equal += int(same.sum())
        self.count += len(values)
        bounds = [*([0] if same[0] else []), *starts.tolist(), len(values)]
        for a, b in itertools.pairwise(bounds) if len(bounds) < 64 else self._long(bounds):
            continued = a == 0 and bool(same[0])
            length = b - a + (self.length if continued else 0)
            first = self.first if continued else labels[int(rows[a])]
            if length > self.longest:
                self.longest, self.span, self.value = length, (first, labels[int(rows[b - 1])]), float(values[a])
            if b == len(values):
                self.length, self.first = length, first
        self.last = float(values[-1])

    def _long(self, bounds: list[int]) -> list[tuple[int, int]]:
        """The first, the last and the longest of many runs: no other can be the longest, or continue."""
        ends = np.asarray(bounds)
        longest = int(np.diff(ends).argmax())
        places = sorted({0, longest, len(bounds) - 2})
        return [(bounds[i], bounds[i + 1]) for i in places]

    def finding(self, name: str) -> Finding | None:
        if self.longest < _STALE_ROWS:
            return None
        share = self.equal / self.count  # in discrete data many values are equal to the one before
        share = share if share < 0.5 else (1 + share) / 2  # of a rare event, the rows without it have the longer runs
        if self.equal + 1 < self.count and self.count * share ** (self.longest - 1) > _CHANCE:
            return None
        first, last = self.span
        return Finding(
            name, self.longest, f"{name} is {self.value:g} in {self.longest} rows, {_shown(first)} to {_shown(last)}"
        )


class _Extremes:
    """The smallest and the largest values of a column, with their labels."""

    def __init__(self) -> None:
        self.values, self.labels = np.zeros(0), list[Any]()

    def add(self, values: np.ndarray, rows: np.ndarray, labels: Sequence[Any]) -> None:
        if not len(values):
            return
        order = np.arange(len(values)) if len(values) <= 2 * _EXTREMES else _ends(values)
        self.values = np.concatenate([self.values, values[order]])
        self.labels += [labels[int(rows[i])] for i in order]
        if len(self.values) > 2 * _EXTREMES:
            kept = _ends(self.values)
            self.values, self.labels = self.values[kept], [self.labels[i] for i in kept]

    def finding(self, name: str, middle: float, deviation: float) -> Finding | None:
        distances = np.abs(self.values - middle) / deviation
        order = np.argsort(-distances)
        far = [int(i) for i in order if distances[i] > _OUTLIER]
        if not far:
            return None
        i = far[0]
        where = f"{name} is {self.values[i]:g} at {_shown(self.labels[i])}"
        return Finding(name, float(distances[i]), f"{where} ({distances[i]:.0f} standard deviations from the median)")


def _ends(values: np.ndarray) -> np.ndarray:
    order = np.argpartition(values, [_EXTREMES - 1, len(values) - _EXTREMES])
    return np.concatenate([order[:_EXTREMES], order[-_EXTREMES:]])


def warn_about(where: str, scan: SuspiciousValues, is_series: bool) -> None:
    """Warn about outliers and, if the rows are in the order of time, about stale values."""
    stale, outliers = scan.stale() if is_series else [], scan.outliers()
    for kind, found in (("stale values", stale), ("outliers", outliers)):
        if found:
            warn(f"{where}: {described(kind, found)}", TableWarning)


def described(kind: str, found: Sequence[Finding]) -> str:
    """A line about all findings of a kind, which names the first columns."""
    more = len(found) - _NAMED
    tail = f"; and {more} more {'column' if more == 1 else 'columns'}" if more > 0 else ""
    return f"{kind} in {counted(len(found), 'column')}: {'; '.join(each.text for each in found[:_NAMED])}{tail}. Nothing was changed."


def _shown(label: Any) -> str:
    return str(label.as_py()) if hasattr(label, "as_py") else f"row {label}" if isinstance(label, int) else str(label)
