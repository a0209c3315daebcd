"""Tests of structural change for columns whose information comes at different times.

The clock of a column is its information fraction C_jj(t)/C_jj(1), the share of its information that rows up to t contain. If
all clocks are equal, the cumulative scores are Brownian bridges. Otherwise the null distribution of a statistic depends on the
clocks, and it is simulated (`simulated_processes.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.inference import limiting_distributions
from mvnjac.inference.pooled_covariance import PooledScores, column_chunks, pool_scores
from mvnjac.inference.process_statistics import (
    GroupCovariances,
    candidate_dates,
    lm_statistics,
    mean_square,
    squared_norms,
    within,
)
from mvnjac.inference.simulated_distribution import SimulatedDistribution
from mvnjac.inference.simulated_processes import ProcessSimulation

#: the number of dates at which statistics are evaluated, and the fewest of them within the trimmed range of a column
_DATES, _MIN_DATES = 64, 5


@dataclass(frozen=True)
class BreakEstimate:
    """The result of a test.

    Attributes:
        statistic, p_value: of the test.
        row_count: the number of rows before the estimated break.
        column: the position of the most deviating column.
        first, last: the smallest and largest row count that was considered.
    """

    statistic: float
    p_value: float
    row_count: int
    column: int
    first: int
    last: int


@dataclass(eq=False)
class InformationClocks(ProcessSimulation):
    """Tests of the cumulative scores, each column in the clock of its information. Made by `information_clocks`.

    In all methods `columns` are positions, and `trim` is a range of information fractions.
    """

    _distributions: dict[Any, SimulatedDistribution] = field(default_factory=dict, repr=False)
    _statistics: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    # --- the tests ---------------------------------------------------------------------------------------------------

    def double_max(self, columns: Sequence[int]) -> BreakEstimate:
        """The largest absolute cumulative score, each divided by the standard deviation of its total.

        If only the group is estimated, each column is a Brownian bridge in its own clock, and independence gives an upper bound
        of the p-value (Royen 2014, *A simple proof of the Gaussian correlation conjecture*).
        """
        distance = self.cumulative[:, columns].abs()
        at, (first, last) = int(distance.amax(-1).argmax()), self._date_range(columns, (0.0, 1.0))
        statistic = float((distance if self.group_only else distance[self.row_counts]).max())
        if self.group_only:
            p_value = limiting_distributions.double_max_p_value(statistic, len(columns))
        else:
            p_value = self.distribution("double_max", columns).p_value(statistic**2)
        return BreakEstimate(statistic, p_value, at, int(distance[at].argmax()), first, last)

    def nyblom_hansen(self, columns: Sequence[int]) -> BreakEstimate:
        """The mean of the squared norm of the cumulative scores, over the mean clock of the columns."""
        group = self.group(columns)
        statistic = float(mean_square(group, group.cumulative.unsqueeze(-1)))
        squares = squared_norms(group.total_covariance, (self.cumulative[:, columns] * self.scale[columns]).mT)
        first, last = self._date_range(columns, (0.0, 1.0))
        p_value = self.distribution("nyblom_hansen", columns).p_value(statistic)
        return BreakEstimate(statistic, p_value, int(squares.argmax()), 0, first, last)

    def sup_lm(self, columns: Sequence[int], trim: tuple[float, float]) -> BreakEstimate:
        """The largest Lagrange multiplier statistic, of the columns with information on both sides of the break.

        Raises:
            NotIdentifiedError: there is no date within the trimmed range of any column.
        """
        dates, statistics = candidate_dates(self.group(columns), trim), self.lm_statistics(columns, trim)[1]
        best = int(statistics.argmax())
        statistic = float(statistics[best])
        p_value = self.distribution("sup_lm", columns, trim).p_value(statistic)
        first, last = self._date_range(columns, trim)
        return BreakEstimate(statistic, p_value, self._refined_row_count(columns, dates[best], trim), 0, first, last)

    def lm_statistics(self, columns: Sequence[int], trim: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """(G′,) the number of rows before each break within the trimmed range, and its statistic, as a quantile of χ²_k."""
        key = tuple(columns), trim
        if key not in self._statistics:
            group = self.group(columns)
            dates = candidate_dates(group, trim)
            found = lm_statistics(group, group.cumulative.unsqueeze(-1), dates, trim).squeeze(-1)
            self._statistics[key] = group.row_counts[dates], found
        return self._statistics[key]

    def critical_value(self, test: str, level: float, columns: Sequence[int], trim: tuple[float, float]) -> float:
        """The statistic whose p-value is `level`."""
        if test == "double_max" and self.group_only:
            return limiting_distributions.critical_value(
                lambda x: limiting_distributions.double_max_p_value(x, len(columns)), level
            )
        value = self.distribution(test, columns, trim).critical_value(level)
        return math.sqrt(value) if test == "double_max" else value

    def distribution(self, test: str, columns: Sequence[int], trim: tuple[float, float] = (0.0, 1.0)) -> SimulatedDistribution:
        """The simulated null distribution of the statistic (of its square for "double_max")."""
        key = test, tuple(columns), trim if test == "sup_lm" else None
        if key not in self._distributions:
            group = self.group(columns)
            values = [self._simulated_values(test, group, process, columns, trim) for process in self.processes(columns)]
            self._distributions[key] = SimulatedDistribution(torch.cat(values))
        return self._distributions[key]

    def _simulated_values(
        self, test: str, group: GroupCovariances, process: Tensor, columns: Sequence[int], trim: tuple[float, float]
    ) -> Tensor:
        if test == "double_max":
            return (process / self.scale[list(columns)].to(process.dtype).unsqueeze(-1)).square().amax((0, 1))
        if test == "nyblom_hansen":
            return mean_square(group, process)
        return lm_statistics(group, process, candidate_dates(group, trim), trim).amax(0)

    # --- dates -------------------------------------------------------------------------------------------------------

    def _date_range(self, columns: Sequence[int], trim: tuple[float, float]) -> tuple[int, int]:
        """The row counts of the first and the last possible break."""
        found = within(self.scores.clock(list(columns)), trim).any(-1).nonzero().squeeze(-1)
        return (int(found[0]) + 1, int(found[-1]) + 1) if len(found) else (0, 0)

    def _refined_row_count(self, columns: Sequence[int], best: int, trim: tuple[float, float]) -> int:
        """The row count with the largest statistic between the neighbours of the best date, by an interpolated covariance."""
        group = self.group(columns)
        ends = [0, *group.row_counts.tolist()]
        active = within(group.clock[best], trim)
        active_columns = [j for j, is_active in zip(columns, active.tolist(), strict=True) if is_active]
        possible = within(self.scores.clock(active_columns), trim).all(-1)
        covariance = torch.cat([torch.zeros_like(group.covariance[:1]), group.covariance])[:, active][:, :, active]
        largest, found = -1.0, ends[best + 1]
        for left in (best, best + 1):
            rows = torch.arange(max(ends[left], 1), ends[left + 1] + 1, dtype=torch.long, device=possible.device)
            rows = rows[possible[rows - 1]]
            if len(rows):
                share = ((rows - ends[left]) / (ends[left + 1] - ends[left])).reshape(-1, 1, 1)
                K = (1 - share) * covariance[left] + share * covariance[left + 1]
                cumulative = self.cumulative[rows][:, active_columns] * self.scale[active_columns]
                values = squared_norms(K, cumulative.unsqueeze(-1)).squeeze(-1)
                if float(values.max()) > largest:
                    largest, found = float(values.max()), int(rows[values.argmax()])
        return found


def information_clocks(
    scores: Float[Tensor, "n p"],
    patterns: Tensor,
    *,
    lag: int = 0,
    group_only: bool = False,
    multipliers: int = 999,
    seed: int = 0,
) -> InformationClocks:
    """Prepare the tests.

    Args:
        scores: (n, p) in the order of time, at the estimate.
        patterns: (n,) the number of the pattern of each row.
        lag: rows up to this lag depend on each other.
        group_only: whether tests treat the tested columns as the only estimated ones.
        multipliers, seed: the number of simulated processes, and the seed.
    """
    pooled = pool_scores(scores, patterns)
    return InformationClocks(pooled, _evaluation_dates(pooled), lag, group_only, multipliers, seed)


def _evaluation_dates(scores: PooledScores) -> Tensor:
    """(G,) row counts: equal steps of the average of mean clock and share of rows, and more for columns with few of them."""
    (n, p), chunks = scores.scores.shape, column_chunks(scores.scores)
    dtype, device = scores.scores.dtype, scores.scores.device
    mean = torch.stack([scores.clock(chunk).sum(-1) for chunk in chunks]).sum(0) / p
    steps = torch.arange(1, _DATES + 1, dtype=dtype, device=device) / _DATES
    row_share = torch.arange(1, n + 1, dtype=dtype, device=device) / n
    dates = {*(torch.searchsorted(0.5 * (mean + row_share), steps - 1e-12).clamp(max=n - 1) + 1).tolist(), n}
    at = torch.tensor(sorted(dates), dtype=torch.long, device=device) - 1
    for clock in (scores.clock(chunk) for chunk in chunks):
        few = (within(clock[at], (0.15, 0.85)).sum(0) < _MIN_DATES).nonzero().squeeze(-1)
        if len(few):  # these columns add quantiles of their own clocks
            inner = torch.linspace(0.2, 0.8, _MIN_DATES, dtype=dtype, device=device).expand(len(few), -1)
            quantiles = torch.searchsorted(clock[:, few].mT.contiguous(), inner.contiguous()).clamp(max=n - 1) + 1
            dates |= set(quantiles.flatten().tolist())
    return torch.tensor(sorted(dates), dtype=torch.long, device=device)
