"""Cumulated scores of columns that have information at different times, and their tests.

Of column j the share C_jj(t)/C_jj(1) of its information has come up to time t: its clock. With C(t) the covariance of the scores up to
t by all parameters that were estimated, C = C(1), the cumulated scores S_g(t) of a group g of columns have the covariance
C_gg(t) − C_g·(t) C⁻¹ C_·g(t) if no parameter changes: S(t) is what is left of the scores up to t when the estimate has taken
C_·(t) C⁻¹ of their total away. Where all clocks are equal these are Brownian bridges. Otherwise the law of a statistic depends on the
clocks, and it is simulated: a row's scores are replaced by normal ones of their covariance, and the same share of their total is taken
away (Hansen 1996, *Inference when a nuisance parameter is not identified under the null hypothesis*, with the covariance pooled).

If no parameter changes, rows that observe the same variables have the same covariance. So the scores are brought to about unit
variance, pattern by pattern, and what remains, the moments of two standardised scores, is taken from all rows that have information
about both. The covariance of scores up to t alone would not do: it is small where the scores happen to be.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.inference import limiting_distributions
from mvnjac.inference.clock_statistics import (
    Group,
    Joint,
    dates_inside,
    inside,
    lm_statistics,
    mean_square,
    quadratic,
    times_inverse,
    triangles,
    whitened,
)
from mvnjac.inference.multiplier_law import MultiplierLaw
from mvnjac.inference.pooled import Pooled, columns_at_a_time, pooled

#: dates at which the statistics are evaluated, and the fewest of them between the trimmed ends of a column
_DATES, _FEWEST = 64, 5
#: of simulated processes that are held at once, and of simulated scores that are kept for all tests
_CHUNK_BYTES, _KEPT_BYTES = 64 * 2**20, 256 * 2**20


@dataclass(frozen=True)
class Found:
    """What a test finds.

    Attributes:
        statistic, p_value: of the test.
        at: how many rows are before the break; column: whose place among the tested it is.
        first, last: the least and the largest such number that was considered.
    """

    statistic: float
    p_value: float
    at: int
    column: int
    first: int
    last: int


@dataclass(eq=False)
class OwnClocks:
    """Tests of the scores of n rows in the order of time. Made by `own_clocks`.

    Attributes:
        rows: the scores, and their pooled covariances.
        up_to: (G,) how many rows are up to each date, ascending, the last n.
        lag: up to which rows depend on each other.
        alone: whether a group's own columns are taken as the only ones that were estimated.
        multipliers, seed: how many processes are simulated, and from which seed.
    """

    rows: Pooled
    up_to: Tensor
    lag: int
    alone: bool
    multipliers: int
    seed: int
    _groups: dict[tuple[int, ...], Group] = field(default_factory=dict, repr=False)
    _drawn: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _together: list[Tensor] = field(default_factory=list, repr=False)
    _laws: dict[Any, MultiplierLaw] = field(default_factory=dict, repr=False)
    _statistics: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    # --- the process -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def scale(self) -> Tensor:
        """(p,) the standard deviation of each total score, were the parameters known."""
        return self.rows.scale(self.lag)

    @functools.cached_property
    def cumulated(self) -> Tensor:
        """(n + 1, p) the cumulated scores, each by its `scale`."""
        found = self.scale.new_zeros(len(self.rows.scores) + 1, len(self.scale))
        torch.cumsum(self.rows.scores, 0, out=found[1:])
        return found.div_(self.scale)

    def group(self, places: Sequence[int]) -> Group:
        """The covariances of these columns; those of the last group are kept."""
        key = tuple(places)
        if key not in self._groups:
            self._groups.clear()
            self._groups[key] = self._made(list(places))
        return self._groups[key]

    def _made(self, places: list[int]) -> Group:
        basis = places if self.alone else list(range(len(self.scale)))
        own = [basis.index(j) for j in places]
        clock = self.rows.clock(places)[self.up_to - 1]
        needed = ((clock > 0) & (clock < 1)).any(-1) if self.alone else torch.ones_like(clock[:, 0], dtype=torch.bool)
        needed[-1] = True
        up_to = self.up_to[needed]
        joint = self._joint(basis, up_to) if self.alone else self._everything
        drift = times_inverse(joint.information[-1], joint.information[:, own])
        noise, total = joint.noise, joint.noise[-1]
        cross = drift @ noise[:, own].mT
        covariance = noise[:, own][:, :, own] - cross - cross.mT + drift @ total @ drift.mT
        sums = self.cumulated[up_to][:, places] * self.scale[places]
        return Group(own, up_to, drift, joint.roots, covariance, total[own][:, own], sums, clock[needed])

    @functools.cached_property
    def _everything(self) -> Joint:
        return self._joint(list(range(len(self.scale))), self.up_to)

    def _joint(self, basis: list[int], up_to: Tensor) -> Joint:
        information, noise = self.rows.between(basis, up_to, self.lag)
        cumulated = information.cumsum(0)
        return Joint(cumulated, cumulated if noise is information else noise.cumsum(0), triangles(noise))

    def _processes(self, places: Sequence[int]) -> Iterator[Tensor]:
        """(G, k, B′) simulated cumulated scores, some at a time; those of the last group are kept where they are few."""
        group = self.group(places)
        if group.simulated:
            yield from group.simulated
            return
        for scores in self._scores(group):
            process = scores[:, group.own].cumsum(0).sub_(group.drift.to(scores.dtype) @ scores.sum(0))
            if process.shape[-1] == self.multipliers:
                group.simulated.append(process)
            yield process

    def _scores(self, group: Group) -> Iterator[Tensor]:
        """(G, b, B′) simulated scores between the dates; those of all columns together are kept where they are few."""
        if not self.alone and self._together:
            yield from self._together
            return
        found: Iterator[Tensor] = (group.roots.to(drawn) @ drawn for drawn in self._normal(*group.roots.shape[:2]))
        if not self.alone and 8 * group.roots[..., 0].numel() * self.multipliers <= _KEPT_BYTES:
            self._together.extend(found)
            found = iter(self._together)
        yield from found

    def _normal(self, dates: int, columns: int) -> Iterator[Tensor]:
        """(G, b, B′) standard normal numbers: the first of those that are drawn for as many dates as there are."""
        most = max(1, _CHUNK_BYTES // (8 * len(self.up_to) * columns))
        if columns not in self._drawn and most >= self.multipliers:
            self._drawn = {columns: self._draw(columns, self.multipliers, self._generator())}
        if columns in self._drawn:
            yield self._drawn[columns][:dates].to(self.scale.device)
            return
        generator = self._generator()
        for first in range(0, self.multipliers, most):
            yield self._draw(columns, min(most, self.multipliers - first), generator)[:dates].to(self.scale.device)

    def _draw(self, columns: int, count: int, generator: torch.Generator) -> Tensor:
        dtype = torch.float32 if self.alone else torch.float64  # of many groups single precision is enough for a p-value
        return torch.randn(len(self.up_to), columns, count, generator=generator, dtype=dtype, device="cpu")

    def _generator(self) -> torch.Generator:
        return torch.Generator(device="cpu").manual_seed(self.seed)

    # --- the tests ---------------------------------------------------------------------------------------------------

    def double_max(self, places: Sequence[int]) -> Found:
        """The largest cumulated score, each by its `scale`."""
        distance = self.cumulated[:, places].abs()
        at, (first, last) = int(distance.amax(-1).argmax()), self._span(places, (0.0, 1.0))
        statistic = float((distance if self.alone else distance[self.up_to]).max())
        return Found(statistic, self.double_max_p_value(statistic, places), at, int(distance[at].argmax()), first, last)

    def double_max_p_value(self, statistic: float, places: Sequence[int]) -> float:
        """Of a column alone the process is a bridge in its own clock; more of them are the less likely to be far the more they
        depend on each other (Royen 2014, *A simple proof of the Gaussian correlation conjecture*)."""
        if self.alone:
            return limiting_distributions.double_max_p_value(statistic, len(places))
        return self.law("double_max", places).p_value(statistic**2)

    def nyblom_hansen(self, places: Sequence[int]) -> Found:
        """The average of the squared length, over the mean clock of the columns."""
        group = self.group(places)
        statistic = float(mean_square(group, group.sums.unsqueeze(-1)))
        lengths = whitened(group.total, (self.cumulated[:, places] * self.scale[places]).mT).square().sum(0)
        at, (first, last) = int(lengths.argmax()), self._span(places, (0.0, 1.0))
        return Found(statistic, self.law("nyblom_hansen", places).p_value(statistic), at, 0, first, last)

    def sup_lm(self, places: Sequence[int], trim: tuple[float, float]) -> Found:
        """The largest Lagrange multiplier statistic, of the columns that have information on both sides.

        Raises:
            NotIdentifiedError: there is no date between the fractions `trim` of any column's information.
        """
        dates, statistics = dates_inside(self.group(places), trim), self.lm_statistics(places, trim)[1]
        best = int(statistics.argmax())
        statistic, p_value = float(statistics[best]), self.law("sup_lm", places, trim).p_value(float(statistics[best]))
        first, last = self._span(places, trim)
        return Found(statistic, p_value, self._refined(places, dates[best], trim), 0, first, last)

    def lm_statistics(self, places: Sequence[int], trim: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """How many rows are before a break, between these fractions, and its statistic: (G′,) as a quantile of χ²_k."""
        key = tuple(places), trim
        if key not in self._statistics:
            group = self.group(places)
            dates = dates_inside(group, trim)
            found = lm_statistics(group, group.sums.unsqueeze(-1), dates, trim).squeeze(-1)
            self._statistics[key] = group.up_to[dates], found
        return self._statistics[key]

    def critical_value(self, test: str, level: float, places: Sequence[int], trim: tuple[float, float]) -> float:
        """The statistic whose p-value is `level`."""
        if test == "double_max" and self.alone:
            return limiting_distributions.critical_value(
                lambda x: limiting_distributions.double_max_p_value(x, len(places)), level
            )
        value = self.law(test, places, trim).critical_value(level)
        return math.sqrt(value) if test == "double_max" else value

    def law(self, test: str, places: Sequence[int], trim: tuple[float, float] = (0.0, 1.0)) -> MultiplierLaw:
        """Of the statistic, of "double_max" of its square."""
        key = test, tuple(places), trim if test == "sup_lm" else None
        if key not in self._laws:
            group = self.group(places)
            values = [self._values(test, group, process, places, trim) for process in self._processes(places)]
            self._laws[key] = MultiplierLaw(torch.cat(values))
        return self._laws[key]

    def _values(self, test: str, group: Group, process: Tensor, places: Sequence[int], trim: tuple[float, float]) -> Tensor:
        if test == "double_max":
            return (process / self.scale[list(places)].to(process.dtype).unsqueeze(-1)).square().amax((0, 1))
        return (
            mean_square(group, process)
            if test == "nyblom_hansen"
            else lm_statistics(group, process, dates_inside(group, trim), trim).amax(0)
        )

    # --- dates -------------------------------------------------------------------------------------------------------

    def _span(self, places: Sequence[int], trim: tuple[float, float]) -> tuple[int, int]:
        """How many rows are before the first and the last break that can be dated."""
        found = inside(self.rows.clock(list(places)), trim).any(-1).nonzero().squeeze(-1)
        return (int(found[0]) + 1, int(found[-1]) + 1) if len(found) else (0, 0)

    def _refined(self, places: Sequence[int], best: int, trim: tuple[float, float]) -> int:
        """The row of the largest statistic between the dates beside the best one, where the covariance is interpolated."""
        group = self.group(places)
        ends = [0, *group.up_to.tolist()]
        active = inside(group.clock[best], trim)
        some = [j for j, a in zip(places, active.tolist(), strict=True) if a]
        dated = inside(self.rows.clock(some), trim).all(-1)
        covariance = torch.cat([torch.zeros_like(group.covariance[:1]), group.covariance])[:, active][:, :, active]
        largest, found = -1.0, ends[best + 1]
        for left in (best, best + 1):
            rows = torch.arange(max(ends[left], 1), ends[left + 1] + 1, dtype=torch.long, device=dated.device)
            rows = rows[dated[rows - 1]]
            if len(rows):
                share = ((rows - ends[left]) / (ends[left + 1] - ends[left])).reshape(-1, 1, 1)
                K = (1 - share) * covariance[left] + share * covariance[left + 1]
                values = quadratic(K, (self.cumulated[rows][:, some] * self.scale[some]).unsqueeze(-1)).squeeze(-1)
                if float(values.max()) > largest:
                    largest, found = float(values.max()), int(rows[values.argmax()])
        return found


def own_clocks(
    scores: Float[Tensor, "n p"],
    patterns: Tensor,
    *,
    lag: int = 0,
    alone: bool = False,
    multipliers: int = 999,
    seed: int = 0,
) -> OwnClocks:
    """Prepare the tests.

    Args:
        scores: (n, p) in the order of time, at the estimate; patterns: (n,) which variables a row observes, as a number.
        lag: rows up to this lag depend on each other.
        alone: whether a group's own columns are taken as the only ones that were estimated.
    """
    rows = pooled(scores, patterns)
    return OwnClocks(rows, _chosen_dates(rows), lag, alone, multipliers, seed)


def _chosen_dates(rows: Pooled) -> Tensor:
    """(G,) numbers of rows: in equal steps of the mean of the clocks and of the rows, and some for each column."""
    (n, p), parts = rows.scores.shape, columns_at_a_time(rows.scores)
    dtype, device = rows.scores.dtype, rows.scores.device
    mean = torch.stack([rows.clock(some).sum(-1) for some in parts]).sum(0) / p
    steps = torch.arange(1, _DATES + 1, dtype=dtype, device=device) / _DATES
    even = torch.arange(1, n + 1, dtype=dtype, device=device) / n
    chosen = {*(torch.searchsorted(0.5 * (mean + even), steps - 1e-12).clamp(max=n - 1) + 1).tolist(), n}
    at = torch.tensor(sorted(chosen), dtype=torch.long, device=device) - 1
    for clock in (rows.clock(some) for some in parts):
        few = (inside(clock[at], (0.15, 0.85)).sum(0) < _FEWEST).nonzero().squeeze(-1)
        if len(few):  # columns of which little is known, by quantiles of their own
            inner = torch.linspace(0.2, 0.8, _FEWEST, dtype=dtype, device=device).expand(len(few), -1)
            own = torch.searchsorted(clock[:, few].mT.contiguous(), inner.contiguous()).clamp(max=n - 1) + 1
            chosen |= set(own.flatten().tolist())
    return torch.tensor(sorted(chosen), dtype=torch.long, device=device)
