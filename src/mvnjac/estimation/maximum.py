"""From a sample to the maximum of the likelihood of a structure: in closed form, or by a search."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import torch

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.estimation import LOWER, refuse_extreme, refuse_unobserved
from mvnjac.covariance.parametrisations.dense import Dense
from mvnjac.covariance.parametrisations.log_cholesky import LogCholesky
from mvnjac.covariance.structured.block_diagonal import BlockDiagonal
from mvnjac.covariance.structured.low_rank import LowRank
from mvnjac.errors import NotConvergedWarning, NotIdentifiedError, SingularError, UnsolvedError, warn
from mvnjac.estimation.conditioning import warn_if_ill_conditioned
from mvnjac.estimation.em import improved
from mvnjac.estimation.factor_search import search
from mvnjac.estimation.likelihood import Likelihood
from mvnjac.estimation.quasi_newton import ENOUGH, Ascent, Point, ascend
from mvnjac.estimation.result import Fit
from mvnjac.estimation.structure import Choice
from mvnjac.gaussian import Gaussian
from mvnjac.parameters.names import NamesArgument
from mvnjac.statistics.sufficient import SufficientStatistics

#: (phase, iteration, log-likelihood) → None
Progress = Callable[[str, int, float], None]

#: how often EM brings a start nearer
_EM_STEPS = 10


def fit_sample(
    sample: SufficientStatistics,
    choice: Choice,
    names: NamesArgument | None = None,
    missing: str | None = None,
    max_iterations: int = 1000,
    progress: Progress | None = None,
    lower: float = LOWER,
) -> Fit:
    """`fit` to a sample that may have come in batches."""
    refuse_unobserved(sample)
    refuse_extreme(sample)
    if isinstance(choice.instance, BlockDiagonal):
        return _fit_blocks(sample, choice.instance, names, missing, max_iterations, progress, lower)
    start = choice.start(sample)
    start.require_maximum(sample)
    closed_form = start.closed_form and sample.complete
    units = start.units_of(sample)
    rescaled = None if closed_form else start.rescaled(1 / units)  # a search sees variables of variance 1
    if rescaled is None:
        units = torch.ones_like(units)
    sample_there = sample if rescaled is None else sample.in_units(units)
    shift = -float(sample.pair_counts.diagonal() @ units.log())

    def watch(iteration: int, point: Point, value: float | None = None) -> None:
        point.structure.require_interior(sample_there, point.scores)
        if progress is not None:
            progress("fitting", iteration, (point.value if value is None else value) + shift)

    try:
        if isinstance(rescaled, LowRank):
            given = None if choice.instance is None else rescaled
            ascent = search(sample_there, given, rescaled.rank, lower, max_iterations, watch)
        else:
            ascent = ascend(_likelihood(sample_there, rescaled or start), 0 if closed_form else max_iterations, watch)
    except UnsolvedError:
        raise
    except SingularError as error:
        raise NotIdentifiedError(f"{sample.name}: the data do not tell the parameters apart: {error}") from error
    point = ascent.point
    converged, message = _verdict(sample_there, ascent, closed_form)
    if not converged:
        warn(f"{sample.name}: {message}", NotConvergedWarning)
    structure = _converted(point.gaussian, type(start))
    structure = (structure if rescaled is None else structure.rescaled(units) or structure).normalised()
    mean = None if structure.mean is not None else sample.origin + units * point.gaussian.mean
    if mean is not None:
        structure = _converted(Gaussian(mean, structure), choice.cls)
    gaussian = Gaussian(mean, structure, names=names, missing=missing)
    gaussian.boundary = _boundary(gaussian, point.structure, lower)
    if gaussian.boundary:
        message += f"; at the bound, {lower:g} of the variance (a Heywood case): {', '.join(gaussian.boundary)}"
    warn_if_ill_conditioned(sample.name, gaussian, sample.name_of)
    return Fit(gaussian, point.value + shift, sample.count, ascent.iterations, converged, point.score_ratio, message, sample)


def _fit_blocks(
    sample: SufficientStatistics,
    start: BlockDiagonal,
    names: NamesArgument | None,
    missing: str | None,
    max_iterations: int,
    progress: Progress | None,
    lower: float,
) -> Fit:
    """Block by block: the likelihood is a product over them."""
    fits = []
    for i, (block, at) in enumerate(zip(start.blocks, start.slices(sample.d), strict=True)):
        part = dataclasses.replace(sample.part(at), name=f"{sample.name}: blocks[{i}]")
        fits.append(fit_sample(part, Choice(type(block), instance=block), None, missing, max_iterations, progress, lower))
    covariance = BlockDiagonal([each.covariance for each in fits], start.sizes)
    gaussian = Gaussian(torch.cat([each.mean for each in fits]), covariance, names=names, missing=missing)
    for i, each in enumerate(fits):
        for name in each.covariance.bounded:
            there = [column in each.boundary for column in each.gaussian.columns(name)]
            gaussian.boundary = [*gaussian.boundary, *itertools.compress(gaussian.columns(f"blocks[{i}].{name}"), there)]
    return Fit(
        gaussian,
        sum(each.log_likelihood for each in fits),
        sample.count,
        max(each.iterations for each in fits),
        all(each.converged for each in fits),
        sum(each.score_ratio**2 for each in fits) ** 0.5,
        "; ".join(f"blocks[{i}]: {each.message}" for i, each in enumerate(fits)),
        sample,
    )


def _boundary(gaussian: Gaussian, found: Covariance, lower: float) -> list[str]:
    """The columns of what stands at its bound; `found` is of variables with the variance 1."""
    return [
        column
        for name in found.bounded
        for column, value in zip(gaussian.columns(name), found.parameters[name].tolist(), strict=True)
        if value <= lower * (1 + 1e-12)
    ]


def _likelihood(sample: SufficientStatistics, structure: Covariance) -> Likelihood:
    """With its start; where entries are missing, an unrestricted Σ is searched by its Cholesky factor, from some steps of EM on."""
    mean = torch.zeros_like(sample.origin)
    if sample.complete or not isinstance(structure, Dense):
        return Likelihood(sample, mean, structure)
    mean, covariance_matrix = improved(sample, structure.parameters["covariance_matrix"], _EM_STEPS)
    log_scale_tril = Gaussian(mean, covariance_matrix).parameter("log_scale_tril")
    return Likelihood(sample, mean, LogCholesky(log_scale_tril))


def _converted(gaussian: Gaussian, cls: type[Covariance]) -> Covariance:
    """The same Σ as a structure of another class of the dense family."""
    if isinstance(gaussian.covariance, cls):
        return gaussian.covariance
    return cls(**{name: gaussian.parameter(name) for name in cls.fields})


def _verdict(sample: SufficientStatistics, ascent: Ascent, closed_form: bool) -> tuple[bool, str]:
    ratio, structure = ascent.point.score_ratio, ascent.point.structure
    size = f"no total score is above {ratio:.1e} of the square root of its information"
    if closed_form:
        return True, f"the maximum in closed form; {size}"
    if ascent.converged:
        hidden = ", less than the rounding of the log-likelihood shows" if ratio > ENOUGH else ""
        return True, f"converged after {ascent.iterations} iterations: {size}{hidden}"
    near = structure.near_edge(sample)
    edge = f" {', '.join(near)} is near 0: there may be no maximum. {structure.advice}" if near else ""
    if math.isnan(ratio):
        left = "the total scores could not be compared with their information, which is nearly singular"
    else:
        left = f"total scores of up to {ratio:.1e} of the square root of their information are left"
    raise_it = "" if ascent.exhausted else "Raise max_iterations, or s"
    return False, f"NOT converged, {ascent.stopped}: {left}.{edge} {raise_it or 'S'}tart from an instance nearby."
