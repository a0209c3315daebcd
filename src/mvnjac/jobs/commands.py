"""The commands over a table of observations: scores of each row, their totals, their sums, and JᵀJ.

The first pass estimates by maximum likelihood what is not given (`jobs/density.py`); the second processes the slices of the
table, each a unit of work (`engines/`). Only one batch of rows and one chunk of the output are in memory.
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
from mvnjac.jobs.output_schema import schema_of_scores, with_metadata
from mvnjac.jobs.scores import PortableGaussian, Stream, Sum
from mvnjac.tables.base import Source
from mvnjac.tables.output import open_sink
from mvnjac.tables.slices import rows_per_slice
from mvnjac.tensors import memory

#: the kinds of standard errors that `total_scores` computes
ERRORS = (*KINDS, "hac")


def parameters(parametrisation: str | None) -> list[str] | None:
    """The parameters of a parametrisation; None: the parameters of the covariance itself.

    Args:
        parametrisation: its class name in kebab case ("scale-correlation"), or one of its parameters.

    Raises:
        UsageError: an unknown parametrisation; the message lists all.
    """
    if parametrisation is None:
        return None
    choices = {kebab(cls.__name__): list(cls.fields) for cls in dense_parameters().values()}
    wanted = parametrisation.lower().replace("_", "-")
    aliases = {parameter.replace("_", "-"): choices[kebab(cls.__name__)] for parameter, cls in dense_parameters().items()}
    if wanted not in choices and wanted not in aliases:
        raise UsageError(f"There is no parametrisation {parametrisation!r}; expected one of {', '.join(sorted(choices))}.")
    names = choices.get(wanted) or aliases[wanted]
    replaces_mean = not any(issubclass(dense_parameters()[name], Covariance) for name in names)
    return names if replaces_mean else ["mean", *names]


def parametrisations() -> list[str]:
    """The names of the parametrisations, for the help texts."""
    return sorted({kebab(cls.__name__) for cls in dense_parameters().values()})


@dataclass(frozen=True)
class Written:
    """The size of a written output: rows, columns of scores, parts, bytes; and the seconds that it took."""

    rows: int
    columns: int
    parts: int
    size: int
    seconds: float


def write_jacobian(
    data: Data, request: Request, wrt: Sequence[str] | None, layout: str, output: Path | None, run: Run
) -> Written:
    """Write one row of scores per observation: the index, then the columns of `J.matrix(wrt, layout)`."""
    source, names, gaussian = prepared(data, request, run)
    density = PortableGaussian.of(gaussian, run.device)
    schema = schema_of_scores(data, source, names, density, wrt, layout, output)
    slices = source.slices(rows_per_slice(len(names)))
    with open_sink(output, schema) as sink:
        job = Stream(data, tuple(names), density, _tuple(wrt), layout, schema, sink)
        outcome = run.over(job, slices, "writing", engine=Local(1))
    size = 0 if output is None or output.is_dir() else output.stat().st_size
    return Written(outcome.rows, len(schema) - bool(data.index), 1, size, outcome.seconds)


@dataclass(frozen=True)
class ScoreTable:
    """Total scores, one entry per parameter.

    Attributes:
        rows: the number of observations.
        log_likelihood: Σ log p.
        names: the parameters.
        estimate: the value of each parameter.
        score: the sum of its scores.
        deviation: √(JᵀJ)ₖₖ, the standard deviation of this sum for independent scores with mean 0.
        errors: the standard errors by kind; NaN where the information is not positive definite.
        notes: by kind, how standard errors were computed that involve a choice made from the data.
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
        """The headings of the columns."""
        return ["estimate", "score", "deviation", "ratio", *(f"{kind}_error" for kind in self.errors)]

    def lines(self) -> Iterator[tuple[str, list[float]]]:
        """The name of each parameter and its numbers, in the order of the headings."""
        columns = [self.estimate, self.score, self.deviation, self.ratio, *self.errors.values()]
        for name, *numbers in zip(self.names, *columns, strict=True):
            yield name, numbers


def total_scores(
    data: Data, request: Request, wrt: Sequence[str] | None, run: Run, errors: Sequence[str] = ("expected", "observed")
) -> ScoreTable:
    """The total score of each parameter and its standard deviation from JᵀJ, with standard errors.

    Args:
        errors: kinds of standard errors, from `ERRORS`. "hac" needs all rows in memory.

    Raises:
        MemoryLimitError: the rows do not fit into memory for "hac".
    """
    source, names, gaussian = prepared(data, request, run)
    kinds = tuple(kind for kind in errors if kind in KINDS)
    job = Sum(data, tuple(names), PortableGaussian.of(gaussian, run.device), _tuple(wrt), squares=True, errors=kinds)
    sums, score_sums = run.over(job, source.slices(rows_per_slice(len(names))), "summing").sums, job.score_sums
    found, notes = score_sums.standard_errors(sums), dict[str, str]()
    if "hac" in errors:
        found["hac"], notes["hac"] = _hac_errors(data, source, names, gaussian, score_sums.columns)
    return ScoreTable(
        score_sums.rows(sums),
        score_sums.log_likelihood(sums),
        score_sums.columns,
        score_sums.estimates,
        score_sums.scores(sums).tolist(),
        score_sums.deviations(sums).tolist(),
        {kind: found[kind] for kind in errors},
        notes,
    )


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


def sum_scores(data: Data, request: Request, wrt: Sequence[str] | None, output: Path | None, run: Run) -> Written:
    """Write the sum of each column of the Jacobian, as a table of parameters and sums."""
    source, names, gaussian = prepared(data, request, run)
    density = PortableGaussian.of(gaussian, run.device)
    job = Sum(data, tuple(names), density, _tuple(wrt))
    outcome = run.over(job, source.slices(rows_per_slice(len(names))), "summing")
    columns = [pa.array(job.score_sums.columns), pa.array(job.score_sums.scores(outcome.sums).numpy())]
    schema = pa.schema([("parameter", pa.string()), ("sum", pa.float64())])
    schema = with_metadata(schema, "sums of scores", data, names, density)
    with open_sink(output, schema) as sink:
        sink.write(pa.RecordBatch.from_arrays(columns, schema=schema))
    return Written(outcome.rows, len(columns[0]), 1, 0 if output is None else output.stat().st_size, outcome.seconds)


def write_gram(data: Data, request: Request, wrt: Sequence[str] | None, output: Path | None, run: Run) -> Written:
    """Write JᵀJ, with the parameters as the header and one row per parameter."""
    source, names, gaussian = prepared(data, request, run)
    density = PortableGaussian.of(gaussian, run.device)
    job = Sum(data, tuple(names), density, _tuple(wrt), gram=True)
    outcome = run.over(job, source.slices(rows_per_slice(len(names))), "summing")
    gram = job.score_sums.gram(outcome.sums).numpy()
    schema = pa.schema([(name, pa.float64()) for name in job.score_sums.columns])
    schema = with_metadata(schema, "sums of products of scores", data, names, density)
    with open_sink(output, schema) as sink:
        sink.write_rows(None, gram, schema)  # symmetric: the memory order does not matter
    return Written(outcome.rows, len(gram), 1, 0 if output is None else output.stat().st_size, outcome.seconds)


def _tuple(wrt: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if wrt is None else tuple(wrt)
