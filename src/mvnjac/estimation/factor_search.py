"""The maximum of a factor model's likelihood: searches from several starting values, with bounded unique variances.

With complete rows the search is over the unique variances alone (`factor_profile.py`). With missing entries it is over the
mean, the loadings and the unique variances; it starts at the maxima that the pairwise correlations have, improved by EM steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.structured import factor_analysis
from mvnjac.covariance.structured.low_rank import LowRank
from mvnjac.estimation import incomplete_factors
from mvnjac.estimation.factor_likelihood import FactorLikelihood
from mvnjac.estimation.factor_profile import FactorProfile
from mvnjac.estimation.quasi_newton import Objective, SearchResult, maximise
from mvnjac.estimation.search_watch import SearchWatch
from mvnjac.statistics.sufficient import SufficientStatistics

#: the number of EM steps from each starting value
_EM_STEPS = 20
#: the most maxima of the pairwise correlations that become starting values with missing entries
_MAX_STARTS = 3
#: log-likelihoods that differ by less than this belong to the same maximum
_SAME_MAXIMUM = 1e-4


def search(
    sample: SufficientStatistics, given: Covariance | None, k: int, lower: float, max_iterations: int, watch: SearchWatch
) -> SearchResult:
    """The highest maximum reached from all starting values.

    Args:
        sample: with all variables scaled to variance 1.
        given: the only starting value; None: several, computed from the data.
        k: the number of factors.
        lower: the lower bound of the unique variances.
        max_iterations: for each starting value.
        watch: shows the progress.
    """
    assert given is None or isinstance(given, LowRank)
    if not sample.complete:
        return _search_incomplete(sample, given, k, lower, max_iterations, watch)
    return _searched(_profiles(sample, _gram_rows(sample), given, k, lower), max_iterations, watch)


def _search_incomplete(
    sample: SufficientStatistics, given: LowRank | None, k: int, lower: float, max_iterations: int, watch: SearchWatch
) -> SearchResult:
    """If the sample holds a subsample of its table, that gives the starting value, and each step passes over the table."""
    held = sample.held()
    with watch.starting_values():
        starts = [given.parameters] if given is not None else _starts(held, k, lower, max_iterations)
        likelihoods = [_after_em(held, **start, lower=lower) for start in starts]
        if held is not sample:
            best = _highest([maximise(likelihood, max_iterations, lambda *_: None) for likelihood in likelihoods])
            W, v = best.point.gaussian.covariance.parameters.values()
            likelihoods = [FactorLikelihood(sample, best.point.gaussian.mean, W, v, lower)]
    return _searched(likelihoods, max_iterations, watch)


def _searched(objectives: Sequence[Objective], max_iterations: int, watch: SearchWatch) -> SearchResult:
    """The highest of the maxima that are reached from the start of each objective."""
    with watch.fitting(len(objectives)) as next_search:
        return _highest([maximise(objective, max_iterations, next_search()) for objective in objectives])


def _after_em(sample: SufficientStatistics, cov_factor: Tensor, cov_diag: Tensor, lower: float) -> FactorLikelihood:
    start = incomplete_factors.iterate(sample, cov_factor, cov_diag.clamp(min=lower), lower, _EM_STEPS)
    return FactorLikelihood(sample, *start, lower)


def _starts(sample: SufficientStatistics, k: int, lower: float, max_iterations: int) -> list[dict[str, Tensor]]:
    """The parameters at the highest maxima of the profile likelihood of the pairwise correlations."""
    profiles = _profiles(sample, _gram_rows(sample), None, k, lower)
    found = [maximise(profile, max_iterations, lambda *_: None) for profile in profiles]
    found.sort(key=lambda result: -result.point.value)
    distinct = found[:1] + [b for a, b in itertools.pairwise(found) if a.point.value - b.point.value > _SAME_MAXIMUM]
    return [result.point.structure.parameters for result in distinct[:_MAX_STARTS]]


def _profiles(sample: SufficientStatistics, rows: Tensor, given: LowRank | None, k: int, lower: float) -> list[FactorProfile]:
    starts = factor_analysis.starts(sample, rows, k, lower) if given is None else [given.parameters["cov_diag"]]
    return [FactorProfile(sample, rows, k, start, rows.new_full((sample.d,), lower)) for start in starts]


def _gram_rows(sample: SufficientStatistics) -> Tensor:
    """(m, d), m ≤ d, with the correlations, pairwise where entries are missing, as Gram matrix."""
    if len(sample.rows) <= sample.d:
        return sample.scaled_rows
    values, vectors = torch.linalg.eigh(sample.covariance if sample.complete else _pairwise_products(sample))
    rows = values.clamp(min=0).sqrt().unsqueeze(-1) * vectors.mT
    return rows / rows.square().sum(0).sqrt()


def _pairwise_products(sample: SufficientStatistics) -> Tensor:
    """(d, d) the average product over the observations that have both variables; 0 where there are none."""
    rows = sample.rows.nan_to_num()
    products = rows.mT @ (sample.weights.unsqueeze(-1) * rows)
    return torch.where(sample.pair_counts > 0, products / sample.pair_counts.clamp(min=1e-300), 0)


def _highest(results: list[SearchResult]) -> SearchResult:
    """The first converged search among the highest up to rounding; an unconverged one only if it is clearly higher."""
    top = max(result.point.value for result in results)
    near = [result for result in results if result.point.value >= top - max(_SAME_MAXIMUM, result.rounding_error)]
    return next((result for result in near if result.converged), near[0])
