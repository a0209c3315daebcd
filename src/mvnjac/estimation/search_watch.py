"""What a search reports: its stages, and each of its points; it stops where the likelihood has no maximum."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

from mvnjac.estimation.quasi_newton import TOLERANCE, Point
from mvnjac.progress.stages import Progress, Stage
from mvnjac.statistics.sufficient import SufficientStatistics

Callback = Callable[[int, Point], None]


class SearchWatch:
    """Shows the progress of a search and of the computation of its starting values.

    Args:
        progress: where it is shown.
        sample: the sample, in the units of the search.
        shift: what the log-likelihood in the units of the data has in addition.
    """

    def __init__(self, progress: Progress, sample: SufficientStatistics, shift: float) -> None:
        self._progress, self._sample, self._shift = progress, sample, shift

    @contextlib.contextmanager
    def starting_values(self, steps: int | None = None) -> Iterator[Callable[[], None]]:
        """The stage in which starting values are computed, in a number of equal steps; call the result after each."""
        with self._progress.stage("starting values", steps, "steps") as stage:
            yield lambda: stage.advance(1)

    @contextlib.contextmanager
    def fitting(self, starts: int = 1) -> Iterator[Callable[[], Callback]]:
        """The stage of the searches; call the result before each search, for its callback.

        The callback raises an error if a point is at the edge of the parameter space.
        """
        with self._progress.stage("fitting") as stage:
            yield _Points(self._sample, self._shift, stage, starts).of_next_search


class _Points:
    """Numbers the points of all searches, and reports each with the largest log-likelihood so far."""

    def __init__(self, sample: SufficientStatistics, shift: float, stage: Stage, starts: int) -> None:
        self._sample, self._shift, self._stage, self._starts = sample, shift, stage, starts
        self._count, self._best, self._start = 0, -math.inf, 0

    def of_next_search(self) -> Callback:
        self._start += 1
        return self._report

    def _report(self, _: int, point: Point) -> None:
        point.structure.require_interior(self._sample, point.score_of)
        self._best = max(self._best, point.value)
        value, place = point.value, ""
        if self._starts > 1:
            value, place = self._best, f"start {self._start} of {self._starts}"
        self._stage.iteration(self._count, value + self._shift, point.score_ratio, TOLERANCE, place)
        self._count += 1
