"""Uphill to the maximum of a likelihood: L-BFGS in the metric of the Fisher information.

The first step is the natural gradient (Fisher's scoring); from the scores met on the way, L-BFGS (Nocedal 1980, *Updating
quasi-Newton matrices with limited storage*) then learns in what the observed information differs from the expected one. So steps
do not depend on the variables' units, and convergence is faster than linear without a Hessian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mvnjac.errors import NotFiniteError, NotPositiveDefiniteError
from mvnjac.inference.likelihood import Likelihood, Point

#: the search ends when every total score is below this, in units of the square root of its information
GOAL = 1e-8
#: what is called a maximum where rounding keeps the search from the goal
ENOUGH = 1e-6
#: no logarithm moves further in one step: no variance by more than e² at a time
_LONGEST = 2.0
#: steps that are remembered
_MEMORY = 30


@dataclass
class Ascent:
    """Where a search ended: at which point, after how many steps, and why (None: at the goal)."""

    point: Point
    iterations: int
    stopped: str | None

    @property
    def converged(self) -> bool:
        return self.point.score_ratio <= ENOUGH


def ascend(likelihood: Likelihood, most: int, watch: Callable[[int, Point], None]) -> Ascent:
    """From the likelihood's own start to a maximum nearby; `watch` sees every point on the way, and may raise."""
    point, memory = likelihood.at(likelihood.start), _Memory()
    for iteration in range(most):
        watch(iteration, point)
        direction = memory.direction(point)
        if float(point.score @ direction) <= (10 * GOAL) ** 2 and point.score_ratio <= GOAL:
            return Ascent(point, iteration, None)
        following = _step(likelihood, point, direction)
        if following is None and memory.changes:
            memory = _Memory()
            following = _step(likelihood, point, memory.direction(point))
        if following is None:
            return Ascent(point, iteration, "no step along the natural gradient raises the likelihood")
        memory.add(point, following)
        point = following
    watch(most, point)
    return Ascent(point, most, None if point.score_ratio <= GOAL else f"stopped after {most} iterations")


@dataclass
class _Memory:
    """Changes of θ and of minus the score, the latest last."""

    changes: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, before: Point, after: Point) -> None:
        change, fall = after.theta - before.theta, before.score - after.score
        if float(change @ fall) > 0:
            self.changes = [*self.changes[1 - _MEMORY :], (change, fall)]

    def direction(self, point: Point) -> Tensor:
        """The two-loop recursion about the natural gradient."""
        gradient, shares = point.score, []
        for change, fall in reversed(self.changes):
            share = (change @ gradient) / (change @ fall)
            shares.append(share)
            gradient = gradient - share * fall
        direction = point.natural(gradient)
        for (change, fall), share in zip(self.changes, reversed(shares), strict=True):
            direction = direction + change * (share - (fall @ direction) / (change @ fall))
        return direction


def _step(likelihood: Likelihood, start: Point, direction: Tensor) -> Point | None:
    """A point uphill at which the slope is clearly less steep (Wolfe's conditions), by bisection; None where there is none.

    A fall of the likelihood within its rounding is none: near the maximum only the slope can be seen.
    """
    longest = likelihood.largest_logarithm(direction)
    if longest > _LONGEST:
        direction = direction * (_LONGEST / longest)
    slope = float(start.score @ direction)
    if not slope > 0:
        return None
    rounding = 10 * torch.finfo(torch.float64).eps * (abs(start.value) + likelihood.sample.total)
    step, low, high = 1.0, 0.0, math.inf
    for _ in range(60):
        try:
            point = likelihood.at(start.theta + step * direction)
        except (NotPositiveDefiniteError, NotFiniteError):
            high = step
        else:
            if not point.value >= start.value + 1e-4 * step * slope - rounding:
                high = step
            elif float(point.score @ direction) > 0.9 * slope:
                low = step
            else:
                return point
        step = 2 * low if high == math.inf else (low + high) / 2
    return None
