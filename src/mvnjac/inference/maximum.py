"""From a sample to the maximum of the likelihood of a structure: in closed form, or by a search."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.dense import Dense
from mvnjac.covariance.estimation import refuse_unobserved
from mvnjac.covariance.log_cholesky import LogCholesky
from mvnjac.errors import NotConvergedWarning
from mvnjac.gaussian import Gaussian
from mvnjac.inference.expectation_maximisation import improved
from mvnjac.inference.likelihood import Likelihood, Point
from mvnjac.inference.quasi_newton import Ascent, ascend
from mvnjac.inference.result import Fit
from mvnjac.inference.structure import Choice
from mvnjac.names import NamesArgument
from mvnjac.sample import Sample

#: (phase, iteration, log-likelihood) → None
Progress = Callable[[str, int, float], None]

#: how often EM brings a start nearer
_EM_STEPS = 10


def fit_sample(
    sample: Sample,
    choice: Choice,
    names: NamesArgument | None = None,
    max_iterations: int = 1000,
    progress: Progress | None = None,
) -> Fit:
    """`fit` to a sample that may have come in batches."""
    refuse_unobserved(sample)
    start = choice.start(sample)
    start.require_maximum(sample)
    closed_form = start.closed_form and sample.complete
    units = sample.variances.sqrt()
    rescaled = None if closed_form else start.rescaled(1 / units)  # a search sees variables of variance 1
    if rescaled is None:
        units = torch.ones_like(units)
    sample_there = sample if rescaled is None else sample.in_units(units)
    likelihood = _likelihood(sample_there, rescaled or start)
    shift = -float((sample.multiplicity.unsqueeze(-1) * sample.observed * units.log()).sum())

    def watch(iteration: int, point: Point) -> None:
        point.structure.refuse_edge(sample_there, point.scores)
        if progress is not None:
            progress("fitting", iteration, point.value + shift)

    ascent = ascend(likelihood, 0 if closed_form else max_iterations, watch)
    point = ascent.point
    converged, message = _verdict(ascent, closed_form)
    if not converged:
        warnings.warn(f"{sample.name}: {message}", NotConvergedWarning, stacklevel=3)
    gaussian = _gaussian(sample, point.gaussian, units, type(start), choice.cls, names)
    return Fit(gaussian, point.value + shift, sample.count, ascent.iterations, converged, point.score_ratio, message, sample)


def _likelihood(sample: Sample, structure: Covariance) -> Likelihood:
    """With its start; where entries are missing, an unrestricted Σ is searched by its Cholesky factor, from some steps of EM on."""
    mean = torch.zeros_like(sample.origin)
    if sample.complete or not isinstance(structure, Dense):
        return Likelihood(sample, mean, structure)
    mean, covariance_matrix = improved(sample, structure.parameters["covariance_matrix"], _EM_STEPS)
    log_scale_tril = Gaussian(mean, covariance_matrix).parameter("log_scale_tril")
    return Likelihood(sample, mean, LogCholesky(log_scale_tril))


def _gaussian(
    sample: Sample,
    found: Gaussian,
    units: Tensor,
    searched: type[Covariance],
    wanted: type[Covariance],
    names: NamesArgument | None,
) -> Gaussian:
    """The estimate in the units of x, in the parametrisation that was asked for."""
    structure = _converted(found, searched)
    structure = (structure.rescaled(units) or structure).normalised()
    if structure.mean is not None:
        return Gaussian(structure, names=names)
    mean = sample.origin + units * found.mean
    return Gaussian(mean, _converted(Gaussian(mean, structure), wanted), names=names)


def _converted(gaussian: Gaussian, cls: type[Covariance]) -> Covariance:
    """The same Σ as a structure of another class of the dense family."""
    if isinstance(gaussian.covariance, cls):
        return gaussian.covariance
    return cls(**{name: gaussian.parameter(name) for name in cls.fields})


def _verdict(ascent: Ascent, closed_form: bool) -> tuple[bool, str]:
    size = f"no total score is above {ascent.point.score_ratio:.1e} of the square root of its information"
    if closed_form:
        return True, f"the maximum in closed form; {size}"
    if ascent.converged:
        return True, f"converged after {ascent.iterations} iterations: {size}"
    return False, (
        f"NOT converged, {ascent.stopped}: total scores of up to {ascent.point.score_ratio:.1e} of the square root of their "
        "information are left; raise max_iterations, or start from an instance nearby."
    )
