"""The content of a report, computed once from one `Jacobian`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from torch import Tensor

from mvnjac.errors import UsageError, counted
from mvnjac.estimation.conditioning import Conditioning, conditioning
from mvnjac.estimation.structure import kebab
from mvnjac.gaussian import Gaussian
from mvnjac.report.analysis.alerts import Alerts, alerts
from mvnjac.report.analysis.diagnostics import Missing, missing_entries
from mvnjac.report.analysis.distances import Distances, distances
from mvnjac.report.analysis.estimates_table import HeatMap, ParameterTable, TotalScore, estimated, given, total_score
from mvnjac.report.analysis.load_rows import LabelledRows
from mvnjac.report.analysis.stability import Cusum, Influences, cusum, influences
from mvnjac.report.analysis.unavailable import Unavailable, attempt
from mvnjac.report.analysis.volatilities import Volatilities, volatilities
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.fingerprint import Fingerprint
from mvnjac.statistics.sufficient import SufficientStatistics

#: with this many scores, their covariance can be formed and inverted in seconds
_MOST_PARAMETERS = 2000


@dataclass(frozen=True)
class Description:
    """How the page describes the rows and the parameters.

    Attributes:
        title: the name of the data.
        index: the name of the row labels; None: rows are numbered.
        log_returns, returns: whether the rows are log returns, or relative changes.
        missing: "marginalise", or None.
        files: the names of the files that the parameters are from, by "mean", "covariance" or "model".
        command: how the report was made.
    """

    title: str
    index: str | None = None
    log_returns: bool = False
    missing: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    returns: bool = False


@dataclass(frozen=True)
class Content:
    """Everything that a report shows.

    Attributes:
        data: the description of the rows and the parameters.
        names: the d variables.
        labels: (n,) the labels of the rows.
        sorted: whether the rows are sorted by their labels.
        structure: the structure of the covariance, as in --structure.
        log_likelihood: Σ log p.
        estimate: whether the parameters are the estimate from these rows.
        boundary: the parameters at their lower bound.
        total, parameters, heat, influence, distances, cusum, volatilities, missing, conditioning, alerts: the parts.
    """

    data: Description
    names: list[str]
    labels: list[Any]
    sorted: bool
    structure: str
    log_likelihood: float
    estimate: bool
    boundary: list[str]
    total: TotalScore | Unavailable
    parameters: ParameterTable
    heat: HeatMap | Unavailable
    influence: Influences | Unavailable
    distances: Distances
    cusum: Cusum | Unavailable
    volatilities: Volatilities
    missing: Missing
    conditioning: Conditioning
    alerts: Alerts

    @property
    def rows(self) -> int:
        """The number of rows n."""
        return len(self.labels)

    @property
    def row(self) -> str:
        """What a row is called: "day" if all labels are dates, else "row"."""
        return "day" if all(type(label) is date for label in self.labels) else "row"

    def in_words(self, parameter: str) -> str:
        """A parameter in words, such as "variance of CHF"."""
        names = self.parameters.names
        return self.parameters.words[names.index(parameter)] if parameter in names else parameter


def content_of(gaussian: Gaussian, names: list[str], rows: LabelledRows, data: Description, estimate: bool) -> Content:
    """Compute the content of a report for rows in memory."""
    J = gaussian.jacobian(rows.x)
    incomplete, n, p = bool(rows.x.isnan().any()), len(rows.x), len(J.columns())
    information = "observed" if estimate and incomplete else "expected"
    total = total_score(J, information)
    parameters, heat = estimated(J, information) if estimate else given(J)
    return Content(
        data,
        names,
        rows.labels,
        rows.sorted,
        kebab(type(gaussian.covariance).__name__),
        float(J.log_prob.sum()),
        estimate,
        list(gaussian.boundary),
        total,
        parameters,
        heat,
        attempt(lambda: influences(J, rows.labels, "observed" if estimate else "expected"), n, p),
        distances(J, rows.labels),
        _cusum(J, rows.labels, estimate),
        volatilities(J, names, parameters, estimate),
        missing_entries(rows.x, names, rows.labels),
        conditioning(J.model.parameter("covariance_matrix").detach(), names),
        alerts(rows.x, names, rows.labels, p),
    )


def parameter_count(gaussian: Gaussian) -> int:
    """The number of parameters.

    Raises:
        UsageError: more parameters than a report can show.
    """
    count = len(gaussian.columns())
    if count > _MOST_PARAMETERS:
        raise UsageError(
            f"The model has {counted(count, 'parameter')}, but a report can have at most {_MOST_PARAMETERS}: select fewer variables, "
            "or use a structure with fewer parameters (--columns, --structure)."
        )
    return count


def is_estimate_from(fingerprint: Fingerprint | None, x: Tensor) -> bool:
    """Whether the rows of a fit, given by their fingerprint, are these rows."""
    sample = None if fingerprint is None else SufficientStatistics.of(x, None, lambda i: f"variable {i}", "report")
    return fingerprint is not None and sample is not None and fingerprint.matches(Fingerprint.of(sample))


def _cusum(J: Jacobian, labels: list[Any], estimate: bool) -> Cusum | Unavailable:
    if not estimate:
        return Unavailable(
            "The parameters are not the estimate from these rows: their scores do not sum to 0 and cannot be tested for structural "
            "breaks. Estimate the parameters from these rows to see this test (without --mean, --covariance and --model)."
        )
    return attempt(lambda: cusum(J, labels), len(labels), len(J.columns()))
