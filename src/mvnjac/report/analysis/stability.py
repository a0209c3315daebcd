"""What scores say in the course of time: which rows move the estimates, and whether the parameters have changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvnjac import inference
from mvnjac.inference.structural_change import BreakTest, ScoreProcess
from mvnjac.report.analysis.unavailable import Unavailable, attempt
from mvnjac.score.jacobian import Jacobian

#: as many influential rows are listed
TOP = 15
LEVEL = 0.05
#: of the rows at either end, where a break is not looked for
TRIM = 0.15


@dataclass(frozen=True)
class InfluentialRow:
    """One of the most influential rows: standard_errors is by how many of these leaving it out would move `most_changed`."""

    label: Any
    distance: float
    most_changed: str
    standard_errors: float


@dataclass(frozen=True)
class Influences:
    """(n,) distances sᵢᵀ I⁻¹ sᵢ in the order of time; the rows of the largest ones."""

    distances: list[float]
    top: list[InfluentialRow]


@dataclass(frozen=True)
class Break:
    """Of the parameters of one variable: the supLM test of a single break, by both covariances of the scores.

    Attributes:
        date: the last row before the break, if there is one; row: its number.
        first, last: the rows after which a break was looked for.
        independent_date, independent_statistic, independent_p_value: the same if rows were independent.
        path: (n + 1,) the statistic of a break after each row, NaN where none is looked for; critical: its line at 5%.
    """

    variable: str
    first: Any
    last: Any
    date: Any
    row: int
    statistic: float
    p_value: float
    parameters: int
    independent_date: Any
    independent_statistic: float
    independent_p_value: float
    path: list[float]
    critical: float


@dataclass(frozen=True)
class Cusum:
    """Cumulated scores.

    Attributes:
        path: (n + 1,) the largest over the parameters; critical: the line at 5%.
        date, row, column, statistic, p_value: where it is largest, and of which parameter.
        breaks: one a variable, as in the table; untested: the variables of too few rows.
        covariance: of the scores, in words; law: where p-values are from, in words; correction: of the p-values of all variables, in
            words, or nothing; left_out: parameters known only up to a convention.
    """

    path: list[float]
    critical: float
    date: Any
    row: int
    column: str
    statistic: float
    p_value: float
    breaks: list[Break]
    untested: list[str]
    covariance: str
    law: str
    correction: str
    left_out: tuple[str, ...]


def influences(J: Jacobian, labels: Sequence[Any], information: str) -> Influences:
    """How far the estimates would move without each row."""
    found = inference.influence(J, labels=labels, information=information)
    top = found.top(TOP).to_arrow().to_pylist()
    rows = [InfluentialRow(row["name"], row["distance"], row["most_changed"], row["standard_errors"]) for row in top]
    return Influences(found.distances.tolist(), rows)


def cusum(J: Jacobian, labels: Sequence[Any]) -> Cusum:
    """The cumulated scores, and a test a variable. Scores of returns are not independent, since volatility clusters: their
    covariance is Newey and West's where there are rows enough for it."""
    left_out = tuple(J.model.covariance.unidentified)
    known = left_out or None
    independent = inference.score_process(J, known=known)
    beside = independent.by_variable("sup_lm")
    if independent.clocks is None:
        process, words = _serial(J, known, independent)
    else:
        del independent  # each holds several times the scores of all rows
        process = inference.score_process(J, known=known, lag=None)
        words = f"Newey and West's, of a series (automatic lag: {process.clocks.lag if process.clocks else 0})"
    largest = process.double_max()
    found = _breaks(process, beside, labels)
    return Cusum(
        process.process.abs().amax(-1).tolist(),
        process.critical_value(LEVEL),
        labels[largest.row],
        largest.row,
        str(largest.column),
        largest.statistic,
        largest.p_value,
        found,
        [variable for variable in process.variables if variable not in {one.variable for one in found}],
        words,
        process.law,
        f"p-values have Holm's correction over {len(process.variables)} variables" if process.alone else "",
        left_out,
    )


def _serial(J: Jacobian, known: Sequence[str] | None, independent: ScoreProcess) -> tuple[ScoreProcess, str]:
    """The process with Newey and West's covariance, and which covariance it is; where that cannot be had, that of independent rows."""
    serial = attempt(
        lambda: inference.score_process(J, known=known, scores_covariance=inference.scores_covariance(J, known=known))
    )
    if isinstance(serial, Unavailable):
        return independent, f"of independent rows (not Newey and West's: {serial.reason})"
    return serial, "Newey and West's, of a series (prewhitened, automatic lag)"


def _breaks(process: ScoreProcess, beside: Mapping[str, BreakTest], labels: Sequence[Any]) -> list[Break]:
    """Of the variables that can be tested; beside them the tests as if rows were independent."""
    lines = dict[int, float]()
    return [
        _break(variable, process.select(process.variables[variable]), test, beside[variable], labels, lines)
        for variable, test in process.by_variable("sup_lm").items()
        if not math.isnan(test.p_value) and not math.isnan(beside[variable].p_value)
    ]


def _break(
    variable: str, own: ScoreProcess, test: BreakTest, other: BreakTest, labels: Sequence[Any], lines: dict[int, float]
) -> Break:
    """The limiting law's lines, by numbers of parameters, are kept in `lines`."""
    if own.clocks is not None or test.components not in lines:
        lines[test.components] = own.critical_value(LEVEL, "sup_lm", TRIM)
    path = own.lm_statistics(TRIM).tolist()
    margin = int(TRIM * own.rows) if own.clocks is None else 0
    return Break(
        variable,
        labels[int(test.first)],
        labels[int(test.last)],
        labels[test.row],
        test.row,
        test.statistic,
        test.p_value,
        test.components,
        labels[other.row],
        other.statistic,
        other.p_value,
        [value if margin <= i <= own.rows - margin else math.nan for i, value in enumerate(path)],
        lines[test.components],
    )
