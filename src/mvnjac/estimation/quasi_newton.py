"""Maximisation of a log-likelihood by L-BFGS, preconditioned with the Fisher information, within lower bounds.

The first step is the natural gradient (Fisher scoring). Later steps add the L-BFGS correction (Nocedal 1980, *Updating
quasi-Newton matrices with limited storage*), which learns how the observed information differs from the expected one. So the
steps do not depend on the units of the variables, and convergence is superlinear without a Hessian.

Bounds are handled by projection (Bertsekas 1982, *Projected Newton methods for optimization problems with simple constraints*):
elements that are at their bound, with a score that points outwards, are fixed there (the active set); the metric is that of the
others; and a step that would cross a bound is projected onto it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.errors import NotFiniteError, NotPositiveDefiniteError
from mvnjac.gaussian import Gaussian

#: the search ends when the score ratio √(sᵀ I⁻¹ s) is at most this
TOLERANCE = 1e-8
#: a search that ends earlier has converged if its score ratio is at most this
ACCEPTED = 1e-6
#: the same where the rounding error of the log-likelihood prevents further progress
_ACCEPTED_AT_ROUNDING = 1e-5
#: below this score ratio a full step is judged by the score, which keeps many more digits than the log-likelihood
_NEAR_MAXIMUM = 1e-3
#: the largest change of a logarithm in one step: a variance changes by at most a factor e²
_MAX_LOG_CHANGE = 2.0
#: the number of past steps in the L-BFGS correction
_HISTORY_SIZE = 30


class Point(Protocol):
    """The log-likelihood at one θ.

    Attributes:
        theta: (p,).
        value: the log-likelihood.
        score: (p,) its gradient with respect to θ.
        active: (p,) which elements are at their lower bound with a score that points outwards.
    """

    theta: Tensor
    value: float
    score: Tensor
    active: Tensor

    @property
    def structure(self) -> Covariance:
        """Σ at θ."""

    @property
    def gaussian(self) -> Gaussian:
        """The density at θ."""

    def score_of(self, name: str) -> Tensor:
        """The part of the score that belongs to one parameter."""

    def natural_gradient(self, gradient: Tensor) -> Tensor:
        """An approximate inverse of the total information, over the inactive elements, times a gradient (0 where active)."""

    @property
    def score_ratio(self) -> float:
        """√(sᵀ I⁻¹ s) over the inactive elements."""


class Objective(Protocol):
    """A log-likelihood as a function of θ.

    Attributes:
        start: (p,) the starting point.
        lower: (p,) the lower bounds, −inf where there are none.
    """

    start: Tensor
    lower: Tensor

    def evaluate(self, theta: Tensor) -> Point:
        """The log-likelihood at θ; raises NotPositiveDefiniteError or NotFiniteError where θ gives no density."""

    def largest_log_change(self, change: Tensor) -> float:
        """The largest absolute entry of a change of θ among the entries that are logarithms."""

    def rounding_error(self, value: float) -> float:
        """The uncertainty, from rounding, of a log-likelihood of this value."""


@dataclass
class SearchResult:
    """The end of a search.

    Attributes:
        point: the last point.
        iterations: the number of steps.
        reason: why the search ended before `TOLERANCE` was reached; None if it was reached.
        rounding_error: the uncertainty of the log-likelihood.
        line_search_failed: no step increased the log-likelihood further.
    """

    point: Point
    iterations: int
    reason: str | None
    rounding_error: float
    line_search_failed: bool = False

    @property
    def converged(self) -> bool:
        return self.point.score_ratio <= ACCEPTED or self.limited_by_rounding

    @property
    def limited_by_rounding(self) -> bool:
        """Whether the gain of a Newton step, ½ sᵀI⁻¹s, is below the rounding error of the log-likelihood."""
        ratio = self.point.score_ratio
        return self.line_search_failed and ratio <= _ACCEPTED_AT_ROUNDING and 0.5 * ratio * ratio <= self.rounding_error


def maximise(objective: Objective, max_iterations: int, callback: Callable[[int, Point], None]) -> SearchResult:
    """A local maximum from the objective's start; `callback` is called with every point, and may raise to stop the search."""
    point = objective.evaluate(torch.maximum(objective.start, objective.lower))
    history = _History(point.active)
    for iteration in range(max_iterations):
        callback(iteration, point)
        if not torch.equal(history.active, point.active):
            history = _History(point.active)  # the stored steps have another active set
        direction = history.direction(point)
        if float(_inactive_score(point) @ direction) <= (10 * TOLERANCE) ** 2 and point.score_ratio <= TOLERANCE:
            return SearchResult(point, iteration, None, objective.rounding_error(point.value))
        following = _full_step(objective, point, direction) or _line_search(objective, point, direction)
        if following is None and history.steps:
            history = _History(point.active)
            direction = history.direction(point)
            following = _full_step(objective, point, direction) or _line_search(objective, point, direction)
        if following is None:
            reason = "no step along the natural gradient increases the likelihood"
            return SearchResult(point, iteration, reason, objective.rounding_error(point.value), line_search_failed=True)
        history.add(point, following)
        point = following
    callback(max_iterations, point)
    early = None if point.score_ratio <= TOLERANCE else f"stopped after {max_iterations} iterations"
    return SearchResult(point, max_iterations, early, objective.rounding_error(point.value))


def active_bounds(theta: Tensor, lower: Tensor, score: Tensor) -> Tensor:
    """(p,) the elements at their lower bound whose score points outwards."""
    return (theta <= lower) & (score <= 0)


def _inactive_score(point: Point) -> Tensor:
    """(p,) the score, 0 where θ is fixed at a bound."""
    return point.score.masked_fill(point.active, 0)


@dataclass
class _History:
    """The latest steps, as (change of θ, decrease of the score), all with the same active set; the most recent is last."""

    active: Tensor
    steps: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, before: Point, after: Point) -> None:
        change, decrease = after.theta - before.theta, (before.score - after.score).masked_fill(self.active, 0)
        if float(change @ decrease) > 0:
            self.steps = [*self.steps[1 - _HISTORY_SIZE :], (change, decrease)]

    def direction(self, point: Point) -> Tensor:
        """The L-BFGS two-loop recursion, with the natural gradient in place of a scaled identity."""
        gradient, coefficients = _inactive_score(point), []
        for change, decrease in reversed(self.steps):
            coefficient = (change @ gradient) / (change @ decrease)
            coefficients.append(coefficient)
            gradient = gradient - coefficient * decrease
        direction = point.natural_gradient(gradient)
        for (change, decrease), coefficient in zip(self.steps, reversed(coefficients), strict=True):
            direction = direction + change * (coefficient - (decrease @ direction) / (change @ decrease))
        return direction


def _full_step(objective: Objective, start: Point, direction: Tensor) -> Point | None:
    """Near a maximum, the point after a full step if it at least halves the score ratio; else None.

    Where the information is nearly singular, differences of log-likelihoods lose all digits long before the score does.
    """
    theta = start.theta + direction
    if start.score_ratio > _NEAR_MAXIMUM or bool((theta < objective.lower).any()):
        return None
    try:
        point = objective.evaluate(theta)
    except (NotPositiveDefiniteError, NotFiniteError):
        return None
    return point if point.score_ratio <= 0.5 * start.score_ratio else None


def _line_search(objective: Objective, start: Point, direction: Tensor) -> Point | None:
    """A point that satisfies the weak Wolfe conditions, by bisection; None if there is none.

    Where the step is projected onto a bound, sufficient increase alone is required. A decrease of the log-likelihood by less
    than its rounding error is accepted: near the maximum only the slope can be resolved.
    """
    longest = objective.largest_log_change(direction)
    if longest > _MAX_LOG_CHANGE:
        direction = direction * (_MAX_LOG_CHANGE / longest)
    slope = float(_inactive_score(start) @ direction)
    if not slope > 0:
        return None
    rounding_error = objective.rounding_error(start.value)
    step, low, high = 1.0, 0.0, math.inf
    for _ in range(60):
        unprojected = start.theta + step * direction
        theta = torch.maximum(unprojected, objective.lower)
        try:
            point = objective.evaluate(theta)
        except (NotPositiveDefiniteError, NotFiniteError):
            high = step
        else:
            rise = float(_inactive_score(start) @ (theta - start.theta))
            if not point.value >= start.value + 1e-4 * rise - rounding_error:
                high = step
            elif torch.equal(theta, unprojected) and float(point.score @ direction) > 0.9 * slope:
                low = step
            else:
                return point
        step = 2 * low if high == math.inf else (low + high) / 2
    return None
