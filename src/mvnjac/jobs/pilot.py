"""Missing entries of more patterns than can be held: some rows stand in for the table, and the likelihood is that of all of it.

Rows from all of the table, as many as fit into a bound, say where a search starts and in which metric it moves; value and score at each
point of it, which decide where it ends, are sums over all rows: a pass over the slices, merged like any others
(`statistics/pairwise.py`). The score of a row by mean and covariance is what EM's expectation step has of it (`estimation/em.py`).
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

#: numbers that are held of the rows of all patterns together, in a unit or in what was merged: 64 MB
MOST_HELD = 2**23
#: what a pattern costs beside its numbers, in numbers
_EACH = 256
#: under which name the log-likelihood stands beside the gradients
VALUE = "log_likelihood"
#: (density, its parameters, origin, units) → the log-likelihood of all rows (x − origin) / units, and its gradients
Pass = Callable[[Density, Sequence[str], Tensor, Tensor], tuple[float, dict[str, Tensor]]]


@stored_as("thinned_rows")
class ThinnedAccumulator(Accumulator):
    """Rows pattern by pattern, of which some can be left out."""

    @property
    def held(self) -> int:
        """About how many numbers this holds."""
        sizes = ((len(o), len(o) if p.moments is not None else p.count) for o, p in self._patterns.items())
        return sum(_EACH + columns * rows for columns, rows in sizes)

    def thin(self) -> None:
        """Leave out every second pattern, in the order of their rows' number: of those that have one each, evenly. But each variable
        keeps the one with most rows."""
        ordered = sorted(self._patterns.items(), key=lambda item: -item[1].count)
        first = {i: place for place in reversed(range(len(ordered))) for i in ordered[place][0]}
        kept = sorted({*range(0, len(ordered), 2), *first.values()})
        self._patterns = dict(ordered[place] for place in kept)

    def __len__(self) -> int:
        return len(self._patterns)


@stored_as("pilot_sample")
class PilotSample:
    """Rows as they come: some of them, pattern by pattern, and a few numbers about all of them.

    Attributes:
        gathering: the rows that are held, about `most` numbers.
        full: whether there were more.
        count: rows with any entry; pair_counts (d, d): in how many of them two variables are observed; smallest, largest: (d,) values.
    """

    def __init__(self, d: int, most: int) -> None:
        self.gathering, self.full, self.count, self._most = ThinnedAccumulator(d), False, 0, most
        self.pair_counts = torch.zeros(d, d, dtype=torch.float64, device="cpu")
        self.smallest, self.largest = (
            torch.full((d,), sign * torch.inf, dtype=torch.float64, device="cpu") for sign in (1, -1)
        )

    def add(self, x: Tensor) -> None:
        """Rows x (n, d), NaN where an entry is missing."""
        missing = x.isnan()
        seen = (~missing).to(x)
        self.count += int((~missing).any(-1).sum())
        self.pair_counts = self.pair_counts + seen.mT @ seen
        self.smallest = torch.minimum(self.smallest, x.masked_fill(missing, torch.inf).amin(0))
        self.largest = torch.maximum(self.largest, x.masked_fill(missing, -torch.inf).amax(0))
        self.gathering.add(x)
        self._thin()

    def merge(self, other: PilotSample) -> PilotSample:
        """Of both sets of rows, these first."""
        both = PilotSample(len(self.smallest), self._most)
        both.gathering, both.full = self.gathering.merge(other.gathering), self.full or other.full
        both.count = self.count + other.count
        both.pair_counts = self.pair_counts + other.pair_counts
        both.smallest = torch.minimum(self.smallest, other.smallest)
        both.largest = torch.maximum(self.largest, other.largest)
        both._thin()
        return both

    def _thin(self) -> None:
        """Hold no more than was said, unless what each variable needs is more."""
        before = None
        while self.gathering.held > self._most and len(self.gathering) != before:
            before, self.full = len(self.gathering), True
            self.gathering.thin()

    def sample(self, name_of: Callable[[int], str], name: str, over_rows: Pass) -> SufficientStatistics | None:
        """The rows, where they are all held; else what stands for them. None where nothing is observed."""
        held = self.gathering.sample(name_of, name)
        if held is None or not self.full:
            return held
        constant = (self.smallest == self.largest).nonzero().squeeze(-1).tolist()
        unobserved = (self.smallest > self.largest).nonzero().squeeze(-1).tolist()
        rare = {*held.constant, *held.unobserved} - {*constant, *unobserved}
        if rare:
            raise NotIdentifiedError(
                f"{name}: {', '.join(map(name_of, sorted(rare)))}: observed too rarely among so many patterns of missing entries, "
                "of which only some are held; leave it out, or take only rows that have it."
            )
        share = self.count / held.total
        fields = {field.name: getattr(held, field.name) for field in dataclasses.fields(held)} | {
            "count": self.count,
            "weights": held.weights * share,
            "multiplicity": held.multiplicity * share,
            "constant": constant,
            "unobserved": unobserved,
        }
        return StandIn(**fields, survey=self, over_rows=over_rows, units=torch.ones_like(held.origin))


@dataclass(frozen=True, kw_only=True)
class StandIn(SufficientStatistics):
    """Rows that stand for more of them, with weights that add up to the number of all.

    Attributes:
        survey: what is known of all; over_rows: their likelihood; units: (d,) those of the variables here.
    """

    survey: PilotSample
    over_rows: Pass
    units: Tensor

    def in_units(self, units: Tensor) -> SufficientStatistics:
        return dataclasses.replace(self, rows=self.rows / units, units=self.units * units)

    @property
    def pair_counts(self) -> Tensor:
        return self.survey.pair_counts

    def totals(self, gaussian: Density, names: Sequence[str]) -> tuple[float, dict[str, Tensor]]:
        return self.over_rows(gaussian, names, self.origin, self.units)

    def held(self) -> SufficientStatistics:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(SufficientStatistics)}
        return SufficientStatistics(**fields)

    def require_rows(self, wanted: str) -> None:
        raise MvnjacError(
            f"{self.name}: {wanted} need all rows again, more than are held; ask for them by `mvnjac score --model`."
        )


@dataclass(frozen=True)
class PilotPass(Job):
    """The survey of a unit's rows, of which `most` numbers are held."""

    data: Data
    names: tuple[str, ...]
    most: int

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        survey = PilotSample(len(self.names), self.most)
        count = self.data.through(self.names, unit.at, on_rows, lambda _, rows: survey.add(rows.x))
        return Result(unit.number, count, survey if count else None)


@dataclass(frozen=True)
class LikelihoodPass(Job):
    """The log-likelihood of a unit's rows (x − origin) / units, each the marginal of what it observes, and its gradients."""

    data: Data
    names: tuple[str, ...]
    mean: Tensor
    covariance: Covariance
    wrt: tuple[str, ...]
    origin: Tensor
    units: Tensor

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        gaussian = Gaussian(self.mean, self.covariance, missing="marginalise")
        tree = PairwiseReduction[NamedSums]()

        def add(i: int, rows: Rows) -> None:
            J = gaussian.jacobian((rows.x - self.origin) / self.units)
            tree.add(i, NamedSums({VALUE: J.log_prob.sum(), **J.sum(wrt=self.wrt)}))

        count = self.data.through(self.names, unit.at, on_rows, add)
        return Result(unit.number, count, tree.total())
