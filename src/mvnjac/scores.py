"""The jobs of the command line: a table of observations in, its scores or their totals out, in one or two passes.

The first pass estimates what was not given (mean, covariance) by maximum likelihood; the second forms the Jacobian batch by batch.
Memory holds one batch of rows and one chunk of the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import torch
from torch import Tensor

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.errors import NotPositiveDefiniteError, TableError, UsageError
from mvnjac.gaussian import Gaussian
from mvnjac.jacobian import Jacobian
from mvnjac.moments import Moments
from mvnjac.standard_errors import StandardErrors
from mvnjac.tables.base import Source, open_source
from mvnjac.tables.output import open_sink
from mvnjac.tables.parameters import read_covariance, read_mean
from mvnjac.tables.returns import LogReturns
from mvnjac.tables.rows import Rows, tensor_batches

#: A chunk of the output in memory, in bytes; wide outputs take fewer rows a chunk.
_CHUNK = 32 * 2**20

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Data:
    """The observations: which columns of which table, kept how.

    index: a column kept in the output. log_returns: difference the logarithms of consecutive rows first.
    """

    path: Path
    columns: Sequence[str] | None = None
    index: str | None = None
    log_returns: bool = False
    progress: Progress = field(default=lambda phase, rows: None)

    def open(self) -> tuple[Source, list[str]]:
        """The table, and the names of its variables."""
        source = open_source(self.path, self.index)
        names = source.variables(self.columns, self.index)
        return (LogReturns(source, self.index) if self.log_returns else source), names

    def rows(self, source: Source, names: Sequence[str], phase: str) -> Iterator[Rows]:
        """All rows, once; the progress is told."""
        for rows in tensor_batches(source, names, self.index):
            yield rows
            self.progress(phase, len(rows.x))


def model(data: Data, source: Source, names: list[str], mean: Path | None, covariance: Path | None) -> Gaussian:
    """The given mean and covariance; what is not given is estimated by maximum likelihood.

    Raises:
        NotPositiveDefiniteError: an estimate that is singular: constant columns, too few rows, linear dependence.
    """
    given_mean = None if mean is None else read_mean(mean, names)
    if given_mean is not None and covariance is not None:
        return Gaussian(given_mean, read_covariance(covariance, names), names=names)
    moments = Moments.of_batches(rows.x for rows in data.rows(source, names, "estimating"))
    if moments is None:
        raise TableError(f"{data.path}: there are no rows to estimate from.")
    mu = moments.mean if given_mean is None else given_mean
    if covariance is not None:
        return Gaussian(mu, read_covariance(covariance, names), names=names)
    sigma = moments.covariance(given_mean)
    _require_regular(data.path, moments, sigma, names)
    return Gaussian(mu, sigma, names=names)


def _require_regular(path: Path, moments: Moments, sigma: Tensor, names: list[str]) -> None:
    """An estimate that rounding alone keeps from being singular is no estimate."""
    constant = [repr(names[i]) for i in moments.constant()]
    if constant and moments.count > 1:
        raise NotPositiveDefiniteError(
            f"{path}: {', '.join(constant)} {'is' if len(constant) == 1 else 'are'} constant over all {moments.count} rows: "
            "the variance is 0 and there is no density; leave it out by --columns."
        )
    if moments.count <= len(names):
        raise NotPositiveDefiniteError(
            f"{path}: {moments.count} rows for {len(names)} variables: the estimated covariance is singular; use more rows than "
            "variables, or give a covariance by --covariance."
        )
    scale = sigma.diagonal().sqrt()
    root, info = torch.linalg.cholesky_ex(sigma / torch.outer(scale, scale))
    pivots = root.diagonal() ** 2
    weak = [i for i in range(len(names)) if not pivots[i] > 10 * len(names) * torch.finfo(sigma.dtype).eps]
    if int(info) or weak:
        last = int(info) - 1 if int(info) else weak[0]
        raise NotPositiveDefiniteError(
            f"{path}: the estimated covariance is singular: {names[last]!r} is, to rounding, a linear combination of "
            f"{', '.join(map(repr, names[:last]))}; leave one of them out by --columns."
        )


def parameters(parametrisation: str) -> list[str]:
    """The parameters of a parametrisation: of its class name in kebab case ("scale-correlation"), or of one of them.

    Raises:
        UsageError: an unknown one, with the list.
    """
    owners = {cls.__name__: cls for cls in dense_parameters().values()}
    choices = {_kebab(name): list(cls.fields) for name, cls in owners.items()}
    wanted = parametrisation.lower().replace("_", "-")
    aliases = {parameter.replace("_", "-"): choices[_kebab(cls.__name__)] for parameter, cls in dense_parameters().items()}
    if wanted not in choices and wanted not in aliases:
        raise UsageError(f"There is no parametrisation {parametrisation!r}; expected one of {', '.join(sorted(choices))}.")
    chosen = choices.get(wanted) or aliases[wanted]
    replaces_mean = not any(issubclass(dense_parameters()[name], Covariance) for name in chosen)
    return chosen if replaces_mean else ["mean", *chosen]


def parametrisations() -> list[str]:
    """The names of the parametrisations, for the manual."""
    return sorted({_kebab(cls.__name__) for cls in dense_parameters().values()})


def write_jacobian(
    data: Data, mean: Path | None, covariance: Path | None, wrt: Sequence[str], layout: str, output: Path | None
) -> tuple[int, int]:
    """Write a row of scores an observation: the index, then the columns of `J.matrix(wrt, layout)`. Returns (rows, columns)."""
    source, names = data.open()
    gaussian = model(data, source, names, mean, covariance)
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


def total_scores(data: Data, mean: Path | None, covariance: Path | None, wrt: Sequence[str]) -> ScoreTable:
    """The total score and its standard deviation from JᵀJ, parameter by parameter."""
    source, names = data.open()
    gaussian = model(data, source, names, mean, covariance)
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


def _chunks(J: Jacobian, wrt: Sequence[str], layout: str, columns: int) -> Iterator[tuple[int, Tensor]]:
    """(first row, matrix) for slices of rows; a matrix lies in memory column after column, as tables are written."""
    step = max(1, _CHUNK // (8 * max(columns, 1)))
    for first in range(0, J.batch[0], step):
        part = J[first : first + step]
        out = torch.empty(columns, part.batch[0], dtype=J.dtype).mT
        yield first, part.matrix(wrt, layout, out=out)


def _kebab(name: str) -> str:
    return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
