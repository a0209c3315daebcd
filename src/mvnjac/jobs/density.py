"""The mean and the covariance of a command: from files, from a model, or estimated from the table by maximum likelihood."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mvnjac.covariance.estimation import LOWER, refuse_extreme
from mvnjac.covariance.parametrisations.dense import Dense
from mvnjac.engines.job import Job, Result, Unit
from mvnjac.engines.run import Run
from mvnjac.errors import ArgumentError, MvnjacError, NotConvergedWarning, TableError, UsageError, counted
from mvnjac.estimation import model_file
from mvnjac.estimation.conditioning import warn_if_ill_conditioned
from mvnjac.estimation.maximum import fit_sample
from mvnjac.estimation.result import Fit
from mvnjac.estimation.structure import Choice, choose
from mvnjac.gaussian import Gaussian
from mvnjac.jobs import pilot
from mvnjac.jobs.data import Data
from mvnjac.jobs.point_out import point_out
from mvnjac.statistics.fingerprint import Fingerprint
from mvnjac.statistics.moments import Moments
from mvnjac.statistics.pairwise import PairwiseReduction
from mvnjac.statistics.sufficient import Accumulator, SufficientStatistics
from mvnjac.tables.base import Source
from mvnjac.tables.mean_and_covariance import read_covariance, read_mean
from mvnjac.tables.slices import rows_per_slice


@dataclass(frozen=True)
class Gather(Job):
    """The sufficient statistics of the rows of a unit."""

    tag = "gather"
    data: Data
    names: tuple[str, ...]

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        accumulator = Accumulator(len(self.names))
        count = self.data.for_each_batch(self.names, unit.at, on_rows, lambda _, rows: accumulator.add(rows.x))
        return Result(unit.number, count, accumulator if count else None)


@dataclass(frozen=True)
class Moment(Job):
    """The moments of the rows of a unit."""

    tag = "moments"
    data: Data
    names: tuple[str, ...]

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        reduction = PairwiseReduction[Moments]()
        count = self.data.for_each_batch(self.names, unit.at, on_rows, lambda i, rows: reduction.add(i, Moments.of(rows.x)))
        return Result(unit.number, count, reduction.total())


@dataclass(frozen=True)
class Request:
    """The origin of the mean and the covariance; without arguments, a dense covariance is estimated.

    Args:
        mean, covariance: files; if only one is given, the other is estimated.
        model: the file of a model, which has both.
        structure: the structure of the covariance to estimate.

    Raises:
        UsageError: the arguments exclude each other.
    """

    mean: Path | None = None
    covariance: Path | None = None
    model: Path | None = None
    structure: str | None = None

    def __post_init__(self) -> None:
        given = {f"--{field.name}" for field in dataclasses.fields(self) if getattr(self, field.name) is not None}
        if len(given) > 1 and given != {"--mean", "--covariance"}:
            raise UsageError(f"{' and '.join(sorted(given))} exclude each other, because each determines the covariance.")

    @property
    def estimates(self) -> bool:
        """Whether the mean and the covariance are both estimated from the table."""
        return self.mean is None and self.covariance is None and self.model is None

    def files(self) -> list[Path | None]:
        """The files that are read, besides the table."""
        return [self.mean, self.covariance, self.model]


def prepared(data: Data, request: Request, run: Run) -> tuple[Source, list[str], Gaussian]:
    """Open the table and determine the mean and the covariance.

    Returns:
        The table, its variables, and the Gaussian.

    Raises:
        NotPositiveDefiniteError: the estimate is singular: constant or linearly dependent columns, or too few rows.

    Warns:
        IllConditionedWarning: the scores have few correct digits.
    """
    if request.estimates:
        source, names = _opened(data, run)
        return source, names, _fitted(data, source, names, request.structure or "dense", 1000, run).gaussian
    if request.model is not None:
        source, names, gaussian = _with_model(data, request.model, run)
    else:
        source, names = _opened(data, run)
        gaussian = _given(data, source, names, request.mean, request.covariance, run)
    warn_if_ill_conditioned(str(data.path), gaussian, lambda i: repr(names[i]))
    return source, names, gaussian


def _opened(data: Data, run: Run) -> tuple[Source, list[str]]:
    """Open the table, and warn about what may be wrong with its rows."""
    source, names = data.open()
    point_out(data, source, names, run)
    return source, names


def is_estimate(data: Data, request: Request, source: Source, names: list[str], run: Run) -> bool:
    """Whether the prepared mean and covariance are the maximum-likelihood estimate from the rows of the table.

    The rows that a model was fitted to are recognised by their fingerprint, for which the table is read once.
    """
    if request.model is None:
        return request.estimates
    fingerprint = model_file.estimated_from(request.model)
    sample = None if fingerprint is None else _sample(data, source, names, run, "checking the model")
    return fingerprint is not None and sample is not None and fingerprint.matches(Fingerprint.of(sample))


def fitted(data: Data, structure: str, max_iterations: int, run: Run, lower: float = LOWER) -> Fit:
    """The maximum-likelihood estimate from the table; `lower` bounds the unique variances of a factor model."""
    return _fitted(data, *_opened(data, run), structure, max_iterations, run, lower)


def _fitted(
    data: Data, source: Source, names: list[str], structure: str, max_iterations: int, run: Run, lower: float = LOWER
) -> Fit:
    choice = _choice(structure)
    sample = _sample(data, source, names, run)
    if sample is None:
        raise TableError(f"{data.path}: there are no rows to estimate from.")
    with warnings.catch_warnings(
        action="error", category=NotConvergedWarning
    ):  # no output from a search that has not converged
        try:
            return fit_sample(sample, choice, names, data.missing, max_iterations, run.progress, lower)
        except NotConvergedWarning as warning:
            raise MvnjacError(str(warning)) from None


def _sample(
    data: Data, source: Source, names: list[str], run: Run, stage: str = "reading the rows"
) -> SufficientStatistics | None:
    """The sufficient statistics of the table; None if it has no rows."""
    slices, columns = source.slices(rows_per_slice(len(names))), tuple(names)

    def name_of(i: int) -> str:
        return repr(names[i])

    if data.missing is None:
        accumulator = run.over(Gather(data, columns), slices, stage).sums
        return None if accumulator is None else accumulator.sample(name_of, str(data.path))
    sample = run.over(pilot.PilotPass(data, columns, pilot.MOST_HELD), slices, stage).sums

    def over_rows(gaussian: Gaussian, wrt: Sequence[str], origin: Tensor, units: Tensor) -> tuple[float, dict[str, Tensor]]:
        job = pilot.LikelihoodPass(data, columns, gaussian.mean, gaussian.covariance, tuple(wrt), origin, units)
        totals = run.over(job, slices, "passing over the rows").sums
        return float(totals[pilot.VALUE]), {name: totals[name] for name in wrt}

    return None if sample is None else sample.sample(name_of, str(data.path), over_rows)


def _choice(structure: str) -> Choice:
    try:
        return choose(structure)
    except ArgumentError as error:
        raise UsageError(f"--structure: {error}") from None


def _given(data: Data, source: Source, names: list[str], mean: Path | None, covariance: Path | None, run: Run) -> Gaussian:
    """The given mean and covariance; if only one is given, the other is estimated for it."""
    mu = None if mean is None else read_mean(mean, names, data.reading)
    sigma = None if covariance is None else read_covariance(covariance, names, data.reading)
    if mu is None or sigma is None:
        if data.missing is not None:
            raise UsageError(
                "--missing: with missing values, mean and covariance are estimated together; give both or neither."
            )
        moments = run.over(Moment(data, tuple(names)), source.slices(rows_per_slice(len(names))), "reading the rows").sums
        if moments is None:
            raise TableError(f"{data.path}: there are no rows to estimate from.")
        sigma = _covariance_about(mu, moments, names, data.path) if sigma is None else sigma
        mu = moments.mean if mu is None else mu
    return Gaussian(mu, sigma, names=names, missing=data.missing)


def _covariance_about(mean: Tensor | None, moments: Moments, names: list[str], path: str | Path) -> Tensor:
    covariance = moments.covariance(mean)
    sample = SufficientStatistics.of_moments(moments, lambda i: repr(names[i]), str(path))
    refuse_extreme(sample)
    Dense(covariance).require_maximum(sample)
    return covariance


def _with_model(data: Data, path: Path, run: Run) -> tuple[Source, list[str], Gaussian]:
    """A model and its variables, which are found in the table by their names."""
    gaussian = model_file.read(path)
    model_names = gaussian.names
    if model_names is not None:
        if data.columns is not None and set(data.columns) != set(model_names):
            variables = ", ".join(model_names)
            raise UsageError(
                f"--columns: the variables of the model {path} are {variables}; leave out --columns, or name them all."
            )
        data = dataclasses.replace(data, columns=model_names)
    source, names = _opened(data, run)
    if len(names) != gaussian.mean.numel():
        raise UsageError(
            f"{path}: the model has {counted(gaussian.mean.numel(), 'variable')} without names, but "
            f"{counted(len(names), 'column')} are selected."
        )
    return source, names, with_names(gaussian, names, data.missing)


def with_names(gaussian: Gaussian, names: list[str], missing: str | None) -> Gaussian:
    """The same Gaussian of d variables with these names."""
    mean = None if gaussian.covariance.mean is not None else gaussian.mean.flatten()
    result = Gaussian(mean, gaussian.covariance, names=names, missing=missing)
    at_bound = [column in gaussian.boundary for column in gaussian.columns()]
    result.boundary = list(itertools.compress(result.columns(), at_bound))
    return result
