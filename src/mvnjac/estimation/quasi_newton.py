"""Uphill to the maximum of a likelihood: L-BFGS in the metric of the Fisher information, within lower bounds.

The first step is the natural gradient (Fisher's scoring); from the scores met on the way, L-BFGS (Nocedal 1980, *Updating
quasi-Newton matrices with limited storage*) then learns in what the observed information differs from the expected one. So steps
do not depend on the variables' units, and convergence is faster than linear without a Hessian.

Bounds are kept by projection (Bertsekas 1982, *Projected Newton methods for optimization problems with simple constraints*): elements
at their bound whose score points outwards are held there, the others move in their own metric, and a step that would cross a bound
ends at it.
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

#: the search ends when every total score is below this, in units of the square root of its information
GOAL = 1e-8
#: what is called a maximum where the search ends before the goal
ENOUGH = 1e-6
#: the same where rounding of the log-likelihood hides what is left
_HIDDEN = 1e-5
#: nearer than this to a maximum a step is judged by the score, which rounding leaves many more digits than the log-likelihood
_NEAR = 1e-3
#: no logarithm moves further in one step: no variance by more than e² at a time
_LONGEST = 2.0
#: steps that are remembered
_MEMORY = 30


class Point(Protocol):
    """A log-likelihood at one θ.

    Attributes:
        theta: (p,); value: the log-likelihood; score: (p,) its derivatives by θ.
        held: (p,) which elements stand at their lower bound with a score that points outwards.
    """

    theta: Tensor
    value: float
    score: Tensor
    held: Tensor

    @property
    def structure(self) -> Covariance:
        """Σ."""

    @property
    def gaussian(self) -> Gaussian:
        """The density."""

    def scores(self, name: str) -> Tensor:
        """The part of the score that is by one parameter."""

    def natural(self, gradient: Tensor) -> Tensor:
        """About the inverse total information, of what is not held, times a gradient that is 0 where θ is held."""

    @property
    def score_ratio(self) -> float:
        """√(sᵀ I⁻¹ s) of the elements that are not held."""


class Objective(Protocol):
    """A log-likelihood as a function of θ.

    Attributes:
        start: (p,) where a search begins; lower: (p,) the bounds, −inf where there are none.
    """

    start: Tensor
    lower: Tensor

    def at(self, theta: Tensor) -> Point:
        """The likelihood there; NotPositiveDefiniteError or NotFiniteError where θ is no density."""

    def largest_logarithm(self, change: Tensor) -> float:
        """The largest entry, in absolute value, of a change of θ, among those that are logarithms."""

    def rounding(self, value: float) -> float:
        """By how much a log-likelihood of about this value is uncertain."""


@dataclass
class Ascent:
    """Where a search ended: at which point, after how many steps, and why (None: at the goal).

    rounding: by how much the log-likelihood there is uncertain; exhausted: no further step raised it.
    """

    point: Point
    iterations: int
    stopped: str | None
    rounding: float
    exhausted: bool = False

    @property
    def converged(self) -> bool:
        return self.point.score_ratio <= ENOUGH or self.hidden

    @property
    def hidden(self) -> bool:
        """Whether the search was stopped by rounding: a Newton step would gain ½ sᵀI⁻¹s, less than the log-likelihood shows."""
        ratio = self.point.score_ratio
        return self.exhausted and ratio <= _HIDDEN and 0.5 * ratio * ratio <= self.rounding


def ascend(objective: Objective, most: int, watch: Callable[[int, Point], None]) -> Ascent:
    """From the objective's own start to a maximum nearby; `watch` sees every point on the way, and may raise."""
    point = objective.at(torch.maximum(objective.start, objective.lower))
    memory = _Memory(point.held)
    for iteration in range(most):
        watch(iteration, point)
        if not torch.equal(memory.held, point.held):
            memory = _Memory(point.held)  # what was learned is of other elements
        direction = memory.direction(point)
        if float(_free(point) @ direction) <= (10 * GOAL) ** 2 and point.score_ratio <= GOAL:
            return Ascent(point, iteration, None, objective.rounding(point.value))
        following = _halving(objective, point, direction) or _step(objective, point, direction)
        if following is None and memory.changes:
            memory = _Memory(point.held)
            direction = memory.direction(point)
            following = _halving(objective, point, direction) or _step(objective, point, direction)
        if following is None:
            stopped = "no step along the natural gradient raises the likelihood"
            return Ascent(point, iteration, stopped, objective.rounding(point.value), exhausted=True)
        memory.add(point, following)
        point = following
    watch(most, point)
    early = None if point.score_ratio <= GOAL else f"stopped after {most} iterations"
    return Ascent(point, most, early, objective.rounding(point.value))


def held_at(theta: Tensor, lower: Tensor, score: Tensor) -> Tensor:
    """(p,) the elements at their bound that would cross it uphill."""
    return (theta <= lower) & (score <= 0)


def _free(point: Point) -> Tensor:
    """(p,) the score, 0 where θ is held."""
    return point.score.masked_fill(point.held, 0)


@dataclass
class _Memory:
    """Changes of θ and of minus the score, the latest last, all with the same elements held."""

    held: Tensor
    changes: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, before: Point, after: Point) -> None:
        change, fall = after.theta - before.theta, (before.score - after.score).masked_fill(self.held, 0)
        if float(change @ fall) > 0:
            self.changes = [*self.changes[1 - _MEMORY :], (change, fall)]

    def direction(self, point: Point) -> Tensor:
        """The two-loop recursion about the natural gradient."""
        gradient, shares = _free(point), []
        for change, fall in reversed(self.changes):
            share = (change @ gradient) / (change @ fall)
            shares.append(share)
            gradient = gradient - share * fall
        direction = point.natural(gradient)
        for (change, fall), share in zip(self.changes, reversed(shares), strict=True):
            direction = direction + change * (share - (fall @ direction) / (change @ fall))
        return direction


def _halving(objective: Objective, start: Point, direction: Tensor) -> Point | None:
    """Near a maximum: the point at the end of the whole step, if no more than half of the score is left there.

    Where the information is nearly singular, differences of log-likelihoods drown in rounding long before the score does.
    """
    theta = start.theta + direction
    if start.score_ratio > _NEAR or bool((theta < objective.lower).any()):
        return None
    try:
        point = objective.at(theta)
    except (NotPositiveDefiniteError, NotFiniteError):
        return None
    return point if point.score_ratio <= 0.5 * start.score_ratio else None


def _step(objective: Objective, start: Point, direction: Tensor) -> Point | None:
    """A point uphill at which the slope is clearly less steep (Wolfe's conditions), by bisection; None where there is none. Where
    the way bends at a bound, a clear rise is enough.

    A fall of the likelihood within its rounding is none: near the maximum only the slope can be seen.
    """
    longest = objective.largest_logarithm(direction)
    if longest > _LONGEST:
        direction = direction * (_LONGEST / longest)
    slope = float(_free(start) @ direction)
    if not slope > 0:
        return None
    rounding = objective.rounding(start.value)
    step, low, high = 1.0, 0.0, math.inf
    for _ in range(60):
        straight = start.theta + step * direction
        theta = torch.maximum(straight, objective.lower)
        try:
            point = objective.at(theta)
        except (NotPositiveDefiniteError, NotFiniteError):
            high = step
        else:
            rise = float(_free(start) @ (theta - start.theta))
            if not point.value >= start.value + 1e-4 * rise - rounding:
                high = step
            elif torch.equal(theta, straight) and float(point.score @ direction) > 0.9 * slope:
                low = step
            else:
                return point
        step = 2 * low if high == math.inf else (low + high) / 2
    return None
