"""The result of a test of structural change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mvnjac.errors import NotIdentifiedError
from mvnjac.inference.process_plots import Process, plot_statistic
from mvnjac.inference.result_table import ResultFields

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: the fraction of rows that is left out at both ends; or (from, to)
Trim = float | tuple[float, float]
LIMIT = "the limiting distribution"


@dataclass(frozen=True)
class BreakTest(ResultFields):
    """A test of constant parameters.

    Attributes:
        test: "double_max", "nyblom_hansen" or "sup_lm".
        statistic, p_value: of the hypothesis of constant parameters; NaN if there is too little information for a test.
        components: k, the number of columns.
        row, date: the estimate of the last row before the break: where the process is furthest from 0 (for "nyblom_hansen",
            whose statistic is an average, where its squared norm is largest); −1 and None if there is no test.
        column: the column of the largest deviation ("double_max"); else None.
        first, last: the dates of the first and the last row after which a break was considered.
        law: the distribution that the p-value is from, in words.
        uncorrected: the p-value before Holm's correction; None without correction.
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
    _process: Process | None = field(default=None, repr=False, compare=False)
    _columns: tuple[str, ...] = field(default=(), repr=False, compare=False)
    _trim: Trim = field(default=0.15, repr=False, compare=False)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the statistic of a break after each row, its 5% critical value, and the estimated date of the break.

        For "double_max" it is the largest absolute cumulative score of all columns, for "sup_lm" the Lagrange multiplier statistic,
        and for "nyblom_hansen" the squared norm of the cumulative scores, whose average is the test statistic (without critical
        value).

        Args:
            ax: the matplotlib axes to draw on; None: those of a new pyplot figure.

        Returns:
            The axes.

        Raises:
            NotIdentifiedError: there was too little information for the test.
        """
        if self._process is None or self.date is None:
            raise NotIdentifiedError(f"plot: there is no statistic to draw; the p-value is from: {self.law}.")
        process = self._process.select(self._columns) if self._columns else self._process
        return plot_statistic(process, self.test, self._trim, (self.row, self.statistic), ax)

    def without_process(self) -> BreakTest:
        """The same result without the scores that its chart needs, so that these can be freed."""
        return replace(self, _process=None)


def fractions(trim: Trim) -> tuple[float, float]:
    """From and to, as fractions of the rows."""
    return trim if isinstance(trim, tuple) else (trim, 1 - trim)
