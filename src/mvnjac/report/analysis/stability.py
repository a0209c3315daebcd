"""Stability over time: influential rows, and tests for structural breaks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvnjac import inference
from mvnjac.inference.break_test import BreakTest
from mvnjac.inference.process_plots import LEVEL, statistic_path
from mvnjac.inference.simulated_distribution import holm
from mvnjac.inference.structural_change import ScoreProcess
from mvnjac.report.analysis.unavailable import Unavailable, attempt
from mvnjac.score.jacobian import Jacobian

#: the number of influential rows in the table
TOP = 15
#: the share of rows at either end where no break is looked for
TRIM = 0.15


@dataclass(frozen=True)
class InfluentialRow:
    """An influential row. Without it, the estimate `most_changed` would move by `standard_errors` standard errors."""

    label: Any
    distance: float
    most_changed: str
    standard_errors: float


@dataclass(frozen=True)
class Influences:
    """(n,) distances sᵢᵀ I⁻¹ sᵢ in the order of time, and the rows with the largest distances."""

    distances: list[float]
    top: list[InfluentialRow]


@dataclass(frozen=True)
class Break:
    """The supLM test of a single break in the parameters of one variable.

    Attributes:
        first, last: the first and the last row after which a break was looked for.
        date, row: the label and the number of the last row before the most likely break.
        corrected_p_value: with Holm's correction for the number of variables that are tested.
        independent_date, independent_statistic, independent_p_value: results for the covariance of independent scores.
        path: (n,) the statistic of a break after each row, NaN where no break is looked for.
        critical: the critical value of the path at 5%.
    """

    variable: str
    first: Any
    last: Any
    date: Any
    row: int
    statistic: float
    p_value: float
    corrected_p_value: float
    parameters: int
    independent_date: Any
    independent_statistic: float
    independent_p_value: float
    path: list[float]
    critical: float


@dataclass(frozen=True)
class Cusum:
    """Cumulative scores, and tests for structural breaks.

    Attributes:
        path: (n,) the largest cumulative score over all parameters after each row; critical: its critical value at 5%.
        date, row, column, statistic, p_value: the maximum of the path, and its parameter.
        breaks: the test of each variable.
        untested: the variables with too few observations.
        covariance, law, correction: in words, the covariance of the scores, the origin of the p-values, and their correction
            for several variables, if any.
        left_out: parameters that are identified only up to a convention.
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
    """The influence of each row on the estimates."""
    found = inference.influence(J, labels=labels, information=information)
    top = found.top(TOP).to_arrow().to_pylist()
    rows = [InfluentialRow(row["name"], row["distance"], row["most_changed"], row["standard_errors"]) for row in top]
    return Influences(found.distances.tolist(), rows)


def cusum(J: Jacobian, labels: Sequence[Any]) -> Cusum:
    """The cumulative scores, and a test for each variable.

    The scores of returns are not independent, because of volatility clustering; if there are enough rows, the Newey-West
    covariance of the scores is used.
    """
    left_out = tuple(J.model.covariance.unidentified)
    known = left_out or None
    independent = inference.score_process(J, known=known)
    independent_tests = _without_process(independent.by_variable("sup_lm"))
    if independent.clocks is None:
        process, words = _serial(J, known, independent)
    else:
        del independent  # frees several arrays of the size of all scores
        process = inference.score_process(J, known=known, lag=None)
        words = f"Newey-West for time series (automatic lag: {process.clocks.lag if process.clocks else 0})"
    largest = process.double_max()
    found = _breaks(process, independent_tests, labels)
    return Cusum(
        process.process[1:].abs().amax(-1).tolist(),
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
    """The process with the Newey-West covariance, or that of independent rows; also returns the covariance in words."""
    serial = attempt(
        lambda: inference.score_process(J, known=known, scores_covariance=inference.scores_covariance(J, known=known))
    )
    if isinstance(serial, Unavailable):
        return independent, f"that of independent rows (Newey-West is not available: {serial.reason})"
    return serial, "Newey-West for time series (prewhitened, automatic lag)"


def _without_process(tests: Mapping[str, BreakTest]) -> dict[str, BreakTest]:
    """The same tests without the process of all scores, which each of them holds for its chart."""
    return {variable: test.without_process() for variable, test in tests.items()}


def _breaks(process: ScoreProcess, independent: Mapping[str, BreakTest], labels: Sequence[Any]) -> list[Break]:
    """The tests of the variables with enough observations."""
    critical_values = dict[int, float]()
    tests = {
        variable: test
        for variable, test in process.by_variable("sup_lm").items()
        if not math.isnan(test.p_value) and not math.isnan(independent[variable].p_value)
    }
    p_values = [test.p_value for test in tests.values()]
    corrected = p_values if process.alone else holm(p_values)
    return [
        _break(process.select(process.variables[variable]), (test, variable, p), independent[variable], labels, critical_values)
        for (variable, test), p in zip(tests.items(), corrected, strict=True)
    ]


def _break(
    process: ScoreProcess,
    found: tuple[BreakTest, str, float],
    independent: BreakTest,
    labels: Sequence[Any],
    critical_values: dict[int, float],
) -> Break:
    """A test with its variable and its corrected p-value; `critical_values` caches those of the limiting distribution."""
    test, variable, corrected = found
    if process.clocks is not None or test.components not in critical_values:
        critical_values[test.components] = process.critical_value(LEVEL, "sup_lm", TRIM)
    path = statistic_path(process, "sup_lm", TRIM)[1:].clone()
    path[test.row] = test.statistic
    return Break(
        variable,
        labels[int(test.first)],
        labels[int(test.last)],
        labels[test.row],
        test.row,
        test.statistic,
        test.p_value,
        corrected,
        test.components,
        labels[independent.row],
        independent.statistic,
        independent.p_value,
        path.tolist(),
        critical_values[test.components],
    )
