"""Sufficient statistics of a sample, stored as at most 2d weighted pseudo-observations per pattern of missing entries.

A Gaussian likelihood depends on n observations of the same variables only through their number, mean and scatter. More than 2d
rows are therefore replaced by 2d rows of equal weight: the mean ± the rows of a root of the scatter, scaled. Weighted sums of
quadratic forms over them equal those over the observations, so that the cost of a fit does not depend on n. With missing
entries, the observations of each pattern are replaced in this way.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from mvnjac.statistics.moments import Moments
from mvnjac.statistics.pattern_moments import PatternMoments
from mvnjac.statistics.patterns import rows_of_patterns
from mvnjac.statistics.serialization import stored_as

#: the number of rows added at a time
_ROWS = 8192


class Scores(Protocol):
    """The log-density of rows, and its derivatives."""

    @property
    def log_prob(self) -> Tensor:
        """(m,)."""

    def sum(self, weights: Tensor | None = None, wrt: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The weighted sums of the derivatives, by parameter."""


class Density(Protocol):
    """A Gaussian density at which a sample is evaluated."""

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
    """Weighted pseudo-observations, centred at their mean.

    Attributes:
        count: the number of observations with positive weight and an observed entry.
        origin: (d,) the weighted mean of the observed entries, which was subtracted.
        rows: (m, d) float64, NaN for missing entries; the weighted sum of complete rows is 0 up to rounding.
        weights: (m,), positive.
        observed: (P, d) the patterns of observed entries.
        multiplicity: (P,) the total weight of each pattern.
        constant: the columns with a single observed value.
        unobserved: the columns without observed values.
        name_of: the name of variable i in a message.
        name: the beginning of a message: the function or the file.
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
        """Those of rows x (n, d) float64, NaN for missing entries, with positive weights (n,); None if nothing is observed."""
        accumulator = Accumulator(x.shape[1])
        step = max(_ROWS, 2 * x.shape[1]) if weights is None else max(len(x), 1)
        for first in range(0, len(x), step):
            accumulator.add(x[first : first + step], weights)
        return accumulator.sample(name_of, name)

    @classmethod
    def of_batches(cls, batches: Iterable[Tensor], name_of: Callable[[int], str], name: str) -> SufficientStatistics | None:
        """Those of rows in batches, with memory for at most 2d rows, or d×d numbers, per pattern."""
        accumulator: Accumulator | None = None
        for x in batches:
            accumulator = accumulator or Accumulator(x.shape[1])
            accumulator.add(x)
        return None if accumulator is None else accumulator.sample(name_of, name)

    @classmethod
    def of_moments(cls, moments: Moments, name_of: Callable[[int], str], name: str = "fit") -> SufficientStatistics:
        """Those of complete rows given by their moments."""
        accumulator = Accumulator(len(moments.origin))
        accumulator.moments(moments)
        sample = accumulator.sample(name_of, name)
        assert sample is not None
        return sample

    @classmethod
    def as_it_is(cls, x: Tensor, weights: Tensor | None, name_of: Callable[[int], str]) -> SufficientStatistics:
        """The rows themselves with origin 0, for means that differ from row to row."""
        weights = x.new_ones(len(x)) if weights is None else weights
        return cls(len(x), torch.zeros_like(x[0]), x, weights, ~x.isnan(), weights, [], [], name_of)

    def in_units(self, units: Tensor) -> SufficientStatistics:
        """The same observations with the centred rows divided by the units (d,) of the variables."""
        return dataclasses.replace(self, rows=self.rows / units)

    def part(self, at: slice) -> SufficientStatistics:
        """The sufficient statistics of some of the variables."""
        first, last, _ = at.indices(self.d)
        observed, rows = self.observed[:, at], self.rows[:, at]
        nonempty, nonempty_rows = observed.any(-1), ~rows.isnan().all(-1)
        share = float(self.multiplicity[nonempty].sum()) / self.total
        return dataclasses.replace(
            self,
            count=round(self.count * share),
            origin=self.origin[at],
            rows=rows[nonempty_rows],
            weights=self.weights[nonempty_rows],
            observed=observed[nonempty],
            multiplicity=self.multiplicity[nonempty],
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
        """Whether no entry is missing."""
        return bool(self.observed.all())

    @functools.cached_property
    def total(self) -> float:
        """The sum of the weights."""
        return float(self.weights.sum())

    @property
    def pair_counts(self) -> Tensor:
        """(d, d) the total weight of the observations in which both variables are observed."""
        observed = self.observed.to(self.rows)
        return observed.mT @ (self.multiplicity.unsqueeze(-1) * observed)

    def totals(self, gaussian: Density, names: Sequence[str]) -> tuple[float, dict[str, Tensor]]:
        """The log-likelihood of all observations relative to the origin, and its gradients with respect to these parameters."""
        J = gaussian.jacobian(self.rows)
        return float((self.weights * J.log_prob).sum()), J.sum(weights=self.weights, wrt=names)

    def held(self) -> SufficientStatistics:
        """The statistics of the stored rows alone, if they are a subsample; else self."""
        return self

    def require_rows(self, wanted: str) -> None:
        """Raise an error, naming what was `wanted`, if the rows represent the observations only approximately."""

    @functools.cached_property
    def scaled_rows(self) -> Tensor:
        """(m, d) rows whose Gram matrix is the covariance; missing entries do not affect the variance of a column."""
        missing = self.rows.isnan()
        weights = self.weights.unsqueeze(-1).expand(self.rows.shape).masked_fill(missing, 0)
        return self.rows.masked_fill(missing, 0) * (weights / weights.sum(0)).sqrt()

    @functools.cached_property
    def covariance(self) -> Tensor:
        """(d, d) the Gram matrix of `scaled_rows`: for complete rows the maximum-likelihood covariance without structure."""
        product = self.scaled_rows.mT @ self.scaled_rows
        return 0.5 * (product + product.mT)

    @functools.cached_property
    def variances(self) -> Tensor:
        """(d,) the diagonal of `covariance`."""
        return (self.scaled_rows * self.scaled_rows).sum(0)


@stored_as("gathered_rows")
class Accumulator:
    """Accumulates rows by pattern of observed entries; accumulators can be merged."""

    def __init__(self, d: int) -> None:
        self._patterns: dict[tuple[int, ...], PatternMoments] = {}
        self._d = d

    def merge(self, other: Accumulator) -> Self:
        """The accumulator of the rows of both."""
        both = type(self)(self._d)
        both._patterns = dict(self._patterns)
        for observed, pattern in other._patterns.items():
            known = both._patterns.get(observed)
            both._patterns[observed] = pattern if known is None else known.merge(pattern)
        return both

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Add rows x (n, d), NaN for missing entries, with weights (n,)."""
        missing = x.isnan()
        if not bool(missing.any()):
            self._pattern(range(self._d)).add(x, weights)
            return
        for rows, observed in rows_of_patterns(~missing):
            self._pattern(observed.tolist()).add(x[rows][:, observed], None if weights is None else weights[rows])

    def moments(self, moments: Moments) -> None:
        """Set the statistics of complete rows to these moments."""
        self._pattern(range(self._d)).moments = moments

    def _pattern(self, observed: Iterable[int]) -> PatternMoments:
        return self._patterns.setdefault(tuple(observed), PatternMoments())

    def sample(self, name_of: Callable[[int], str], name: str) -> SufficientStatistics | None:
        """The sufficient statistics of all rows; None if nothing is observed."""
        if not self._patterns:
            return None
        parts = [(list(observed), pattern, *pattern.mean()) for observed, pattern in self._patterns.items()]
        first, weight = parts[0][2].new_zeros(2, self._d)
        for observed, pattern, origin, _ in reversed(parts):
            first[observed] = origin  # a common offset is subtracted before summing
            weight[observed] += pattern.total
        shift = torch.zeros_like(first)
        for observed, pattern, origin, mean in parts:
            shift[observed] += ((origin - first[observed]) + mean) * (pattern.total / weight[observed])
        rows, weights, low, high = [], [], torch.full_like(first, torch.inf), torch.full_like(first, -torch.inf)
        for observed, pattern, origin, _ in parts:
            values, w = pattern.condensed((first[observed] - origin) + shift[observed])
            rows.append(first.new_full((len(values), self._d), torch.nan))
            rows[-1][:, observed] = values
            weights.append(w)
            smallest, largest = pattern.range()
            low[observed], high[observed] = torch.minimum(low[observed], smallest), torch.maximum(high[observed], largest)
        sample = SufficientStatistics(
            sum(pattern.count for _, pattern, *_ in parts),
            first + shift,
            torch.cat(rows),
            torch.cat(weights),
            torch.stack([~values[0].isnan() for values in rows]),
            torch.stack([w.sum() for w in weights]),
            (low == high).nonzero().squeeze(-1).tolist(),
            (low > high).nonzero().squeeze(-1).tolist(),
            name_of,
            name,
        )
        only = parts[0][1].moments
        if only is not None and sample.complete:
            sample.__dict__["covariance"] = only.covariance()  # as it was summed, without the rounding of a root
        return sample
