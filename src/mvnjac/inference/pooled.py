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
        roots = self.deviations[self.patterns]
        series = _ratio(self.scores, roots)
        moments = (moving_sums(series, lag) if lag else series).square().sum(0) / (roots > 0).sum(0)
        return (moments * roots.square().sum(0)).sqrt()

    def between(self, places: list[int], up_to: Tensor, lag: int) -> tuple[Tensor, Tensor]:
        """(G, k, k) the information between two dates, and the covariance of the scores there if rows depend on each other."""
        roots = self.deviations[:, places][self.patterns]
        counts = (roots > 0).to(roots.dtype)
        together = (counts.mT @ counts).clamp(min=1)
        standardised = _ratio(self.scores[:, places], roots)
        ends = up_to.tolist()
        blocks = [roots[start:stop] for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
        products = torch.stack([block.mT @ block for block in blocks])
        moments = self._definite(standardised.mT @ standardised / together)
        information = moments * products
        if not lag:
            return information, information
        series = moving_sums(standardised, lag)
        return information, self._definite(series.mT @ series / together) * products

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
        share = 3 * abs(smallest) / (1 + abs(smallest))  # then the smallest eigenvalue is twice as far from 0 as it was
        diagonal = torch.diag_embed(moments.diagonal())
        return moments + share * (diagonal - moments)


def pooled(scores: Tensor, patterns: Tensor) -> Pooled:
    """The standard deviations of the scores by pattern."""
    count = int(patterns.max()) + 1
    squares = scores.square()
    seen = scores.abs() > _ROUNDING * squares.mean(0).sqrt()
    rows = torch.zeros(count, dtype=scores.dtype, device=scores.device).index_add(0, patterns, torch.ones_like(scores[:, 0]))
    sums = scores.new_zeros(count, scores.shape[1]).index_add(0, patterns, squares)
    known = (
        torch.zeros(count, scores.shape[1], dtype=scores.dtype, device=scores.device).index_add(
            0, patterns, seen.to(scores.dtype)
        )
        > 0
    )
    rows = rows.unsqueeze(-1)
    overall = sums.sum(0) / (rows * known).sum(0).clamp(min=1)
    variances = (sums + _PRIOR_ROWS * overall) / (rows + _PRIOR_ROWS)
    return Pooled(scores, patterns, torch.where(known, variances, 0).sqrt())


def moving_sums(scores: Tensor, lag: int) -> Tensor:
    """(n + lag, k) sums of lag + 1 consecutive rows over √(lag + 1): their outer products sum to Newey and West's (Bartlett)."""
    padded = torch.nn.functional.pad(scores, (0, 0, lag + 1, lag)).cumsum(0)
    return (padded[lag + 1 :] - padded[: -lag - 1]) / math.sqrt(lag + 1)


def _ratio(scores: Tensor, roots: Tensor) -> Tensor:
    return torch.where(roots > 0, scores / roots.clamp(min=torch.finfo(roots.dtype).tiny), 0)
