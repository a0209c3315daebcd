"""What a report says: computed once, from one `Jacobian`, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from mvnjac.engines.run import Run
from mvnjac.errors import UsageError, counted
from mvnjac.estimation import model_file
from mvnjac.estimation.conditioning import Conditioning, conditioning
from mvnjac.estimation.structure import kebab
from mvnjac.gaussian import Gaussian
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request, prepared
from mvnjac.report.analysis.diagnostics import Missing, missing_entries
from mvnjac.report.analysis.estimates_table import HeatMap, ParameterTable, TotalScore, estimated, given, total_score
from mvnjac.report.analysis.load_rows import observations
from mvnjac.report.analysis.stability import Cusum, Influences, cusum, influences
from mvnjac.report.analysis.unavailable import Unavailable, attempt
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.fingerprint import Fingerprint
from mvnjac.statistics.sufficient import SufficientStatistics

#: the covariance of so many scores is still formed and inverted in seconds
_PARAMETERS = 2000


@dataclass(frozen=True)
class Content:
    """Everything that a report shows.

    Attributes:
        data: where the rows are from; model_file: where the density is from, if it was given.
        names: the d variables; labels: (n,) of the rows; sorted: whether these are ascending.
        structure: of the covariance, as --structure calls it.
        log_likelihood: Σ log p.
        estimate: whether the parameters were estimated from these rows: here, or by the fit that wrote the model.
    """

    data: Data
    request: Request
    names: list[str]
    labels: list[Any]
    sorted: bool
    structure: str
    log_likelihood: float
    estimate: bool
    total: TotalScore
    parameters: ParameterTable
    heat: HeatMap | Unavailable
    influence: Influences | Unavailable
    cusum: Cusum | Unavailable
    missing: Missing
    conditioning: Conditioning

    @property
    def file(self) -> str:
        """The name of the table."""
        return PurePath(self.data.path).name

    @property
    def rows(self) -> int:
        """n."""
        return len(self.labels)


def content(data: Data, request: Request, run: Run) -> Content:
    """Read the table, estimate what was not given, and compute what the report shows.

    Raises:
        UsageError: more parameters than a report can hold.
        MemoryLimitError: more rows than it can hold.
    """
    source, names, gaussian = prepared(data, request, run)
    rows = observations(data, source, names, _required_few(gaussian), run)
    J = gaussian.jacobian(rows.x)
    total, estimate = total_score(J), request.estimates or _estimated_from(request, gaussian, rows.x)
    errors = "observed" if bool(rows.x.isnan().any()) else "expected"
    parameters, heat = estimated(J, errors) if estimate else given(J)
    covariance = gaussian.covariance
    return Content(
        data,
        request,
        names,
        rows.labels,
        rows.sorted,
        kebab(type(covariance).__name__),
        float(J.log_prob.sum()),
        estimate,
        total,
        parameters,
        heat,
        attempt(lambda: influences(J, rows.labels, "observed" if estimate else "expected")),
        _cusum(J, rows.labels, estimate),
        missing_entries(rows.x),
        conditioning(J.model.parameter("covariance_matrix").detach(), names),
    )


def _estimated_from(request: Request, gaussian: Gaussian, x: Tensor) -> bool:
    """Whether a model's file says that it was estimated from these rows."""
    source = None if request.model is None else model_file.estimated_from(request.model)
    sample = None if source is None else SufficientStatistics.of(x, None, lambda i: f"variable {i}", "report")
    return source is not None and sample is not None and source.matches(Fingerprint.of(sample))


def _cusum(J: Jacobian, labels: list[Any], estimate: bool) -> Cusum | Unavailable:
    if not estimate:
        return Unavailable(
            "The parameters are not the estimate from these rows, so that their scores do not sum to 0 and cannot be tested for a "
            "change within them. Leave --mean, --covariance and --model out to estimate them first."
        )
    return attempt(lambda: cusum(J, labels))


def _required_few(gaussian: Gaussian) -> int:
    """The number of parameters."""
    count = len(gaussian.jacobian(torch.zeros(0, gaussian.mean.numel(), dtype=torch.float64, device="cpu")).columns())
    if count > _PARAMETERS:
        raise UsageError(
            f"The model has {counted(count, 'parameter')}, and a report is of at most {_PARAMETERS}: choose fewer "
            "variables by --columns, or a "
            "--structure of fewer parameters."
        )
    return count
