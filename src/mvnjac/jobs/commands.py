"""The jobs of the command line: a table of observations in, its scores or their totals out, in one or two passes.

The first pass estimates what was not given by maximum likelihood (`jobs/density.py`); the second goes over the slices of the table,
each a unit of work (`engines/`). Memory holds one batch of rows and one chunk of the output.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.engines.local import Local
from mvnjac.engines.run import Run
from mvnjac.errors import NotAtEstimateWarning, NotIdentifiedError, UsageError
from mvnjac.estimation.structure import kebab
from mvnjac.gaussian import Gaussian
from mvnjac.inference.estimate_covariances import covariance_of_estimates
from mvnjac.inference.standard_errors import KINDS
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request, prepared
from mvnjac.jobs.scores import Density, Stream, Sum, schema_of
from mvnjac.tables.base import Source
from mvnjac.tables.output import open_sink
from mvnjac.tables.slices import rows_per_slice
from mvnjac.tensors import memory

#: the kinds of standard errors of `score`
ERRORS = (*KINDS, "hac")


def parameters(parametrisation: str | None) -> list[str] | None:
    """The parameters of a parametrisation: of its class name in kebab case ("scale-correlation"), or of one of them. None: the
    covariance's own.

    Raises:
        UsageError: an unknown one, with the list.
    """
    if parametrisation is None:
        return None
    owners = {cls.__name__: cls for cls in dense_parameters().values()}
    choices = {kebab(name): list(cls.fields) for name, cls in owners.items()}
    wanted = parametrisation.lower().replace("_", "-")
    aliases = {parameter.replace("_", "-"): choices[kebab(cls.__name__)] for parameter, cls in dense_parameters().items()}
    if wanted not in choices and wanted not in aliases:
        raise UsageError(f"There is no parametrisation {parametrisation!r}; expected one of {', '.join(sorted(choices))}.")
    chosen = choices.get(wanted) or aliases[wanted]
    replaces_mean = not any(issubclass(dense_parameters()[name], Covariance) for name in chosen)
    return chosen if replaces_mean else ["mean", *chosen]


def parametrisations() -> list[str]:
    """The names of the parametrisations, for the manual."""
    return sorted({kebab(cls.__name__) for cls in dense_parameters().values()})


@dataclass(frozen=True)
class Written:
    """What a command has written: rows, columns of scores, parts, bytes, seconds."""

    rows: int
    columns: int
    parts: int
    size: int
    seconds: float


def write_jacobian(
    data: Data, request: Request, wrt: Sequence[str] | None, layout: str, output: Path | None, run: Run
) -> Written:
    """Write a row of scores an observation, as one stream: the index, then the columns of `J.matrix(wrt, layout)`."""
    source, names, gaussian = prepared(data, request, run)
    density = Density.of(gaussian, run.device)
    schema = schema_of(data, source, density, wrt, layout)
    slices = source.slices(rows_per_slice(len(names)))
    with open_sink(output, schema) as sink:
        job = Stream(data, tuple(names), density, _tuple(wrt), layout, schema, sink)
        outcome = run.over(job, slices, "writing", engine=Local(1))
    size = 0 if output is None or output.is_dir() else output.stat().st_size
    return Written(outcome.rows, len(schema) - bool(data.index), 1, size, outcome.seconds)


@dataclass(frozen=True)
class ScoreTable:
    """The totals, one entry a parameter.

    estimate: the parameter's value; score: Σ of its scores; deviation: √(JᵀJ)ₖₖ, the standard deviation of that sum when the
    scores are independent with mean 0; ratio: score / deviation; errors: the standard errors of the estimate, by kind, NaN where
    the information is none; notes: how those were computed for which a choice was made from the data.
    """

    rows: int
    log_likelihood: float
    names: list[str]
    estimate: list[float]
    score: list[float]
    deviation: list[float]
    errors: dict[str, list[float]]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> list[float]:
        return [s / v if v > 0 else math.nan for s, v in zip(self.score, self.deviation, strict=True)]

    @property
    def headings(self) -> list[str]:
        """Of the columns."""
        return ["estimate", "score", "deviation", "ratio", *(f"{kind}_error" for kind in self.errors)]

    def lines(self) -> Iterator[tuple[str, list[float]]]:
        """Each parameter's name, and its numbers under the headings."""
        columns = [self.estimate, self.score, self.deviation, self.ratio, *self.errors.values()]
        for name, *numbers in zip(self.names, *columns, strict=True):
            yield name, numbers


def total_scores(
    data: Data, request: Request, wrt: Sequence[str] | None, run: Run, errors: Sequence[str] = ("expected", "observed")
) -> ScoreTable:
    """The total score and its standard deviation from JᵀJ, parameter by parameter, with standard errors of these kinds.

    errors: of `ERRORS`; what the others need is not computed. "hac" holds all rows in memory.

    Raises:
        MemoryLimitError: more rows than "hac" can hold.
    """
    source, names, gaussian = prepared(data, request, run)
    kinds = tuple(kind for kind in errors if kind in KINDS)
    job = Sum(data, tuple(names), Density.of(gaussian, run.device), _tuple(wrt), squares=True, errors=kinds)
    sums, own = run.over(job, source.slices(rows_per_slice(len(names))), "summing").sums, job.kernel
    found, notes = own.standard_errors(sums), dict[str, str]()
    if "hac" in errors:
        found["hac"], notes["hac"] = _series_errors(data, source, names, gaussian, own.columns)
    scores, deviations = own.scores(sums).tolist(), own.deviations(sums).tolist()
    return ScoreTable(
        own.rows(sums),
        own.log_likelihood(sums),
        own.columns,
        own.estimates,
        scores,
        deviations,
        {kind: found[kind] for kind in errors},
        notes,
    )


def _series_errors(
    data: Data, source: Source, names: Sequence[str], gaussian: Gaussian, columns: Sequence[str]
) -> tuple[list[float], str]:
    """Newey and West's standard errors, of rows in the order of the index, or of the table, and how they were computed.

    The scores are prewhitened where there are rows enough for an autoregression of them.
    """
    batches = [rows for at in source.slices(rows_per_slice(len(names))) for rows in data.rows(names, at)]
    x = torch.cat([rows.x for rows in batches]) if batches else torch.zeros(0, len(names), dtype=torch.float64, device="cpu")
    if len(x) < 2:
        return [math.nan] * len(columns), "fewer than two rows are no series"
    labels = [label for rows in batches if rows.index is not None for label in rows.index.to_pylist()]
    J = gaussian.jacobian(x)
    shape = (3, len(x), len(J.columns()))  # the scores, their autoregression and its residuals
    memory.require("score --errors hac", shape, J.dtype, J.device, "choose fewer columns, or --errors sandwich.")
    asked: dict[str, Any] = {"wrt": list(columns), "order_by": labels or None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotAtEstimateWarning)  # the scores stand beside the errors
        try:
            found = covariance_of_estimates(J, "hac", **asked)
        except NotIdentifiedError:
            found = covariance_of_estimates(J, "hac", prewhite=False, **asked)
    return found.standard_errors.tolist(), found.kind


def sum_scores(data: Data, request: Request, wrt: Sequence[str] | None, output: Path | None, run: Run) -> Written:
    """Write the sum of each column of the Jacobian: a table of parameters and sums."""
    source, names, gaussian = prepared(data, request, run)
    job = Sum(data, tuple(names), Density.of(gaussian, run.device), _tuple(wrt))
    outcome = run.over(job, source.slices(rows_per_slice(len(names))), "summing")
    columns = [pa.array(job.kernel.columns), pa.array(job.kernel.scores(outcome.sums).numpy())]
    schema = pa.schema([("parameter", pa.string()), ("sum", pa.float64())])
    with open_sink(output, schema) as sink:
        sink.write(pa.RecordBatch.from_arrays(columns, schema=schema))
    return Written(outcome.rows, len(columns[0]), 1, 0 if output is None else output.stat().st_size, outcome.seconds)


def write_gram(data: Data, request: Request, wrt: Sequence[str] | None, output: Path | None, run: Run) -> Written:
    """Write JᵀJ: a header of parameters, and a row a parameter."""
    source, names, gaussian = prepared(data, request, run)
    job = Sum(data, tuple(names), Density.of(gaussian, run.device), _tuple(wrt), gram=True)
    outcome = run.over(job, source.slices(rows_per_slice(len(names))), "summing")
    gram, schema = job.kernel.gram(outcome.sums).numpy(), pa.schema([(name, pa.float64()) for name in job.kernel.columns])
    with open_sink(output, schema) as sink:
        sink.write_rows(None, gram, schema)  # symmetric: its rows are its columns
    return Written(outcome.rows, len(gram), 1, 0 if output is None else output.stat().st_size, outcome.seconds)


def _tuple(wrt: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if wrt is None else tuple(wrt)
