"""Tests of structural change, based on cumulative scores.

At the estimate the scores sum to 0. If the parameters are constant over time, the cumulative scores, decorrelated by their
covariance, are asymptotically k independent Brownian bridges; structural change moves them further from 0 (Nyblom 1989; Hansen
1992; Zeileis & Hornik 2007, *Generalized M-fluctuation tests for parameter instability*; Merkle & Zeileis 2013 for structural
equation models).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ArgumentError, NotIdentifiedError, counted
from mvnjac.inference import limiting_distributions
from mvnjac.inference.break_test import LIMIT, BreakTest, Trim, fractions
from mvnjac.inference.estimating_functions import require
from mvnjac.inference.information_clocks import BreakEstimate, InformationClocks
from mvnjac.inference.process_statistics import inverse_root
from mvnjac.inference.result_table import ResultTable, position
from mvnjac.inference.simulated_distribution import holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TESTS = ("double_max", "nyblom_hansen", "sup_lm")


@dataclass(frozen=True, repr=False, eq=False)
class ScoreProcess(ResultTable):
    """Cumulative scores; returned by `score_process`.

    Attributes:
        columns: the k names.
        process: (n + 1, k) in the order of time: 0 before the first row, 0 after the last.
        dates: (n,) the labels of the rows, in that order.
        row_numbers: (n,) their numbers in J.
        variables: for each variable, the columns that are about it.
        law: the distribution that p-values are from, in words.
        alone: whether tests of some columns treat these as the only estimated ones; tests by variable and by column then have
            Holm's correction.
        clocks: the tests if columns have information at different times; else None.
        places: the positions of the columns there.
        correlation: (k, k) of the scores, if the process is not decorrelated but all clocks are equal; else None.
    """

    columns: tuple[str, ...]
    process: Float[Tensor, "m k"]
    dates: tuple[Any, ...]
    row_numbers: tuple[int, ...]
    variables: dict[str, tuple[str, ...]] = field(repr=False)
    law: str = LIMIT
    alone: bool = False
    clocks: InformationClocks | None = field(default=None, repr=False)
    places: tuple[int, ...] = field(default=(), repr=False)
    correlation: Tensor | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """The number of rows, n."""
        return len(self.dates)

    def double_max(self) -> BreakTest:
        """The largest absolute cumulative score over time and columns, which indicates the column and the date of a change.

        R's strucchange: `sctest(process, functional = maxBB)`.
        """
        if self.clocks is not None:
            return self._break_test("double_max", self.clocks.double_max(list(self.places)))
        distance = self.process.abs()
        at = int(distance.amax(-1).argmax())
        statistic, k = float(distance.max()), self.process.shape[1]
        column = int(distance[at].argmax())
        return self._test("double_max", statistic, limiting_distributions.double_max_p_value(statistic, k), at, column)

    def nyblom_hansen(self) -> BreakTest:
        """The average over time of the squared norm, for alternatives in which parameters drift.

        R's strucchange: `sctest(process, functional = meanL2BB)`, with p-values interpolated in a simulated table.
        """
        if self.clocks is not None:
            return self._break_test("nyblom_hansen", self.clocks.nyblom_hansen(list(self.places)))
        squares = self._independent_components()[1:].square().sum(-1)
        statistic = float(squares.mean())
        p_value = limiting_distributions.mean_square_p_value(statistic, self.process.shape[1])
        return self._test("nyblom_hansen", statistic, p_value, 1 + int(squares.argmax()))

    def sup_lm(self, trim: Trim = 0.15) -> BreakTest:
        """The largest Lagrange multiplier statistic of a single break, over the dates between two fractions of the rows.

        R's strucchange: `sctest(process, functional = supLM(trim))`, with Hansen's (1997) approximation of p-values.

        Args:
            trim: the fraction that is left out at both ends; or (from, to).

        Raises:
            NotIdentifiedError: there is no date between the fractions.

        Source: Andrews 1993, *Tests for parameter instability and structural change with unknown change point*.
        """
        first, last = fractions(trim)
        if not 0 < first < last < 1:
            raise ArgumentError(
                f"sup_lm: trim is {trim!r}; expected a fraction between 0 and 0.5, or (from, to) between 0 and 1."
            )
        if self.clocks is not None:
            return self._break_test("sup_lm", self.clocks.sup_lm(list(self.places), (first, last)), trim)
        statistics = self.lm_statistics()
        low, high = max(int(first * self.rows), 1), min(int(last * self.rows), self.rows - 1)
        if low > high:
            raise NotIdentifiedError(
                f"sup_lm: no row lies between the fractions {first} and {last} of {self.rows} rows; choose a wider trim."
            )
        inside = statistics[low : high + 1]
        at, statistic = low + int(inside.argmax()), float(inside.max())
        p_value = limiting_distributions.supremum_p_value(statistic, self.process.shape[1], (first, last))
        return self._test("sup_lm", statistic, p_value, at, span=(low, high), trim=trim)

    def lm_statistics(self, trim: Trim = 0.15) -> Float[Tensor, "m"]:
        """(n + 1,) the Lagrange multiplier statistic of a break after each row, |B|²/(t(1 − t)); NaN at both ends.

        If columns have information at different times, the statistic is computed at some dates, and is NaN at the others. A
        column enters between the fractions `trim` and 1 − trim of its information; with fewer than k columns the statistic is
        converted to the χ²_k quantile with the same probability.
        """
        if self.clocks is not None:
            statistics = torch.full((self.rows + 1,), torch.nan, dtype=self.process.dtype, device=self.process.device)
            at, values = self.clocks.lm_statistics(list(self.places), fractions(trim))
            statistics[at] = values
            return statistics
        t = torch.arange(self.rows + 1, dtype=self.process.dtype, device=self.process.device) / self.rows
        statistics = self._independent_components().square().sum(-1) / (t * (1 - t))
        statistics[0], statistics[-1] = torch.nan, torch.nan
        return statistics

    def critical_value(self, level: float = 0.05, test: str = "double_max", trim: Trim = 0.15) -> float:
        """The critical value of a test at this level.

        Args:
            level: the probability of rejection if parameters are constant.
            test: "double_max", for the largest absolute cumulative score; or "sup_lm", for the Lagrange multiplier statistics.
            trim: for "sup_lm", the fraction of the rows that is left out at both ends; or (from, to).
        """
        require("critical_value", "test", test, ("double_max", "sup_lm"))
        k = self.process.shape[1]
        if self.clocks is not None:
            return self.clocks.critical_value(test, level, list(self.places), fractions(trim))
        if test == "double_max":
            return limiting_distributions.critical_value(lambda x: limiting_distributions.double_max_p_value(x, k), level)
        return limiting_distributions.critical_value(
            lambda x: limiting_distributions.supremum_p_value(x, k, fractions(trim)), level
        )

    def select(self, columns: str | Sequence[str]) -> ScoreProcess:
        """The process of some columns, for tests of these parameters that allow the others to change."""
        names = [columns] if isinstance(columns, str) else list(columns)
        at = [position("select", self.columns, name) for name in names]
        selected = set(names)
        by_variable = {name: tuple(c for c in columns if c in selected) for name, columns in self.variables.items()}
        variables = {name: columns for name, columns in by_variable.items() if columns}
        places = tuple(self.places[i] for i in at) if self.places else ()
        correlation = None if self.correlation is None else self.correlation[at][:, at]
        process = self.process[:, at]
        return replace(self, columns=tuple(names), process=process, variables=variables, places=places, correlation=correlation)

    def by_variable(self, test: str = "sup_lm") -> dict[str, BreakTest]:
        """A test for each variable, of all columns that are about it."""
        return self._test_groups(test, self.variables)

    def by_column(self, test: str = "sup_lm") -> dict[str, BreakTest]:
        """A test for each column alone."""
        return self._test_groups(test, {name: (name,) for name in self.columns})

    def _test_groups(self, test: str, groups: dict[str, tuple[str, ...]]) -> dict[str, BreakTest]:
        require("score_process", "test", test, TESTS)
        tests = [self._test_or_nan(test, self.select(columns)) for columns in groups.values()]
        # the tests share one process: those of the columns would be copies
        tests = [replace(one, _process=self, _columns=columns) for one, columns in zip(tests, groups.values(), strict=True)]
        if self.alone:
            corrected = holm([one.p_value for one in tests])
            law = f"{self.law}; Holm's correction over {len(tests)} tests"
            tests = [replace(t, p_value=p, uncorrected=t.p_value, law=law) for t, p in zip(tests, corrected, strict=True)]
        return dict(zip(groups, tests, strict=True))

    def _test_or_nan(self, test: str, process: ScoreProcess) -> BreakTest:
        """The test, or NaN if the columns have too few rows with information."""
        try:
            result: BreakTest = getattr(process, test)()
            return result
        except NotIdentifiedError as error:
            if self.clocks is None:
                raise
            return BreakTest(test, math.nan, math.nan, len(process.columns), -1, None, law=str(error))

    def _independent_components(self) -> Tensor:
        """(n + 1, k) asymptotically independent Brownian bridges if parameters are constant."""
        return self.process if self.correlation is None else self.process @ inverse_root(self.correlation)

    def _test(
        self,
        test: str,
        statistic: float,
        p_value: float,
        at: int,
        column: int = 0,
        span: tuple[int, int] | None = None,
        trim: Trim = 0.15,
    ) -> BreakTest:
        first, last = span or (1, max(self.rows - 1, 1))
        return self._break_test(test, BreakEstimate(statistic, p_value, max(at, 1), column, first, last), trim)

    def _break_test(self, test: str, found: BreakEstimate, trim: Trim = 0.15) -> BreakTest:
        row, column = found.row_count - 1, self.columns[found.column] if test == "double_max" else None
        k, first, last = self.process.shape[1], self.dates[found.first - 1], self.dates[found.last - 1]
        number, date = self.row_numbers[row], self.dates[row]
        return BreakTest(
            test, found.statistic, found.p_value, k, number, date, column, first, last, self.law, _process=self, _trim=trim
        )

    def squared_norms(self) -> Float[Tensor, "m"]:
        """(n + 1,) the squared norm of the decorrelated cumulative scores after each row."""
        return self._independent_components().square().sum(-1)

    def plot(self, ax: Axes | None = None, *, test: str = "double_max") -> Axes:
        """Draw the statistic of a break after each row, its 5% critical value, and the date where it is largest.

        Args:
            ax: the matplotlib axes to draw on; None: those of a new pyplot figure.
            test: "double_max", "nyblom_hansen" or "sup_lm", as in `BreakTest.plot`.

        Returns:
            The axes.

        Raises:
            ArgumentError: there is no such test.
            NotIdentifiedError: there is too little information for the test.

        Example:
            >>> import matplotlib
            >>> matplotlib.use("agg")
            >>> import torch, mvnjac
            >>> from mvnjac import inference
            >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            >>> process = inference.score_process(mvnjac.fit(x).gaussian.jacobian(x))
            >>> process.plot(test="sup_lm").get_ylabel()
            'Lagrange multiplier statistic'
        """
        require("plot", "test", test, TESTS)
        found: BreakTest = getattr(self, test)()
        return found.plot(ax)

    def to_xarray(self) -> Any:
        """The process as an xarray.DataArray over "row" and "parameter", without its initial 0 (needs xarray)."""
        import xarray as xr

        coords = {"row": list(self.dates), "parameter": list(self.columns)}
        return xr.DataArray(self.process[1:].cpu().numpy(), coords=coords, dims=("row", "parameter"), name="score_process")

    def _title(self) -> str:
        size = f"{counted(len(self.columns), 'parameter')} over {counted(self.rows, 'row')}"
        return f"cumulative scores of {size} (p-values: {self.law}); the largest of each:"

    def _labels(self) -> Sequence[str]:
        return self.columns

    def _table(self) -> dict[str, Any]:
        distance = self.process.abs()
        rows = [max(int(i) - 1, 0) for i in distance.argmax(0)]
        largest = distance.amax(0)
        if self.clocks is not None:
            p_values = [self.clocks.double_max([column]).p_value for column in self.places]
        else:
            p_values = [limiting_distributions.double_max_p_value(float(x), 1) for x in largest]
        return {"largest": largest, "p_value": p_values, "date": [self.dates[i] for i in rows]}
