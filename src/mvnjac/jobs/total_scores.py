"""The total score of each parameter over a table, its estimate, and standard errors: the content of `mvnjac score`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import torch

from mvnjac.engines.run import Run
from mvnjac.errors import NotAtEstimateWarning, NotIdentifiedError
from mvnjac.gaussian import Gaussian
from mvnjac.inference.estimate_covariances import covariance_of_estimates
from mvnjac.inference.standard_errors import KINDS, MOST_INVERTED
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request, is_estimate, prepared
from mvnjac.jobs.scores import PortableGaussian, Sum
from mvnjac.tables.base import Source
from mvnjac.tables.slices import rows_per_slice
from mvnjac.tensors import memory

#: the kinds of standard errors that `total_scores` computes
ERRORS = (*KINDS, "hac")
#: the level of the intervals
LEVEL = 0.95
#: with more multiplications, n p², robust errors are computed only on request: about a minute on two cores
_MOST_BY_DEFAULT = 2e12
#: the half-width of an interval, in standard errors
_QUANTILE = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True)
class ScoreTable:
    """Total scores, one entry per parameter.

    Attributes:
        rows: the number of observations.
        log_likelihood: Σ log p.
        names: the parameters; words: the same in words.
        estimate: the value of each parameter.
        score: the sum of its scores.
        deviation: √(JᵀJ)ₖₖ, the standard deviation of this sum for independent scores with mean 0.
        errors: the standard errors by kind; NaN where the information is not positive definite.
        at_estimate: whether the values are the maximum-likelihood estimate from these rows.
        notes: by kind, what a reader of its standard errors should know, such as choices made from the data.
    """

    rows: int
    log_likelihood: float
    names: list[str]
    words: list[str]
    estimate: list[float]
    score: list[float]
    deviation: list[float]
    errors: dict[str, list[float]]
    at_estimate: bool
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> list[float]:
        """The total score in units of its standard deviation; NaN where that is 0."""
        return [s / v if v > 0 else math.nan for s, v in zip(self.score, self.deviation, strict=True)]

    @property
    def basis(self) -> str | None:
        """The kind of standard errors that z and the intervals are computed from: the last; None where there are none."""
        return next(reversed(self.errors), None) if self.at_estimate else None

    @property
    def columns(self) -> dict[str, list[float]]:
        """The numbers by heading: all columns for programs, in their order."""
        columns = {"estimate": self.estimate, "score": self.score, "deviation": self.deviation, "ratio": self.ratio}
        columns |= {f"{kind}_error": errors for kind, errors in self.errors.items()}
        if self.basis is not None:
            pairs = list(zip(self.estimate, self.errors[self.basis], strict=True))
            columns["z"] = [value / error if error > 0 else math.nan for value, error in pairs]
            columns["lower"] = [value - _QUANTILE * error for value, error in pairs]
            columns["upper"] = [value + _QUANTILE * error for value, error in pairs]
        return columns

    def lines(self) -> Iterator[tuple[str, list[float]]]:
        """The name of each parameter and its numbers, in the order of `columns`."""
        for name, *numbers in zip(self.names, *self.columns.values(), strict=True):
            yield name, numbers

    def largest(self, count: int) -> ScoreTable:
        """The parameters with the largest |z|, or |ratio| for given values, in descending order.

        The same table if there are no more than `count`, or nothing to compare.
        """
        key = "z" if self.basis is not None else "ratio"
        if count >= len(self.names) or (self.at_estimate and self.basis is None):
            return self
        sizes = [-1.0 if math.isnan(value) else abs(value) for value in self.columns[key]]
        return self._at(sorted(range(len(sizes)), key=lambda i: -sizes[i])[:count])

    def _at(self, positions: Sequence[int]) -> ScoreTable:
        def some(values: Sequence[Any]) -> list[Any]:
            return [values[i] for i in positions]

        return ScoreTable(
            self.rows,
            self.log_likelihood,
            some(self.names),
            some(self.words),
            some(self.estimate),
            some(self.score),
            some(self.deviation),
            {kind: some(errors) for kind, errors in self.errors.items()},
            self.at_estimate,
            self.notes,
        )


def total_scores(
    data: Data, request: Request, wrt: Sequence[str] | None, run: Run, errors: Sequence[str] | None = None
) -> ScoreTable:
    """The total score of each parameter and its standard deviation from JᵀJ, with standard errors.

    Args:
        errors: kinds of standard errors, from `ERRORS`. "hac" needs all rows in memory. None: for estimates those from the
            expected information (with missing entries, the observed one) and robust ones, unless these take long; for given
            values none.

    Raises:
        MemoryLimitError: the rows do not fit into memory for "hac".
    """
    source, names, gaussian = prepared(data, request, run)
    slices = source.slices(rows_per_slice(len(names)))
    at_estimate, notes = is_estimate(data, request, source, names, run), dict[str, str]()
    if errors is None:
        errors = _default_kinds(gaussian, run.rows_of(slices), notes) if at_estimate else ()
    kinds = tuple(kind for kind in errors if kind in KINDS)
    columns = None if wrt is None else tuple(wrt)
    job = Sum(data, tuple(names), PortableGaussian.of(gaussian, run.device), columns, squares=True, errors=kinds)
    sums, score_sums = run.over(job, slices, "summing the scores").sums, job.score_sums
    with run.progress.stage("standard errors"):
        found = score_sums.standard_errors(sums)
        if "hac" in errors:
            found["hac"], notes["hac"] = _hac_errors(data, source, names, gaussian, score_sums.columns)
    return ScoreTable(
        score_sums.rows(sums),
        score_sums.log_likelihood(sums),
        score_sums.columns,
        score_sums.descriptions,
        score_sums.estimates,
        score_sums.scores(sums).tolist(),
        score_sums.deviations(sums).tolist(),
        {kind: found[kind] for kind in errors},
        at_estimate,
        notes,
    )


def _default_kinds(gaussian: Gaussian, rows: int | None, notes: dict[str, str]) -> tuple[str, ...]:
    """The kinds of standard errors of an estimate; a note says why robust ones are left out."""
    model_errors = "observed" if gaussian.model.arguments.missing else "expected"
    size = len(gaussian.columns())
    if size > MOST_INVERTED or (rows or 0) * size**2 > _MOST_BY_DEFAULT:
        notes["sandwich"] = f"left out, since they take long for {size:,} parameters; --errors {model_errors},sandwich has them"
        if size > MOST_INVERTED:
            notes["sandwich"] = f"not available for more than {MOST_INVERTED:,} parameters"
        return (model_errors,)
    return (model_errors, "sandwich")


def _hac_errors(
    data: Data, source: Source, names: Sequence[str], gaussian: Gaussian, columns: Sequence[str]
) -> tuple[list[float], str]:
    """Newey-West standard errors, for the rows in the order of the index or of the table, and how they were computed.

    The scores are prewhitened if there are enough rows for an autoregression.
    """
    batches = [rows for at in source.slices(rows_per_slice(len(names))) for rows in data.rows(names, at)]
    x = torch.cat([rows.x for rows in batches]) if batches else torch.zeros(0, len(names), dtype=torch.float64, device="cpu")
    if len(x) < 2:
        return [math.nan] * len(columns), "a time series needs at least two rows"
    labels = [label for rows in batches if rows.index is not None for label in rows.index.to_pylist()]
    J = gaussian.jacobian(x)
    shape = (3, len(x), len(J.columns()))  # the scores, their autoregression and its residuals
    memory.require("score --errors hac", shape, J.dtype, J.device, "select fewer columns, or use --errors sandwich.")
    arguments: dict[str, Any] = {"wrt": list(columns), "order_by": labels or None}
    with warnings.catch_warnings(action="ignore", category=NotAtEstimateWarning):  # the total scores are part of the output
        try:
            found = covariance_of_estimates(J, "hac", **arguments)
        except NotIdentifiedError:
            found = covariance_of_estimates(J, "hac", prewhite=False, **arguments)
    return found.standard_errors.tolist(), found.kind
