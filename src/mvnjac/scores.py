"""The jobs of the command line: a table of observations in, its scores or their totals out, in one or two passes.

The first pass estimates what was not given by maximum likelihood (`estimates.py`); the second forms the Jacobian batch by batch.
Memory holds one batch of rows and one chunk of the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import torch
from torch import Tensor

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.errors import UsageError
from mvnjac.estimates import Data, Request, prepared
from mvnjac.inference.structure import kebab
from mvnjac.jacobian import Jacobian
from mvnjac.standard_errors import StandardErrors
from mvnjac.tables.output import open_sink

#: A chunk of the output in memory, in bytes; wide outputs take fewer rows a chunk.
_CHUNK = 32 * 2**20


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


def write_jacobian(
    data: Data, request: Request, wrt: Sequence[str] | None, layout: str, output: Path | None
) -> tuple[int, int]:
    """Write a row of scores an observation: the index, then the columns of `J.matrix(wrt, layout)`. Returns (rows, columns)."""
    source, names, gaussian = prepared(data, request)
    columns = gaussian.jacobian(torch.zeros(0, len(names), dtype=torch.float64)).columns(wrt, layout)
    fields = [(name, pa.float64()) for name in columns]
    if data.index:
        fields.insert(0, (data.index, source.schema.field(data.index).type))
    schema, written = pa.schema(fields), 0
    with open_sink(output, schema) as sink:
        for rows in data.rows(source, names, "writing"):
            J = gaussian.jacobian(rows.x)
            for first, matrix in _chunks(J, wrt, layout, len(columns)):
                arrays = [pa.array(column) for column in matrix.mT.numpy()]  # each contiguous, none copied
                if rows.index is not None:
                    arrays.insert(0, rows.index.slice(first, len(matrix)))
                sink.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
                written += len(matrix)
    return written, len(columns)


@dataclass(frozen=True)
class ScoreTable:
    """The totals, one entry a parameter.

    estimate: the parameter's value; score: Σ of its scores; deviation: √(JᵀJ)ₖₖ, the standard deviation of that sum when the
    scores are independent with mean 0; ratio: score / deviation; expected_error, observed_error: the standard errors of the
    estimate from the expected and from the observed information, NaN where that is no information.
    """

    rows: int
    log_likelihood: float
    names: list[str]
    estimate: list[float]
    score: list[float]
    deviation: list[float]
    expected_error: list[float]
    observed_error: list[float]

    HEADINGS: ClassVar = ("estimate", "score", "deviation", "ratio", "expected_error", "observed_error")

    @property
    def ratio(self) -> list[float]:
        return [s / v if v > 0 else math.nan for s, v in zip(self.score, self.deviation, strict=True)]

    def lines(self) -> Iterator[tuple[str, list[float]]]:
        """Each parameter's name, and its numbers under the headings."""
        columns = [getattr(self, heading) for heading in self.HEADINGS]
        for name, *numbers in zip(self.names, *columns, strict=True):
            yield name, numbers


def total_scores(data: Data, request: Request, wrt: Sequence[str] | None) -> ScoreTable:
    """The total score and its standard deviation from JᵀJ, parameter by parameter."""
    source, names, gaussian = prepared(data, request)
    empty = gaussian.jacobian(torch.zeros(0, len(names), dtype=torch.float64))
    columns, estimates = empty.columns(wrt), empty.values(wrt).tolist()
    sums, squares = torch.zeros(2, len(columns), dtype=torch.float64)
    count, likelihood, errors = 0, 0.0, StandardErrors(gaussian, columns)
    for rows in data.rows(source, names, "summing"):
        J = gaussian.jacobian(rows.x)
        errors.add(rows.x)
        likelihood += float(J.log_prob.sum())
        for _, matrix in _chunks(J, wrt, "unique", len(columns)):
            sums += matrix.sum(0)
            squares += (matrix * matrix).sum(0)
            count += len(matrix)
    deviations = squares.sqrt().tolist()
    return ScoreTable(count, likelihood, columns, estimates, sums.tolist(), deviations, errors.expected(), errors.observed())


def _chunks(J: Jacobian, wrt: Sequence[str] | None, layout: str, columns: int) -> Iterator[tuple[int, Tensor]]:
    """(first row, matrix) for slices of rows; a matrix lies in memory column after column, as tables are written."""
    step = max(1, _CHUNK // (8 * max(columns, 1)))
    for first in range(0, J.batch[0], step):
        part = J[first : first + step]
        out = torch.empty(columns, part.batch[0], dtype=J.dtype).mT
        yield first, part.matrix(wrt, layout, out=out)
