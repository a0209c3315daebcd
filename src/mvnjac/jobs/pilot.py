"""Estimation with more patterns of missing entries than fit into memory.

A subsample of the rows gives the starting values and the metric of the search. The log-likelihood and the score at each point
of the search are sums over the full table, computed in a pass over its slices and merged pairwise (`statistics/pairwise.py`),
so that the estimate is that of the full table. The score of a row with respect to mean and covariance contains the same
information as the expectation step of EM (`estimation/em.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.engines.job import Job, Result, Unit
from mvnjac.errors import MvnjacError, NotIdentifiedError
from mvnjac.gaussian import Gaussian
from mvnjac.statistics.pairwise import NamedSums, PairwiseReduction
from mvnjac.statistics.serialization import stored_as
from mvnjac.statistics.sufficient import Accumulator, Density, SufficientStatistics

if TYPE_CHECKING:
    from mvnjac.jobs.data import Data
    from mvnjac.tables.rows import Rows

#: the largest number of float64 held for the rows of all patterns, in a unit or after merging: 64 MB
MOST_HELD = 2**23
#: the overhead of a pattern, in float64
_PATTERN_OVERHEAD = 256
#: the name of the log-likelihood among the named sums of gradients
VALUE = "log_likelihood"
#: (density, its parameters, origin, units) → the log-likelihood of all rows (x − origin) / units, and its gradients
LogLikelihood = Callable[[Density, Sequence[str], Tensor, Tensor], tuple[float, dict[str, Tensor]]]


@stored_as("thinned_rows")
class ThinnedAccumulator(Accumulator):
    """Rows by pattern of missing entries, from which patterns can be left out."""

    @property
    def held(self) -> int:
        """The approximate number of float64 that this object holds."""
        sizes = ((len(o), len(o) if p.moments is not None else p.count) for o, p in self._patterns.items())
        return sum(_PATTERN_OVERHEAD + columns * rows for columns, rows in sizes)

    def thin(self) -> None:
        """Leave out every second pattern, in descending order of the number of rows.

        For each variable, the pattern with the most rows is retained.
        """
        ordered = sorted(self._patterns.items(), key=lambda item: -item[1].count)
        first = {i: place for place in reversed(range(len(ordered))) for i in ordered[place][0]}
        retained = sorted({*range(0, len(ordered), 2), *first.values()})
        self._patterns = dict(ordered[place] for place in retained)

    def __len__(self) -> int:
        return len(self._patterns)


@stored_as("pilot_sample")
class PilotSample:
    """A subsample of the rows, by pattern of missing entries, and summary statistics of all rows.

    The names of the attributes are stored in files.

    Attributes:
        gathering: the subsample, about `most` numbers.
        full: whether rows have been left out.
        count: the number of rows with at least one entry.
        pair_counts: (d, d) the number of rows that observe both variables.
        smallest, largest: (d,) the range of each variable.
    """

    def __init__(self, d: int, most: int) -> None:
        self.gathering, self.full, self.count, self._most = ThinnedAccumulator(d), False, 0, most
        self.pair_counts = torch.zeros(d, d, dtype=torch.float64, device="cpu")
        self.smallest, self.largest = (
            torch.full((d,), sign * torch.inf, dtype=torch.float64, device="cpu") for sign in (1, -1)
        )

    def add(self, x: Tensor) -> None:
        """Add rows x (n, d), NaN where an entry is missing."""
        missing = x.isnan()
        observed = (~missing).to(x)
        self.count += int((~missing).any(-1).sum())
        self.pair_counts = self.pair_counts + observed.mT @ observed
        self.smallest = torch.minimum(self.smallest, x.masked_fill(missing, torch.inf).amin(0))
        self.largest = torch.maximum(self.largest, x.masked_fill(missing, -torch.inf).amax(0))
        self.gathering.add(x)
        self._thin()

    def merge(self, other: PilotSample) -> PilotSample:
        """The subsample and the statistics of both sets of rows."""
        both = PilotSample(len(self.smallest), self._most)
        both.gathering, both.full = self.gathering.merge(other.gathering), self.full or other.full
        both.count = self.count + other.count
        both.pair_counts = self.pair_counts + other.pair_counts
        both.smallest = torch.minimum(self.smallest, other.smallest)
        both.largest = torch.maximum(self.largest, other.largest)
        both._thin()
        return both

    def _thin(self) -> None:
        """Leave out patterns until at most `most` numbers are held, or no more patterns can be left out."""
        before = None
        while self.gathering.held > self._most and len(self.gathering) != before:
            before, self.full = len(self.gathering), True
            self.gathering.thin()

    def sample(self, name_of: Callable[[int], str], name: str, over_rows: LogLikelihood) -> SufficientStatistics | None:
        """The sufficient statistics if no row was left out, otherwise those of the subsample, with the likelihood of all rows.

        None if there are no observations.
        """
        held = self.gathering.sample(name_of, name)
        if held is None or not self.full:
            return held
        constant = (self.smallest == self.largest).nonzero().squeeze(-1).tolist()
        unobserved = (self.smallest > self.largest).nonzero().squeeze(-1).tolist()
        rare = {*held.constant, *held.unobserved} - {*constant, *unobserved}
        if rare:
            raise NotIdentifiedError(
                f"{name}: {', '.join(map(name_of, sorted(rare)))}: observed too rarely: there are more patterns of missing entries "
                "than fit into memory, and no row in the subsample has this variable; leave it out, or select only rows that have it."
            )
        share = self.count / held.total
        fields = {field.name: getattr(held, field.name) for field in dataclasses.fields(held)} | {
            "count": self.count,
            "weights": held.weights * share,
            "multiplicity": held.multiplicity * share,
            "constant": constant,
            "unobserved": unobserved,
        }
        return SubsampleStatistics(**fields, pilot=self, over_rows=over_rows, units=torch.ones_like(held.origin))


@dataclass(frozen=True, kw_only=True)
class SubsampleStatistics(SufficientStatistics):
    """The statistics of a subsample, with weights that sum to the number of all rows.

    Attributes:
        pilot: summary statistics of all rows.
        over_rows: computes the log-likelihood of all rows and its gradients.
        units: (d,) the units of the variables in this object.
    """

    pilot: PilotSample
    over_rows: LogLikelihood
    units: Tensor

    def in_units(self, units: Tensor) -> SufficientStatistics:
        return dataclasses.replace(self, rows=self.rows / units, units=self.units * units)

    @property
    def pair_counts(self) -> Tensor:
        return self.pilot.pair_counts

    def totals(self, gaussian: Density, names: Sequence[str]) -> tuple[float, dict[str, Tensor]]:
        return self.over_rows(gaussian, names, self.origin, self.units)

    def held(self) -> SufficientStatistics:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(SufficientStatistics)}
        return SufficientStatistics(**fields)

    def require_rows(self, wanted: str) -> None:
        raise MvnjacError(f"{self.name}: {wanted} need all rows, which do not fit into memory; use `mvnjac score --model`.")


@dataclass(frozen=True)
class PilotPass(Job):
    """The pilot sample of the rows of a unit, with at most about `most` numbers."""

    tag = "pilot"
    data: Data
    names: tuple[str, ...]
    most: int

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        sample = PilotSample(len(self.names), self.most)
        count = self.data.for_each_batch(self.names, unit.at, on_rows, lambda _, rows: sample.add(rows.x))
        return Result(unit.number, count, sample if count else None)


@dataclass(frozen=True)
class LikelihoodPass(Job):
    """The log-likelihood of the rows (x − origin) / units of a unit, each with its observed variables, and its gradients."""

    tag = "likelihood"
    data: Data
    names: tuple[str, ...]
    mean: Tensor
    covariance: Covariance
    wrt: tuple[str, ...]
    origin: Tensor
    units: Tensor

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        gaussian = Gaussian(self.mean, self.covariance, missing="marginalise")
        reduction = PairwiseReduction[NamedSums]()

        def add(i: int, rows: Rows) -> None:
            J = gaussian.jacobian((rows.x - self.origin) / self.units)
            reduction.add(i, NamedSums({VALUE: J.log_prob.sum(), **J.sum(wrt=self.wrt)}))

        count = self.data.for_each_batch(self.names, unit.at, on_rows, add)
        return Result(unit.number, count, reduction.total())
