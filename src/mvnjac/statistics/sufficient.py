"""A sample as a fit sees it: rows that stand for all observations, however many there were.

A Gaussian likelihood depends on n observations of the same variables only through their number, mean and scatter. So many rows are
replaced by twice as many as there are variables: the mean ± the rows of a root of the scatter, of equal weights; every weighted
sum of a quadratic form over them is that over the observations, and a fit costs the same whatever n is. Where entries are missing,
the observations of each pattern are replaced so.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from mvnjac.statistics.moments import Moments, root
from mvnjac.statistics.patterns import rows_of_patterns
from mvnjac.statistics.serialization import stored_as

#: rows that are looked at together
_ROWS = 8192


class Scores(Protocol):
    """The log-density of some rows, and its derivatives."""

    @property
    def log_prob(self) -> Tensor:
        """(m,)."""

    def sum(self, weights: Tensor | None = None, wrt: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The weighted totals of the derivatives, by parameter."""


class Density(Protocol):
    """What a sample is evaluated by."""

    @property
    def mean(self) -> Tensor:
        """(d,)."""

    @property
    def covariance(self) -> Any:
        """The structure of Σ."""

    def jacobian(self, x: Tensor) -> Scores:
        """The scores of rows x (m, d)."""


@dataclass(frozen=True)
class SufficientStatistics:
    """Centred rows with weights.

    Attributes:
        count: how many observations there were, of positive weight, with any entry.
        origin: (d,) what was subtracted: the weighted mean of what is observed.
        rows: (m, d) float64, NaN where an entry is missing; of complete rows the weighted sum is 0 but for rounding.
        weights: (m,), positive.
        observed: (P, d) the patterns of observed entries; multiplicity: (P,) how much weight each has.
        constant: the columns whose observed values are all the same; unobserved: those that have none.
        name_of: how variable i is called in a message.
        name: what a message begins with: the function, or the file.
    """

    count: int
    origin: Tensor
    rows: Tensor
    weights: Tensor
    observed: Tensor
    multiplicity: Tensor
    constant: list[int]
    unobserved: list[int]
    name_of: Callable[[int], str]
    name: str = "fit"

    @classmethod
    def of(
        cls, x: Tensor, weights: Tensor | None, name_of: Callable[[int], str], name: str = "fit"
    ) -> SufficientStatistics | None:
        """Of rows x (n, d) float64, NaN where an entry is missing, and weights (n,), positive; none: all 1. None without an entry."""
        gathering = Accumulator(x.shape[1])
        step = max(_ROWS, 2 * x.shape[1]) if weights is None else max(len(x), 1)
        for first in range(0, len(x), step):
            gathering.add(x[first : first + step], weights)
        return gathering.sample(name_of, name)

    @classmethod
    def of_batches(cls, batches: Iterable[Tensor], name_of: Callable[[int], str], name: str) -> SufficientStatistics | None:
        """Of rows that come in batches. Of each pattern no more than 2d rows, or d×d numbers, are held."""
        gathering: Accumulator | None = None
        for x in batches:
            gathering = gathering or Accumulator(x.shape[1])
            gathering.add(x)
        return None if gathering is None else gathering.sample(name_of, name)

    @classmethod
    def of_moments(cls, moments: Moments, name_of: Callable[[int], str], name: str = "fit") -> SufficientStatistics:
        """Of the moments of complete rows that are not there any more."""
        gathering = Accumulator(len(moments.origin))
        gathering.moments(moments)
        sample = gathering.sample(name_of, name)
        assert sample is not None
        return sample

    @classmethod
    def as_it_is(cls, x: Tensor, weights: Tensor | None, name_of: Callable[[int], str]) -> SufficientStatistics:
        """Every row by itself, about 0: for means that may differ from row to row."""
        each = x.new_ones(len(x)) if weights is None else weights
        return cls(len(x), torch.zeros_like(x[0]), x, each, ~x.isnan(), each, [], [], name_of)

    def in_units(self, units: Tensor) -> SufficientStatistics:
        """The same observations about their mean, each variable divided by its unit (d,)."""
        return dataclasses.replace(self, rows=self.rows / units)

    def part(self, at: slice) -> SufficientStatistics:
        """Some of the variables, and what is observed of them."""
        first, last, _ = at.indices(self.d)
        observed, rows = self.observed[:, at], self.rows[:, at]
        seen, there = observed.any(-1), ~rows.isnan().all(-1)
        share = float(self.multiplicity[seen].sum()) / self.total
        return dataclasses.replace(
            self,
            count=round(self.count * share),
            origin=self.origin[at],
            rows=rows[there],
            weights=self.weights[there],
            observed=observed[seen],
            multiplicity=self.multiplicity[seen],
            constant=[i - first for i in self.constant if first <= i < last],
            unobserved=[i - first for i in self.unobserved if first <= i < last],
            name_of=lambda i: self.name_of(first + i),
        )

    @property
    def d(self) -> int:
        """The number of variables."""
        return self.rows.shape[-1]

    @functools.cached_property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return bool(self.observed.all())

    @functools.cached_property
    def total(self) -> float:
        """The sum of the weights."""
        return float(self.weights.sum())

    @property
    def pair_counts(self) -> Tensor:
        """(d, d) the weight of the observations of which two variables are observed."""
        seen = self.observed.to(self.rows)
        return seen.mT @ (self.multiplicity.unsqueeze(-1) * seen)

    def totals(self, gaussian: Density, names: Sequence[str]) -> tuple[float, dict[str, Tensor]]:
        """The log-likelihood of all observations about the origin, and its gradients by these parameters."""
        J = gaussian.jacobian(self.rows)
        return float((self.weights * J.log_prob).sum()), J.sum(weights=self.weights, wrt=names)

    def held(self) -> SufficientStatistics:
        """The rows alone, where they stand for more of them; else this sample itself."""
        return self

    def require_rows(self, wanted: str) -> None:
        """Raise where the rows stand for observations only roughly."""

    @functools.cached_property
    def scaled_rows(self) -> Tensor:
        """(m, d) rows whose Gram matrix is the covariance; where entries are missing, each column has the variance of those that
        are not."""
        missing = self.rows.isnan()
        weights = self.weights.unsqueeze(-1).expand(self.rows.shape).masked_fill(missing, 0)
        return self.rows.masked_fill(missing, 0) * (weights / weights.sum(0)).sqrt()

    @functools.cached_property
    def covariance(self) -> Tensor:
        """(d, d) their Gram matrix: the maximum-likelihood covariance without any structure; formed when first asked for."""
        product = self.scaled_rows.mT @ self.scaled_rows
        return 0.5 * (product + product.mT)

    @functools.cached_property
    def variances(self) -> Tensor:
        """(d,) its diagonal."""
        return (self.scaled_rows * self.scaled_rows).sum(0)


@stored_as("gathered_rows")
class Accumulator:
    """Rows as they come, pattern by pattern; what was gathered elsewhere is merged."""

    def __init__(self, d: int) -> None:
        self._patterns: dict[tuple[int, ...], PatternMoments] = {}
        self._d = d

    def merge(self, other: Accumulator) -> Self:
        """The rows of both."""
        both = type(self)(self._d)
        both._patterns = dict(self._patterns)
        for observed, pattern in other._patterns.items():
            own = both._patterns.get(observed)
            both._patterns[observed] = pattern if own is None else own.merge(pattern)
        return both

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        missing = x.isnan()
        if not bool(missing.any()):
            self._pattern(range(self._d)).add(x, weights)
            return
        for rows, observed in rows_of_patterns(~missing):
            self._pattern(observed.tolist()).add(x[rows][:, observed], None if weights is None else weights[rows])

    def moments(self, moments: Moments) -> None:
        self._pattern(range(self._d)).moments = moments

    def _pattern(self, observed: Iterable[int]) -> PatternMoments:
        return self._patterns.setdefault(tuple(observed), PatternMoments())

    def sample(self, name_of: Callable[[int], str], name: str) -> SufficientStatistics | None:
        """What stands for all of them about their mean; None where nothing is observed."""
        if not self._patterns:
            return None
        parts = [(list(observed), pattern, *pattern.mean()) for observed, pattern in self._patterns.items()]
        first, weight = parts[0][2].new_zeros(2, self._d)
        for observed, pattern, origin, _ in reversed(parts):
            first[observed] = origin  # an offset that all have goes before anything is summed
            weight[observed] += pattern.total
        shift = torch.zeros_like(first)
        for observed, pattern, origin, own in parts:
            shift[observed] += ((origin - first[observed]) + own) * (pattern.total / weight[observed])
        rows, weights, low, high = [], [], torch.full_like(first, torch.inf), torch.full_like(first, -torch.inf)
        for observed, pattern, origin, _ in parts:
            some, w = pattern.condensed((first[observed] - origin) + shift[observed])
            rows.append(first.new_full((len(some), self._d), torch.nan))
            rows[-1][:, observed] = some
            weights.append(w)
            smallest, largest = pattern.range()
            low[observed], high[observed] = torch.minimum(low[observed], smallest), torch.maximum(high[observed], largest)
        sample = SufficientStatistics(
            sum(pattern.count for _, pattern, *_ in parts),
            first + shift,
            torch.cat(rows),
            torch.cat(weights),
            torch.stack([~some[0].isnan() for some in rows]),
            torch.stack([w.sum() for w in weights]),
            (low == high).nonzero().squeeze(-1).tolist(),
            (low > high).nonzero().squeeze(-1).tolist(),
            name_of,
            name,
        )
        only = parts[0][1].moments
        if only is not None and sample.complete:
            sample.__dict__["covariance"] = only.covariance()  # as it was summed: a root of it has been rounded
        return sample


@stored_as("pattern")
class PatternMoments:
    """The observed entries of rows that observe the same: the rows themselves, and their moments once there are more than 2d."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor | None]] = []
        self.moments: Moments | None = None

    def add(self, x: Tensor, weights: Tensor | None) -> None:
        if self.moments is None:
            self._rows.append((x, weights))
            if self.count <= 2 * x.shape[1] or weights is not None:
                return
            x = self._rows_and_weights[0]
        more = Moments.of(x)
        self.moments, self._rows = more if self.moments is None else self.moments.merge(more), []

    def merge(self, other: PatternMoments) -> PatternMoments:
        """The rows of both, none of which have weights."""
        both = PatternMoments()
        if self.moments is None and other.moments is None:
            both._rows = list(self._rows)
            for x, _ in other._rows:
                both.add(x, None)
            return both
        mine, theirs = (p.moments or Moments.of(p._rows_and_weights[0]) for p in (self, other))
        both.moments = mine.merge(theirs)
        return both

    @property
    def count(self) -> int:
        return sum(len(x) for x, _ in self._rows) if self.moments is None else self.moments.count

    @property
    def total(self) -> float:
        return float(self.count) if self.moments is not None else float(self._rows_and_weights[1].sum())

    @property
    def _rows_and_weights(self) -> tuple[Tensor, Tensor]:
        rows = torch.cat([x for x, _ in self._rows])
        return rows, torch.cat([x.new_ones(len(x)) if w is None else w for x, w in self._rows])

    def mean(self) -> tuple[Tensor, Tensor]:
        """An origin, and the weighted mean seen from it."""
        if self.moments is not None:
            return self.moments.origin, self.moments.shift
        x, w = self._rows_and_weights
        shifted, share = x - x[0], (w / w.sum()).unsqueeze(-1)
        shift = (share * shifted).sum(0)
        return x[0], shift + (share * (shifted - shift)).sum(0)

    def range(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value of each column."""
        if self.moments is not None:
            return self.moments.smallest, self.moments.largest
        x = self._rows_and_weights[0]
        return x.amin(0), x.amax(0)

    def condensed(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that stand for these, seen from `centre`, itself seen from the origin; and their weights."""
        if self.moments is None:
            x, w = self._rows_and_weights
            return (x - x[0]) - centre, w
        half = root(self.moments.scatter)
        half = half * (len(half) / self.moments.count) ** 0.5
        rows = torch.cat([half, -half])
        return rows + (self.moments.shift - centre), rows.new_full((len(rows),), self.moments.count / len(rows))
