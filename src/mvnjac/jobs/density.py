"""Which mean and covariance a job is about: given in files, a model's, or estimated from the table by maximum likelihood."""

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
from mvnjac.statistics.moments import Moments
from mvnjac.statistics.pairwise import PairwiseReduction
from mvnjac.statistics.sufficient import Accumulator, SufficientStatistics
from mvnjac.tables.base import Source
from mvnjac.tables.mean_and_covariance import read_covariance, read_mean
from mvnjac.tables.slices import rows_per_slice


@dataclass(frozen=True)
class Gather(Job):
    """A unit's rows, condensed to what a likelihood depends on."""

    data: Data
    names: tuple[str, ...]

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        gathering = Accumulator(len(self.names))
        count = self.data.through(self.names, unit.at, on_rows, lambda _, rows: gathering.add(rows.x))
        return Result(unit.number, count, gathering if count else None)


@dataclass(frozen=True)
class Moment(Job):
    """The moments of a unit's rows."""

    data: Data
    names: tuple[str, ...]

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        tree = PairwiseReduction[Moments]()
        count = self.data.through(self.names, unit.at, on_rows, lambda i, rows: tree.add(i, Moments.of(rows.x)))
        return Result(unit.number, count, tree.total())


@dataclass(frozen=True)
class Request:
    """What was asked for: files of a mean and a covariance, a file of a model, or a structure to estimate; all None: dense.

    Raises:
        UsageError: more than one of them.
    """

    mean: Path | None = None
    covariance: Path | None = None
    model: Path | None = None
    structure: str | None = None

    def __post_init__(self) -> None:
        given = {f"--{field.name}" for field in dataclasses.fields(self) if getattr(self, field.name) is not None}
        if len(given) > 1 and given != {"--mean", "--covariance"}:
            raise UsageError(f"{' and '.join(sorted(given))} exclude each other: each says where the covariance comes from.")

    @property
    def estimates(self) -> bool:
        """Whether mean and covariance are both estimated from the table."""
        return self.mean is None and self.covariance is None and self.model is None

    def files(self) -> list[Path | None]:
        """What is read besides the data."""
        return [self.mean, self.covariance, self.model]


def prepared(data: Data, request: Request, run: Run) -> tuple[Source, list[str], Gaussian]:
    """The table, its variables, and the mean and covariance for them.

    Raises:
        NotPositiveDefiniteError: an estimate that is singular: constant columns, too few rows, linear dependence.

    Warns:
        IllConditionedWarning: few digits are left of the scores.
    """
    if request.estimates:
        source, names = data.open()
        return source, names, _fitted(data, source, names, request.structure or "dense", 1000, run).gaussian
    if request.model is not None:
        source, names, gaussian = _with_model(data, request.model)
    else:
        source, names = data.open()
        gaussian = _given(data, source, names, request.mean, request.covariance, run)
    warn_if_ill_conditioned(str(data.path), gaussian, lambda i: repr(names[i]))
    return source, names, gaussian


def fitted(data: Data, structure: str, max_iterations: int, run: Run, lower: float = LOWER) -> Fit:
    """The estimate of a structure from the table."""
    return _fitted(data, *data.open(), structure, max_iterations, run, lower)


def _fitted(
    data: Data, source: Source, names: list[str], structure: str, max_iterations: int, run: Run, lower: float = LOWER
) -> Fit:
    choice = _choice(structure)
    sample = _sample(data, source, names, run)
    if sample is None:
        raise TableError(f"{data.path}: there are no rows to estimate from.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotConvergedWarning)  # half a maximum is none: nothing is made from it
        try:
            return fit_sample(sample, choice, names, data.missing, max_iterations, run.search, lower)
        except NotConvergedWarning as warning:
            raise MvnjacError(str(warning)) from None


def _sample(data: Data, source: Source, names: list[str], run: Run) -> SufficientStatistics | None:
    """What stands for the table's rows; None of none."""
    slices, columns = source.slices(rows_per_slice(len(names))), tuple(names)

    def name_of(i: int) -> str:
        return repr(names[i])

    if data.missing is None:
        gathering = run.over(Gather(data, columns), slices, "estimating").sums
        return None if gathering is None else gathering.sample(name_of, str(data.path))
    survey, passed = run.over(pilot.PilotPass(data, columns, pilot.MOST_HELD), slices, "estimating").sums, itertools.count(1)

    def over_rows(gaussian: Gaussian, wrt: Sequence[str], origin: Tensor, units: Tensor) -> tuple[float, dict[str, Tensor]]:
        job = pilot.LikelihoodPass(data, columns, gaussian.mean, gaussian.covariance, tuple(wrt), origin, units)
        totals = run.over(job, slices, f"pass {next(passed)}").sums
        return float(totals[pilot.VALUE]), {name: totals[name] for name in wrt}

    return None if survey is None else survey.sample(name_of, str(data.path), over_rows)


def _choice(structure: str) -> Choice:
    try:
        return choose(structure)
    except ArgumentError as error:
        raise UsageError(f"--structure: {error}") from None


def _given(data: Data, source: Source, names: list[str], mean: Path | None, covariance: Path | None, run: Run) -> Gaussian:
    """A given mean or covariance; the other, where it is not given, estimated at it."""
    mu = None if mean is None else read_mean(mean, names)
    sigma = None if covariance is None else read_covariance(covariance, names)
    if mu is None or sigma is None:
        if data.missing is not None:
            raise UsageError("--missing: mean and covariance are estimated together then; give both or neither.")
        moments = run.over(Moment(data, tuple(names)), source.slices(rows_per_slice(len(names))), "estimating").sums
        if moments is None:
            raise TableError(f"{data.path}: there are no rows to estimate from.")
        sigma = _about(mu, moments, names, data.path) if sigma is None else sigma
        mu = moments.mean if mu is None else mu
    return Gaussian(mu, sigma, names=names, missing=data.missing)


def _about(mean: Tensor | None, moments: Moments, names: list[str], path: str | Path) -> Tensor:
    covariance = moments.covariance(mean)
    sample = SufficientStatistics.of_moments(moments, lambda i: repr(names[i]), str(path))
    refuse_extreme(sample)
    Dense(covariance).require_maximum(sample)
    return covariance


def _with_model(data: Data, path: Path) -> tuple[Source, list[str], Gaussian]:
    """The model's variables are those of its names, wherever they stand in the table."""
    gaussian = model_file.read(path)
    own, asked = gaussian.names, data.columns
    if own is not None:
        if asked is not None and set(asked) != set(own):
            raise UsageError(f"--columns: the model {path} is of {', '.join(own)}; leave --columns out, or name all of these.")
        data = dataclasses.replace(data, columns=own)
    source, names = data.open()
    if len(names) != gaussian.mean.numel():
        raise UsageError(
            f"{path}: the model is of {counted(gaussian.mean.numel(), 'variable')} without names, but the number of "
            f"columns that are chosen is {len(names)}."
        )
    found = Gaussian(gaussian.mean.flatten(), gaussian.covariance, names=names, missing=data.missing)
    at_bound = [column in gaussian.boundary for column in gaussian.columns()]
    found.boundary = list(itertools.compress(found.columns(), at_bound))
    return source, names, found
