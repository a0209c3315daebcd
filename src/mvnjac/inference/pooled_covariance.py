"""The covariance of scores between dates, pooled over rows: if no parameter changes, rows with the same pattern of observed
variables have scores with the same covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.inference.process_statistics import singular_scores
from mvnjac.linalg.correlation import smallest_eigenvalue

#: a score below this share of its column's root mean square is rounding: the row has no information about the column
_ROUNDING = 1e-7
#: the variance of a pattern's scores is shrunk towards that of all rows, with the weight of this many rows
_PRIOR_ROWS = 100
#: a pattern with at least this many rows per column has moments of its own
_ROWS_PER_COLUMN = 5
#: size of a chunk of columns of the scores
_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class PooledScores:
    """Scores in the order of time, with standard deviations pooled by pattern. Made by `pool_scores`.

    Attributes:
        scores: (n, p).
        patterns: (n,) the number of the pattern of observed variables of each row.
        deviations: (P, p) the standard deviation of the scores of each pattern; 0 without information.
    """

    scores: Float[Tensor, "n p"]
    patterns: Tensor
    deviations: Float[Tensor, "patterns p"]

    def clock(self, columns: Sequence[int] | slice) -> Tensor:
        """(n, k) the information fraction: the share of the information about each column in the rows up to each row."""
        clock = self.deviations[:, columns].square()[self.patterns].cumsum(0)
        return clock / clock[-1].clone()

    def scale(self, lag: int) -> Tensor:
        """(p,) the standard deviations of the total scores."""
        found = []
        for chunk in column_chunks(self.scores):
            deviations = self.deviations[:, chunk][self.patterns]
            series = _standardised(self.scores[:, chunk], deviations)
            moments = (moving_sums(series, lag) if lag else series).square().sum(0) / (deviations > 0).sum(0)
            found.append((moments * deviations.square().sum(0)).sqrt())
        return torch.cat(found)

    def increments(self, columns: list[int], row_counts: Tensor, lag: int) -> tuple[Tensor, Tensor]:
        """(G, k, k) between two dates: the information, and the covariance of scores that depend on each other up to `lag`."""
        deviations = self.deviations[:, columns][self.patterns]
        informative = (deviations > 0).to(deviations.dtype)
        pair_counts = (informative.mT @ informative).clamp(min=1)
        standardised = _standardised(self.scores[:, columns], deviations)
        moments = _positive_definite(standardised.mT @ standardised / pair_counts)
        by_pattern = self._moments_by_pattern(standardised, moments)
        information = self._sums(columns, row_counts, moments, by_pattern)
        if not lag:
            return information, information
        series = moving_sums(standardised, lag)
        long_run = _positive_definite(series.mT @ series / pair_counts)
        transform = torch.linalg.cholesky(long_run) @ torch.linalg.inv(torch.linalg.cholesky(moments))
        by_pattern = {pattern: transform @ within @ transform.mT for pattern, within in by_pattern.items()}
        return information, self._sums(columns, row_counts, long_run, by_pattern)

    def _moments_by_pattern(self, standardised: Tensor, moments: Tensor) -> dict[int, Tensor]:
        """The moments of each pattern with enough rows, shrunk towards those of all rows with the weight of k rows."""
        k = standardised.shape[1]
        found = {}
        for pattern, count in enumerate(torch.bincount(self.patterns).tolist()):
            if count >= _ROWS_PER_COLUMN * k:
                rows = standardised[self.patterns == pattern]
                found[pattern] = (rows.mT @ rows + k * moments) / (count + k)
        return found

    def _sums(self, columns: list[int], row_counts: Tensor, moments: Tensor, by_pattern: dict[int, Tensor]) -> Tensor:
        """(G, k, k) the sums of the rows' covariances between the dates."""
        deviations, ends = self.deviations[:, columns], row_counts.tolist()
        frequent = [pattern in by_pattern for pattern in range(len(deviations))]
        is_frequent = torch.tensor(frequent, dtype=torch.bool, device=deviations.device)
        rare = torch.where(is_frequent.unsqueeze(-1), 0, deviations)[self.patterns]
        blocks = [slice(start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
        found = moments * torch.stack([rare[block].mT @ rare[block] for block in blocks])
        for pattern, within in by_pattern.items():
            of_pattern = (self.patterns == pattern).to(deviations.dtype)
            rows = torch.stack([of_pattern[block].sum() for block in blocks]).reshape(-1, 1, 1)
            found += rows * (within * torch.outer(deviations[pattern], deviations[pattern]))
        return found


def pool_scores(scores: Tensor, patterns: Tensor) -> PooledScores:
    """The scores with the standard deviations of each pattern."""
    count = int(patterns.max()) + 1
    rows = scores.new_zeros(count).index_add(0, patterns, torch.ones_like(scores[:, 0])).unsqueeze(-1)
    deviations = scores.new_empty(count, scores.shape[1])
    for chunk in column_chunks(scores):
        part = scores[:, chunk]
        squares = part.square()
        nonzero = (part.abs() > _ROUNDING * squares.mean(0).sqrt()).to(part.dtype)
        sums = part.new_zeros(count, part.shape[1]).index_add(0, patterns, squares)
        informative = part.new_zeros(count, part.shape[1]).index_add(0, patterns, nonzero) > 0
        overall = sums.sum(0) / (rows * informative).sum(0).clamp(min=1)
        variances = (sums + _PRIOR_ROWS * overall) / (rows + _PRIOR_ROWS)
        deviations[:, chunk] = torch.where(informative, variances, 0).sqrt()
    return PooledScores(scores, patterns, deviations)


def column_chunks(scores: Tensor) -> list[slice]:
    """Slices of the columns of (n, p), since temporary arrays need several times the memory of the columns."""
    step = max(1, _CHUNK_BYTES // (scores.element_size() * max(len(scores), 1)))
    return [slice(first, min(first + step, scores.shape[1])) for first in range(0, scores.shape[1], step)]


def moving_sums(scores: Tensor, lag: int) -> Tensor:
    """(n + lag, k) sums of lag + 1 consecutive rows over √(lag + 1).

    The sum of their outer products is the covariance of Newey and West (Bartlett weights).
    """
    padded = torch.nn.functional.pad(scores, (0, 0, lag + 1, lag)).cumsum(0)
    return (padded[lag + 1 :] - padded[: -lag - 1]) / math.sqrt(lag + 1)


def _standardised(scores: Tensor, deviations: Tensor) -> Tensor:
    return torch.where(deviations > 0, scores / deviations.clamp(min=torch.finfo(deviations.dtype).tiny), 0)


def _positive_definite(moments: Tensor) -> Tensor:
    """The moments, shrunk towards their diagonal if they are indefinite, as moments with different rows for each pair may be.

    The smallest eigenvalue of the result, in units of the diagonal, is twice as far above 0 as it was below, but at most 0.5.
    """
    smallest = smallest_eigenvalue(moments)
    if abs(smallest) <= len(moments) * torch.finfo(moments.dtype).eps:
        raise singular_scores(len(moments), smallest)
    if smallest > 0:
        return moments
    excess = -smallest
    share = (excess + min(2 * excess, 0.5)) / (1 + excess)
    diagonal = torch.diag_embed(moments.diagonal())
    return moments + share * (diagonal - moments)
