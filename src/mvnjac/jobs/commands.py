"""The commands over a table of observations: scores of each row, their sums, and JᵀJ.

The first pass estimates by maximum likelihood what is not given (`jobs/density.py`); the second processes the slices of the
table, each a unit of work (`engines/`). Only one batch of rows and one chunk of the output are in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.engines.local import Local
from mvnjac.engines.run import Run
from mvnjac.errors import UsageError
from mvnjac.estimation.structure import kebab
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request, prepared
from mvnjac.jobs.output_schema import schema_of_scores, with_metadata
from mvnjac.jobs.scores import PortableGaussian, Stream, Sum
from mvnjac.tables.output import open_sink
from mvnjac.tables.slices import rows_per_slice


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
        columns = None if wrt is None else tuple(wrt)
        job = Stream(data, tuple(names), density, columns, layout, schema, sink)
        outcome = run.over(job, slices, "writing the scores", engine=Local(1))
    size = 0 if output is None or output.is_dir() else output.stat().st_size
    return Written(outcome.rows, len(schema) - bool(data.index), 1, size, outcome.seconds)


@dataclass(frozen=True)
class SummedScores:
    """Sums over all rows: of the scores (p,), or JᵀJ (p, p)."""

    columns: list[str]
    numbers: np.ndarray
    rows: int
    seconds: float
    variables: list[str]
    density: PortableGaussian

    def written(self, output: Path | None) -> Written:
        """The size of these sums as a table in a file; None: standard output."""
        return Written(self.rows, len(self.columns), 1, 0 if output is None else output.stat().st_size, self.seconds)


def summed(data: Data, request: Request, wrt: Sequence[str] | None, run: Run, gram: bool = False) -> SummedScores:
    """The sum of each column of the Jacobian; gram: JᵀJ instead."""
    source, names, gaussian = prepared(data, request, run)
    columns = None if wrt is None else tuple(wrt)
    density = PortableGaussian.of(gaussian, run.device)
    job = Sum(data, tuple(names), density, columns, gram=gram)
    outcome = run.over(job, source.slices(rows_per_slice(len(names))), "summing the scores")
    found = job.score_sums.gram(outcome.sums) if gram else job.score_sums.scores(outcome.sums)
    return SummedScores(job.score_sums.columns, found.numpy(), outcome.rows, outcome.seconds, names, density)


def sum_scores(data: Data, request: Request, wrt: Sequence[str] | None, output: Path | None, run: Run) -> Written:
    """Write the sum of each column of the Jacobian, as a table of parameters and sums."""
    sums = summed(data, request, wrt, run)
    schema = pa.schema([("parameter", pa.string()), ("sum", pa.float64())])
    schema = with_metadata(schema, "sums of scores", data, sums.variables, sums.density)
    with open_sink(output, schema) as sink:
        sink.write(pa.RecordBatch.from_arrays([pa.array(sums.columns), pa.array(sums.numbers)], schema=schema))
    return sums.written(output)


def write_gram(data: Data, request: Request, wrt: Sequence[str] | None, output: Path | None, run: Run) -> Written:
    """Write JᵀJ, with the parameters as the header and one row per parameter."""
    sums = summed(data, request, wrt, run, gram=True)
    schema = pa.schema([(name, pa.float64()) for name in sums.columns])
    schema = with_metadata(schema, "sums of products of scores", data, sums.variables, sums.density)
    with open_sink(output, schema) as sink:
        sink.write_rows(None, sums.numbers, schema)  # symmetric: the memory order does not matter
    return sums.written(output)
