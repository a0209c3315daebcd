"""The search for the maximum of a factor model's likelihood: from several starts, within the bound of the unique variances.

Of complete rows the search is over the unique variances alone (`factor_profile.py`). Where entries are missing it is over the mean, the
loadings and the unique variances, from EM's steps, which begin at the maxima that the pairwise correlations have.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from mvnjac.covariance.structured import factor_analysis
from mvnjac.covariance.structured.low_rank import LowRank
from mvnjac.estimation import incomplete_factors
from mvnjac.estimation.factor_likelihood import FactorLikelihood
from mvnjac.estimation.factor_profile import FactorProfile
from mvnjac.estimation.quasi_newton import Ascent, Point, ascend
from mvnjac.statistics.sufficient import SufficientStatistics

#: how often EM brings a start nearer
_EM_STEPS = 20
#: maxima of the pairwise correlations that the search with missing entries begins from
_FOLLOWED = 3
#: log-likelihoods that are nearer than this are those of one maximum
_SAME = 1e-4
#: (number of the point, point, the largest log-likelihood so far) → None
Watch = Callable[[int, Point, float], None]


def search(sample: SufficientStatistics, given: LowRank | None, k: int, lower: float, most: int, watch: Watch) -> Ascent:
    """The highest maximum that the starts lead to.

    Args:
        sample: of variables with the variance 1.
        given: the only start; None: several, which the data say.
        k: the number of factors; lower: the least unique variance; most: iterations from each start.
    """
    watched = _Best(watch)
    if not sample.complete:
        return _with_gaps(sample, given, k, lower, most, watched)
    profiles = _profiles(sample, _rows(sample), given, k, lower)
    return _highest([ascend(profile, most, watched) for profile in profiles])


def _with_gaps(sample: SufficientStatistics, given: LowRank | None, k: int, lower: float, most: int, watched: _Best) -> Ascent:
    """Of rows that stand for more of them (`StandIn`), the start alone is from these rows: a step is a pass over all."""
    held = sample.held()
    starts = [given.parameters] if given is not None else _starts(held, k, lower, most)
    likelihoods = [_likelihood(held, **start, lower=lower) for start in starts]
    if held is sample:
        return _highest([ascend(likelihood, most, watched) for likelihood in likelihoods])
    best = _highest([ascend(likelihood, most, lambda *_: None) for likelihood in likelihoods]).point.gaussian
    W, v = best.covariance.parameters.values()
    return ascend(FactorLikelihood(sample, best.mean, W, v, lower), most, watched)


def _likelihood(sample: SufficientStatistics, cov_factor: Tensor, cov_diag: Tensor, lower: float) -> FactorLikelihood:
    start = incomplete_factors.improved(sample, cov_factor, cov_diag.clamp(min=lower), lower, _EM_STEPS)
    return FactorLikelihood(sample, *start, lower)


def _starts(sample: SufficientStatistics, k: int, lower: float, most: int) -> list[dict[str, Tensor]]:
    """The parameters at the highest maxima of the profile of the pairwise correlations, as if they were those of complete rows."""
    ends = [ascend(profile, most, lambda *_: None) for profile in _profiles(sample, _rows(sample), None, k, lower)]
    ends.sort(key=lambda end: -end.point.value)
    distinct = ends[:1] + [b for a, b in itertools.pairwise(ends) if a.point.value - b.point.value > _SAME]
    return [end.point.structure.parameters for end in distinct[:_FOLLOWED]]


def _profiles(sample: SufficientStatistics, rows: Tensor, given: LowRank | None, k: int, lower: float) -> list[FactorProfile]:
    chosen = factor_analysis.starts(sample, rows, k, lower) if given is None else [given.parameters["cov_diag"]]
    least = rows.new_full((sample.d,), lower)
    return [FactorProfile(sample, rows, k, start, least) for start in chosen]


def _rows(sample: SufficientStatistics) -> Tensor:
    """(m, d) rows whose Gram matrix is the correlations, over the observations that have both variables; m ≤ d."""
    if len(sample.rows) <= sample.d:
        return sample.scaled_rows
    S = sample.covariance
    if not sample.complete:
        S = _pairwise(sample)
    values, vectors = torch.linalg.eigh(S)
    rows = values.clamp(min=0).sqrt().unsqueeze(-1) * vectors.mT
    return rows / rows.square().sum(0).sqrt()


def _pairwise(sample: SufficientStatistics) -> Tensor:
    """(d, d) the average product over the observations that have both variables; 0 where there are none."""
    rows = sample.rows.nan_to_num()
    products = rows.mT @ (sample.weights.unsqueeze(-1) * rows)
    return torch.where(sample.pair_counts > 0, products / sample.pair_counts.clamp(min=1e-300), 0)


def _highest(ascents: list[Ascent]) -> Ascent:
    """The first of those that are highest but for rounding; one that has not converged only where it is clearly higher."""
    top = max(ascent.point.value for ascent in ascents)
    near = [ascent for ascent in ascents if ascent.point.value >= top - max(_SAME, ascent.rounding)]
    return next((ascent for ascent in near if ascent.converged), near[0])


class _Best:
    """Counts the points of all searches, and keeps the largest log-likelihood."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._count, self._best = watch, 0, -torch.inf

    def __call__(self, iteration: int, point: Point) -> None:
        self._best = max(self._best, point.value)
        self._watch(self._count, point, self._best)
        self._count += 1
