"""Sufficient statistics of the rows with one pattern of observed entries: the rows themselves, or their moments."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.statistics.moments import Moments, root
from mvnjac.statistics.serialization import stored_as


@stored_as("pattern")
class PatternMoments:
    """The observed entries of rows with the same pattern, replaced by their moments if there are more than 2d rows."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor | None]] = []
        self.moments: Moments | None = None

    def add(self, x: Tensor, weights: Tensor | None) -> None:
        """Add rows x (n, d) of the observed variables, with weights (n,); weighted rows are all added at once."""
        if self.moments is None:
            self._rows.append((x, weights))
            if self.count <= 2 * x.shape[1] or weights is not None:
                return
            x = self._rows_and_weights[0]
        more = Moments.of(x)
        self.moments, self._rows = more if self.moments is None else self.moments.merge(more), []

    def merge(self, other: PatternMoments) -> PatternMoments:
        """The statistics of the rows of both, without weights."""
        both = PatternMoments()
        if self.moments is None and other.moments is None:
            both._rows = list(self._rows)
            for x, _ in other._rows:
                both.add(x, None)
            return both
        first, second = (p.moments or Moments.of(p._rows_and_weights[0]) for p in (self, other))
        both.moments = first.merge(second)
        return both

    @property
    def count(self) -> int:
        """The number of rows."""
        return sum(len(x) for x, _ in self._rows) if self.moments is None else self.moments.count

    @property
    def total(self) -> float:
        """The sum of the weights."""
        return float(self.count) if self.moments is not None else float(self._rows_and_weights[1].sum())

    @property
    def _rows_and_weights(self) -> tuple[Tensor, Tensor]:
        rows = torch.cat([x for x, _ in self._rows])
        return rows, torch.cat([x.new_ones(len(x)) if w is None else w for x, w in self._rows])

    def mean(self) -> tuple[Tensor, Tensor]:
        """An origin, and the weighted mean minus the origin."""
        if self.moments is not None:
            return self.moments.origin, self.moments.shift
        x, w = self._rows_and_weights
        shifted, share = x - x[0], (w / w.sum()).unsqueeze(-1)
        shift = (share * shifted).sum(0)
        return x[0], shift + (share * (shifted - shift)).sum(0)

    def range(self) -> tuple[Tensor, Tensor]:
        """The minimum and the maximum of each column."""
        if self.moments is not None:
            return self.moments.smallest, self.moments.largest
        x = self._rows_and_weights[0]
        return x.amin(0), x.amax(0)

    def condensed(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """At most 2d rows with the same moments, minus `centre` (relative to the origin), and their weights."""
        if self.moments is None:
            x, w = self._rows_and_weights
            return (x - x[0]) - centre, w
        half = root(self.moments.scatter)
        half = half * (len(half) / self.moments.count) ** 0.5
        rows = torch.cat([half, -half])
        return rows + (self.moments.shift - centre), rows.new_full((len(rows),), self.moments.count / len(rows))
