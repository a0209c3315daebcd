"""Structural change: are the parameters the same all the time? Cumulated scores, and the tests on them.

At the estimate the scores sum to 0. Cumulated in time, each in the units of all scores' covariance, they wander like k independent
Brownian bridges if the parameters do not change, and further away if they do (Nyblom 1989; Hansen 1992; Zeileis & Hornik 2007,
*Generalized M-fluctuation tests for parameter instability*; Merkle & Zeileis 2013 for structural equation models).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ArgumentError, NotIdentifiedError, SingularError, counted
from mvnjac.inference import limiting_distributions
from mvnjac.inference.estimating_functions import require
from mvnjac.inference.multiplier_law import holm
from mvnjac.inference.named_table import NamedTable, place
from mvnjac.inference.own_clocks import Found, OwnClocks

_NAME = "score_process"
TESTS = ("double_max", "nyblom_hansen", "sup_lm")
LIMIT = "the limiting law"


@dataclass(frozen=True)
class BreakTest:
    """A test of constant parameters.

    Attributes:
        test: "double_max", "nyblom_hansen" or "sup_lm".
        statistic, p_value: under constancy; small is evidence of change. NaN where there is too little information to test.
        components: k, the number of columns.
        row, date: the last row before the break, if there is one: where the process is furthest away (of Nyblom–Hansen's
            statistic, an average, where the process's square is largest); −1 and None where nothing was tested.
        column: whose process it is there ("double_max"); else None.
        first, last: the dates of the first and the last row after which a break was looked for.
        law: what the p-value is from, in words.
        uncorrected: the p-value before Holm's correction; None where there is none.
    """

    test: str
    statistic: float
    p_value: float
    components: int
    row: int
    date: Any
    column: str | None = None
    first: Any = None
    last: Any = None
    law: str = LIMIT
    uncorrected: float | None = None


@dataclass(frozen=True, repr=False, eq=False)
class ScoreProcess(NamedTable):
    """Cumulated scores. Made by `score_process`.

    Attributes:
        columns: the k names.
        process: (n + 1, k), in the order of time: 0 before the first row, 0 after the last.
        dates: (n,) the labels of the rows, in that order; row_numbers: (n,) which rows of J they are.
        variables: by variable, the columns that it stands in.
        law: what p-values are from, in words.
        alone: whether a test of some columns takes these as the only ones that were estimated; tests by variable and by column
            then have Holm's correction.
        clocks: what p-values are from where columns have information at different times; places: where the columns are there.
        correlation: (k, k) of the scores of the columns where the process is not decorrelated but clocks are equal.
    """

    columns: tuple[str, ...]
    process: Float[Tensor, "m k"]
    dates: tuple[Any, ...]
    row_numbers: tuple[int, ...]
    variables: dict[str, tuple[str, ...]] = field(repr=False)
    law: str = LIMIT
    alone: bool = False
    clocks: OwnClocks | None = field(default=None, repr=False)
    places: tuple[int, ...] = field(default=(), repr=False)
    correlation: Tensor | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """n."""
        return len(self.dates)

    def double_max(self) -> BreakTest:
        """The largest cumulated score over time and parameters: it says which, and when.

        R's strucchange: `sctest(process, functional = maxBB)`.
        """
        if self.clocks is not None:
            return self._found("double_max", self.clocks.double_max(list(self.places)))
        distance = self.process.abs()
        at = int(distance.amax(-1).argmax())
        statistic, k = float(distance.max()), self.process.shape[1]
        column = self.columns[int(distance[at].argmax())]
        return self._test("double_max", statistic, limiting_distributions.double_max_p_value(statistic, k), at, column)

    def nyblom_hansen(self) -> BreakTest:
        """The average over time of the squared length: against parameters that drift.

        R's strucchange: `sctest(process, functional = meanL2BB)`, whose p-values are interpolated in a simulated table.
        """
        if self.clocks is not None:
            return self._found("nyblom_hansen", self.clocks.nyblom_hansen(list(self.places)))
        squares = self._bridges()[1:].square().sum(-1)
        statistic = float(squares.mean())
        p_value = limiting_distributions.mean_square_p_value(statistic, self.process.shape[1])
        return self._test("nyblom_hansen", statistic, p_value, 1 + int(squares.argmax()))

    def sup_lm(self, trim: float | tuple[float, float] = 0.15) -> BreakTest:
        """The largest Lagrange multiplier statistic of a single break, over the dates between these fractions of the rows.

        R's strucchange: `sctest(process, functional = supLM(trim))`, whose p-values are Hansen's (1997) approximation. Source:
        Andrews 1993, *Tests for parameter instability and structural change with unknown change point*.

        Args:
            trim: the fraction left out at both ends; or (from, to).
        """
        first, last = trim if isinstance(trim, tuple) else (trim, 1 - trim)
        if not 0 < first < last < 1:
            raise ArgumentError(
                f"sup_lm: trim is {trim!r}; expected a fraction between 0 and 0.5, or (from, to) between 0 and 1."
            )
        if self.clocks is not None:
            return self._found("sup_lm", self.clocks.sup_lm(list(self.places), (first, last)))
        statistics = self.lm_statistics()
        low, high = max(int(first * self.rows), 1), min(int(last * self.rows), self.rows - 1)
        if low > high:
            raise NotIdentifiedError(f"sup_lm: no row lies between the fractions {first} and {last} of {self.rows} rows.")
        inside = statistics[low : high + 1]
        at, statistic = low + int(inside.argmax()), float(inside.max())
        p_value = limiting_distributions.supremum_p_value(statistic, self.process.shape[1], (first, last))
        return self._test("sup_lm", statistic, p_value, at, span=(low, high))

    def lm_statistics(self, trim: float = 0.15) -> Float[Tensor, "m"]:
        """(n + 1,) the Lagrange multiplier statistic of a break after each row, |B|²/(t(1 − t)); NaN at both ends.

        Where columns have information at different times it is known at some dates, NaN elsewhere; a column takes part in it from the
        fraction `trim` of its information to 1 − trim. Of fewer than k columns it is turned into the quantile of χ²_k of the same
        probability.
        """
        if self.clocks is not None:
            return self._at_dates(self.clocks, trim)
        t = torch.arange(self.rows + 1, dtype=self.process.dtype, device=self.process.device) / self.rows
        statistics = self._bridges().square().sum(-1) / (t * (1 - t))
        statistics[0], statistics[-1] = torch.nan, torch.nan
        return statistics

    def critical_value(self, level: float = 0.05, test: str = "double_max", trim: float = 0.15) -> float:
        """The line that a statistic crosses with this probability under constancy: the largest cumulated score (`double_max`), or
        the Lagrange multiplier statistics ("sup_lm") between the fractions `trim` and 1 − trim of the rows.
        """
        require("critical_value", "test", test, ("double_max", "sup_lm"))
        k = self.process.shape[1]
        if self.clocks is not None:
            return self.clocks.critical_value(test, level, list(self.places), (trim, 1 - trim))
        if test == "double_max":
            return limiting_distributions.critical_value(lambda x: limiting_distributions.double_max_p_value(x, k), level)
        return limiting_distributions.critical_value(
            lambda x: limiting_distributions.supremum_p_value(x, k, (trim, 1 - trim)), level
        )

    def select(self, columns: str | Sequence[str]) -> ScoreProcess:
        """The process of some columns: whether these parameters changed, the others being whatever they are."""
        names = [columns] if isinstance(columns, str) else list(columns)
        chosen = [place("select", self.columns, name) for name in names]
        wanted = set(names)
        variables = {name: tuple(c for c in own if c in wanted) for name, own in self.variables.items()}
        kept = {name: own for name, own in variables.items() if own}
        places = tuple(self.places[i] for i in chosen) if self.places else ()
        correlation = None if self.correlation is None else self.correlation[chosen][:, chosen]
        process = self.process[:, chosen]
        return replace(self, columns=tuple(names), process=process, variables=kept, places=places, correlation=correlation)

    def by_variable(self, test: str = "sup_lm") -> dict[str, BreakTest]:
        """A test for each variable, of all columns that it stands in."""
        return self._each(test, self.variables)

    def by_column(self, test: str = "sup_lm") -> dict[str, BreakTest]:
        """A test for each column alone."""
        return self._each(test, {name: (name,) for name in self.columns})

    def _each(self, test: str, groups: dict[str, tuple[str, ...]]) -> dict[str, BreakTest]:
        require("score_process", "test", test, TESTS)
        run: Callable[[ScoreProcess], BreakTest] = getattr(ScoreProcess, test)
        found = [self._tried(test, run, self.select(columns)) for columns in groups.values()]
        if self.alone:
            corrected = holm([one.p_value for one in found])
            law = f"{self.law}; Holm's correction over {len(found)} tests"
            found = [replace(o, p_value=p, uncorrected=o.p_value, law=law) for o, p in zip(found, corrected, strict=True)]
        return dict(zip(groups, found, strict=True))

    def _tried(self, test: str, run: Callable[[ScoreProcess], BreakTest], process: ScoreProcess) -> BreakTest:
        """The test, or NaN where a group has too few rows with information."""
        try:
            return run(process)
        except NotIdentifiedError as error:
            if self.clocks is None:
                raise
            return BreakTest(test, math.nan, math.nan, len(process.columns), -1, None, law=str(error))

    def _bridges(self) -> Tensor:
        """(n + 1, k) independent under constancy."""
        return self.process if self.correlation is None else self.process @ inverse_root(self.correlation)

    def _test(
        self,
        test: str,
        statistic: float,
        p_value: float,
        at: int,
        column: str | None = None,
        span: tuple[int, int] | None = None,
    ) -> BreakTest:
        first, last = span or (1, max(self.rows - 1, 1))
        found = Found(statistic, p_value, max(at, 1), 0 if column is None else self.columns.index(column), first, last)
        return self._found(test, found)

    def _found(self, test: str, found: Found) -> BreakTest:
        row, column = found.at - 1, self.columns[found.column] if test == "double_max" else None
        k, first, last = self.process.shape[1], self.dates[found.first - 1], self.dates[found.last - 1]
        number, date = self.row_numbers[row], self.dates[row]
        return BreakTest(test, found.statistic, found.p_value, k, number, date, column, first, last, self.law)

    def _at_dates(self, clocks: OwnClocks, trim: float) -> Tensor:
        """(n + 1,) Lagrange multiplier statistics, NaN where they are not evaluated."""
        statistics = torch.full((self.rows + 1,), torch.nan, dtype=self.process.dtype, device=self.process.device)
        at, values = clocks.lm_statistics(list(self.places), (trim, 1 - trim))
        statistics[at] = values
        return statistics

    def to_xarray(self) -> Any:
        """The process as an xarray.DataArray over "row" and "parameter", without the 0 it starts from (needs xarray)."""
        import xarray as xr

        coords = {"row": list(self.dates), "parameter": list(self.columns)}
        return xr.DataArray(self.process[1:].cpu().numpy(), coords=coords, dims=("row", "parameter"), name="score_process")

    def _title(self) -> str:
        size = f"{counted(len(self.columns), 'parameter')} over {counted(self.rows, 'row')}"
        return f"cumulated scores of {size} (p-values: {self.law}); the largest of each:"

    def _labels(self) -> Sequence[str]:
        return self.columns

    def _table(self) -> dict[str, Any]:
        distance = self.process.abs()
        rows = [max(int(i) - 1, 0) for i in distance.argmax(0)]
        largest = distance.amax(0)
        if self.clocks is not None:
            p_values = [self.clocks.double_max([place]).p_value for place in self.places]
        else:
            p_values = [limiting_distributions.double_max_p_value(float(x), 1) for x in largest]
        return {"largest": largest, "p_value": p_values, "date": [self.dates[i] for i in rows]}


def inverse_root(V: Tensor) -> Tensor:
    """V^(−½), symmetric."""
    scale = V.diagonal().abs().sqrt()
    correlation = V / torch.outer(scale, scale)
    smallest = float(torch.linalg.eigvalsh(correlation)[0])
    if not smallest > len(V) * torch.finfo(V.dtype).eps:
        raise SingularError(
            f"{_NAME}: the covariance of the scores is singular: the smallest eigenvalue, each in its own units, is {smallest:.3g}; "
            "there must be more rows than parameters, and no direction in which the density does not change: select other parameters."
        )
    values, Q = torch.linalg.eigh(V)
    return Q @ (Q.mT * values.rsqrt().unsqueeze(-1))
