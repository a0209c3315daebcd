"""The covariance of scores between dates, pooled over all rows: if no parameter changes, rows that observe the same have the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import SingularError

#: a score below so much of the column's root mean square is one of a row without information about it: rounding
_ROUNDING = 1e-7
#: the variance of a pattern's scores is drawn to that of all rows as by so many rows of it
_PRIOR_ROWS = 100
#: patterns of as many rows a column have moments of their own
_ROWS_A_COLUMN = 5
#: bytes of the columns of scores that are worked on at a time
_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Pooled:
    """Scores in the order of time. Made by `pooled`.

    Attributes:
        scores: (n, p); patterns: (n,) which pattern of observed variables a row has.
        deviations: (P, p) the standard deviation of a score by pattern, 0 without information.
    """

    scores: Float[Tensor, "n p"]
    patterns: Tensor
    deviations: Float[Tensor, "patterns p"]

    def clock(self, places: Sequence[int] | slice) -> Tensor:
        """(n, k) the share of the information about these columns that has come up to each row."""
        clock = self.deviations[:, places].square()[self.patterns].cumsum(0)
        return clock / clock[-1].clone()

    def scale(self, lag: int) -> Tensor:
        """(p,) the standard deviations of the total scores."""
        found = []
        for some in columns_at_a_time(self.scores):
            roots = self.deviations[:, some][self.patterns]
            series = _ratio(self.scores[:, some], roots)
            moments = (moving_sums(series, lag) if lag else series).square().sum(0) / (roots > 0).sum(0)
            found.append((moments * roots.square().sum(0)).sqrt())
        return torch.cat(found)

    def between(self, places: list[int], up_to: Tensor, lag: int) -> tuple[Tensor, Tensor]:
        """(G, k, k) the information between two dates, and the covariance of the scores there if rows depend on each other."""
        roots = self.deviations[:, places][self.patterns]
        counts = (roots > 0).to(roots.dtype)
        together = (counts.mT @ counts).clamp(min=1)
        standardised = _ratio(self.scores[:, places], roots)
        moments = self._definite(standardised.mT @ standardised / together)
        by_pattern = self._by_pattern(standardised, moments)
        information = self._products(places, up_to, moments, by_pattern)
        if not lag:
            return information, information
        series = moving_sums(standardised, lag)
        long_run = self._definite(series.mT @ series / together)
        inflated = torch.linalg.cholesky(long_run) @ torch.linalg.inv(torch.linalg.cholesky(moments))
        by_pattern = {pattern: inflated @ own @ inflated.mT for pattern, own in by_pattern.items()}
        return information, self._products(places, up_to, long_run, by_pattern)

    def _by_pattern(self, standardised: Tensor, moments: Tensor) -> dict[int, Tensor]:
        """The moments of the patterns that have rows enough, drawn to those of all rows as by k rows of these."""
        k = standardised.shape[1]
        found = {}
        for pattern, count in enumerate(torch.bincount(self.patterns).tolist()):
            if count >= _ROWS_A_COLUMN * k:
                own = standardised[self.patterns == pattern]
                found[pattern] = (own.mT @ own + k * moments) / (count + k)
        return found

    def _products(self, places: list[int], up_to: Tensor, moments: Tensor, by_pattern: dict[int, Tensor]) -> Tensor:
        """(G, k, k) sums of the rows' covariances between the dates."""
        deviations, ends = self.deviations[:, places], up_to.tolist()
        frequent = torch.tensor(
            [pattern in by_pattern for pattern in range(len(deviations))], dtype=torch.bool, device=deviations.device
        )
        rare = torch.where(frequent.unsqueeze(-1), 0, deviations)[self.patterns]
        blocks = [slice(start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
        found = moments * torch.stack([rare[block].mT @ rare[block] for block in blocks])
        for pattern, own in by_pattern.items():
            here = (self.patterns == pattern).to(deviations.dtype)
            rows = torch.stack([here[block].sum() for block in blocks]).reshape(-1, 1, 1)
            found += rows * (own * torch.outer(deviations[pattern], deviations[pattern]))
        return found

    def _definite(self, moments: Tensor) -> Tensor:
        """Moments of pairs, each from its own rows, may be those of no covariance: these are drawn to their diagonal."""
        units = moments.diagonal().sqrt()
        correlation = moments / torch.outer(units, units)
        smallest = float(torch.linalg.eigvalsh(correlation)[0])
        rounding = len(moments) * torch.finfo(moments.dtype).eps
        if abs(smallest) <= rounding:
            raise SingularError(
                f"score_process: the covariance of the scores of {len(moments)} columns is singular; there must be more rows than "
                "parameters, and no direction in which the density does not change: select other columns."
            )
        if smallest > 0:
            return moments
        smallest = -smallest
        share = (smallest + min(2 * smallest, 0.5)) / (
            1 + smallest
        )  # then the smallest eigenvalue is twice as far from 0, or 0.5
        diagonal = torch.diag_embed(moments.diagonal())
        return moments + share * (diagonal - moments)


def pooled(scores: Tensor, patterns: Tensor) -> Pooled:
    """The standard deviations of the scores by pattern."""
    count = int(patterns.max()) + 1
    rows = scores.new_zeros(count).index_add(0, patterns, torch.ones_like(scores[:, 0])).unsqueeze(-1)
    deviations = scores.new_empty(count, scores.shape[1])
    for some in columns_at_a_time(scores):
        own = scores[:, some]
        squares = own.square()
        seen = (own.abs() > _ROUNDING * squares.mean(0).sqrt()).to(own.dtype)
        sums = own.new_zeros(count, own.shape[1]).index_add(0, patterns, squares)
        known = own.new_zeros(count, own.shape[1]).index_add(0, patterns, seen) > 0
        overall = sums.sum(0) / (rows * known).sum(0).clamp(min=1)
        variances = (sums + _PRIOR_ROWS * overall) / (rows + _PRIOR_ROWS)
        deviations[:, some] = torch.where(known, variances, 0).sqrt()
    return Pooled(scores, patterns, deviations)


def columns_at_a_time(scores: Tensor) -> list[slice]:
    """Slices of the columns of (n, p): what is made of them needs several times their memory."""
    step = max(1, _CHUNK_BYTES // (scores.element_size() * max(len(scores), 1)))
    return [slice(first, min(first + step, scores.shape[1])) for first in range(0, scores.shape[1], step)]


def moving_sums(scores: Tensor, lag: int) -> Tensor:
    """(n + lag, k) sums of lag + 1 consecutive rows over √(lag + 1): their outer products sum to Newey and West's (Bartlett)."""
    padded = torch.nn.functional.pad(scores, (0, 0, lag + 1, lag)).cumsum(0)
    return (padded[lag + 1 :] - padded[: -lag - 1]) / math.sqrt(lag + 1)


def _ratio(scores: Tensor, roots: Tensor) -> Tensor:
    return torch.where(roots > 0, scores / roots.clamp(min=torch.finfo(roots.dtype).tiny), 0)
