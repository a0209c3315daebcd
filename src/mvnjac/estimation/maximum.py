"""The maximum of the likelihood of a structure for a sample: in closed form, or by an iterative search."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.estimation import LOWER, refuse_extreme, refuse_unobserved
from mvnjac.covariance.parametrisations.log_cholesky import LogCholesky
from mvnjac.errors import NotConvergedWarning, NotIdentifiedError, SingularError, UnsolvedError, warn
from mvnjac.estimation import em
from mvnjac.estimation.conditioning import warn_if_ill_conditioned
from mvnjac.estimation.factor_search import search
from mvnjac.estimation.likelihood import Likelihood
from mvnjac.estimation.quasi_newton import ACCEPTED, SearchResult, maximise
from mvnjac.estimation.result import Fit
from mvnjac.estimation.search_watch import SearchWatch
from mvnjac.estimation.structure import Choice
from mvnjac.gaussian import Gaussian
from mvnjac.parameters.names import NamesArgument
from mvnjac.progress.stages import Progress
from mvnjac.statistics.sufficient import SufficientStatistics

#: the number of EM steps before the search
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
    """`fit`, for a sample that may have been collected in batches; `progress` shows its stages."""
    progress = progress or Progress()
    refuse_unobserved(sample)
    refuse_extreme(sample)
    blocks = [] if choice.instance is None else choice.instance.independent_blocks(sample.d)
    if choice.instance is not None and blocks:
        return _fit_blocks(sample, choice.instance, blocks, names, missing, max_iterations, progress, lower)
    start = choice.start(sample)
    start.require_maximum(sample)
    closed_form = start.closed_form and sample.complete
    units = start.units_of(sample)
    rescaled = None if closed_form else start.rescaled(1 / units)  # the search uses variables scaled to variance 1
    if rescaled is None:
        units = torch.ones_like(units)
    scaled_sample = sample if rescaled is None else sample.in_units(units)
    shift = -float(sample.pair_counts.diagonal() @ units.log())
    watch = SearchWatch(progress, scaled_sample, shift)
    try:
        factors = None if rescaled is None else rescaled.number_of_factors
        if factors is not None:
            given = None if choice.instance is None else rescaled
            result = search(scaled_sample, given, factors, lower, max_iterations, watch)
        else:
            likelihood = _likelihood(scaled_sample, rescaled or start, watch)
            with watch.fitting() as next_search:
                result = maximise(likelihood, 0 if closed_form else max_iterations, next_search())
    except UnsolvedError:
        raise
    except SingularError as error:
        raise NotIdentifiedError(f"{sample.name}: the data do not identify the parameters: {error}") from error
    point = result.point
    converged, message = _convergence(scaled_sample, result, closed_form)
    if not converged:
        warn(f"{sample.name}: {message}", NotConvergedWarning)
    structure = _converted(point.gaussian, type(start))
    structure = (structure if rescaled is None else structure.rescaled(units) or structure).normalised()
    mean = None if structure.mean is not None else sample.origin + units * point.gaussian.mean
    if mean is not None:
        structure = _converted(Gaussian(mean, structure), choice.cls)
    gaussian = Gaussian(mean, structure, names=names, missing=missing)
    gaussian.boundary = _columns_at_bound(gaussian, point.structure, lower)
    if gaussian.boundary:
        message += f"; at the bound, {lower:g} of the variance (a Heywood case): {', '.join(gaussian.boundary)}"
    warn_if_ill_conditioned(sample.name, gaussian, sample.name_of)
    return Fit(gaussian, point.value + shift, sample.count, result.iterations, converged, point.score_ratio, message, sample)


def _fit_blocks(
    sample: SufficientStatistics,
    start: Covariance,
    blocks: Sequence[tuple[slice, Covariance]],
    names: NamesArgument | None,
    missing: str | None,
    max_iterations: int,
    progress: Progress,
    lower: float,
) -> Fit:
    """Each block is fitted separately, since the likelihood is a product over the blocks."""
    fits = []
    for i, (at, block) in enumerate(blocks):
        part = dataclasses.replace(sample.part(at), name=f"{sample.name}: blocks[{i}]")
        fits.append(fit_sample(part, Choice(type(block), instance=block), None, missing, max_iterations, progress, lower))
    covariance = start.with_blocks([each.covariance for each in fits])
    gaussian = Gaussian(torch.cat([each.mean for each in fits]), covariance, names=names, missing=missing)
    for i, each in enumerate(fits):
        for name in each.covariance.bounded:
            at_bound = [column in each.boundary for column in each.gaussian.columns(name)]
            gaussian.boundary = [*gaussian.boundary, *itertools.compress(gaussian.columns(f"blocks[{i}].{name}"), at_bound)]
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


def _likelihood(sample: SufficientStatistics, structure: Covariance, watch: SearchWatch) -> Likelihood:
    """The objective; with missing entries an unrestricted Σ takes EM steps first, and then its Cholesky factor."""
    mean = torch.zeros_like(sample.origin)
    if sample.complete or not structure.starts_with_em:
        return Likelihood(sample, mean, structure)
    with watch.starting_values(_EM_STEPS) as done:
        mean, covariance_matrix = em.iterate(sample, structure.parameters["covariance_matrix"], _EM_STEPS, done)
    log_scale_tril = Gaussian(mean, covariance_matrix).parameter("log_scale_tril")
    return Likelihood(sample, mean, LogCholesky(log_scale_tril))


def _converted(gaussian: Gaussian, cls: type[Covariance]) -> Covariance:
    """The same Σ as another class of dense parametrisation."""
    if isinstance(gaussian.covariance, cls):
        return gaussian.covariance
    return cls(**{name: gaussian.parameter(name) for name in cls.fields})


def _convergence(sample: SufficientStatistics, result: SearchResult, closed_form: bool) -> tuple[bool, str]:
    """Whether the search reached a maximum, and the same in words."""
    ratio, structure = result.point.score_ratio, result.point.structure
    size = f"every total score is at most {ratio:.1e} times the square root of its information"
    if closed_form:
        return True, f"the maximum in closed form; {size}"
    if result.converged:
        rounding = ", which the rounding error of the log-likelihood hides" if ratio > ACCEPTED else ""
        return True, f"converged after {result.iterations} iterations: {size}{rounding}"
    near = structure.near_edge(sample)
    edge = f" {', '.join(near)} is near 0, so there may be no maximum. {structure.advice}" if near else ""
    if math.isnan(ratio):
        left = "the total scores could not be compared with their information, which is nearly singular"
    else:
        left = f"total scores of up to {ratio:.1e} times the square root of their information remain"
    advice = "Start" if result.line_search_failed else "Raise max_iterations, or start"
    return False, f"NOT converged, {result.reason}: {left}.{edge} {advice} from an instance near the maximum."


def _columns_at_bound(gaussian: Gaussian, scaled: Covariance, lower: float) -> list[str]:
    """The columns of the parameters at their lower bound; `scaled` is the covariance of variables with variance 1."""
    return [
        column
        for name in scaled.bounded
        for column, value in zip(gaussian.columns(name), scaled.parameters[name].tolist(), strict=True)
        if value <= lower * (1 + 1e-12)
    ]
