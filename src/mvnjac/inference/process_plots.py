"""Charts of results over time: score processes and influential rows. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: the level of the critical value that is drawn, and of tests in the report
LEVEL = 0.05
_LABELS = {
    "double_max": "largest absolute cumulative score",
    "sup_lm": "Lagrange multiplier statistic",
    "nyblom_hansen": "squared norm of cumulative scores",
}


class Process(Protocol):
    """What a chart uses of a score process."""

    @property
    def dates(self) -> tuple[Any, ...]: ...
    @property
    def row_numbers(self) -> tuple[int, ...]: ...
    @property
    def process(self) -> Tensor: ...
    def select(self, columns: Any) -> Any: ...
    def lm_statistics(self, trim: Any = ...) -> Tensor: ...
    def squared_norms(self) -> Tensor: ...
    def critical_value(self, level: float = ..., test: str = ..., trim: Any = ...) -> float: ...


def plot_statistic(process: Process, test: str, trim: Any, found: tuple[int, float], ax: Axes | None) -> Axes:
    """The statistic of a test after each row.

    found: the number of the row with the largest statistic, and the test statistic, which for an average is drawn instead of a
    critical value.
    """
    from mvnjac.plots.axes import new_axes
    from mvnjac.plots.series import draw_statistic

    number, statistic = found
    at = process.row_numbers.index(number)
    values = statistic_path(process, test, trim)[1:].double().cpu().numpy().copy()
    if test == "nyblom_hansen":
        line, words = statistic, "average"
    else:
        line, words = process.critical_value(LEVEL, test, trim), f"{LEVEL:.0%} line"
        values[at] = statistic  # a date between those of the path, if columns have information at different times
    axes = new_axes(ax, (8.0, 3.2))
    draw_statistic(axes, values, process.dates, line, at, critical_text=words)
    axes.set_ylabel(_LABELS[test])
    return axes


def statistic_path(process: Process, test: str, trim: Any = 0.15) -> Tensor:
    """(n + 1,) the statistic after each row, NaN where no break is looked for."""
    if test == "double_max":
        return process.process.abs().amax(-1)
    if test == "nyblom_hansen":
        return process.squared_norms()
    path, n = process.lm_statistics(trim).clone(), len(process.dates)
    first, last = trim if isinstance(trim, tuple) else (trim, 1 - trim)
    path[: max(int(first * n), 1)], path[min(int(last * n), n - 1) + 1 :] = torch.nan, torch.nan
    return path


def plot_influence(distances: Tensor, labels: Sequence[Any], marked: int, ax: Axes | None) -> Axes:
    """One stem for each row."""
    from mvnjac.plots.axes import new_axes
    from mvnjac.plots.series import draw_stems

    axes = new_axes(ax, (8.0, 3.2))
    draw_stems(axes, distances.double().cpu().numpy(), labels, threshold=1.0, marked=marked)
    axes.set_ylabel("influence on all estimates")
    return axes
