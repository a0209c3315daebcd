"""Mean and covariance of rows that arrive in batches, without ever forming raw moments.

Each batch is centred at its own mean; two batches are merged by Chan, Golub & LeVeque (1979, *Updating formulae and a pairwise
algorithm for computing sample variances*). Batches are merged pairwise, like the digits of a binary counter, so that the rounding
error grows with the logarithm of their number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """The count, the mean (d,) and the scatter (d, d) = Σ (x − x̄)(x − x̄)ᵀ of rows; smallest and largest value of each column."""

    count: int
    mean: Tensor
    scatter: Tensor
    smallest: Tensor
    largest: Tensor

    @staticmethod
    def of(x: Tensor) -> Moments:
        """The moments of the rows x (n, d), n ≥ 1. The mean is corrected by the mean of what it leaves."""
        mean = x.mean(0)
        mean = mean + (x - mean).mean(0)
        centred = x - mean
        scatter = centred.mT @ centred
        return Moments(x.shape[0], mean, 0.5 * (scatter + scatter.mT), x.amin(0), x.amax(0))

    @staticmethod
    def of_batches(batches: Iterable[Tensor]) -> Moments | None:
        """The moments of all rows of all batches; None without rows."""
        counter: list[tuple[int, Moments]] = []  # (rank, moments of 2^rank batches), ranks descending
        for x in batches:
            rank, moments = 0, Moments.of(x)
            while counter and counter[-1][0] == rank:
                moments, rank = counter.pop()[1].merge(moments), rank + 1
            counter.append((rank, moments))
        merged: Moments | None = None
        for _, moments in reversed(counter):
            merged = moments if merged is None else moments.merge(merged)
        return merged

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of rows."""
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(step, step) * (self.count * other.count / count)
        return Moments(
            count,
            self.mean + step * (other.count / count),
            scatter,
            torch.minimum(self.smallest, other.smallest),
            torch.maximum(self.largest, other.largest),
        )

    def covariance(self, mean: Tensor | None = None) -> Tensor:
        """(d, d) maximum-likelihood covariance: about the sample mean, or about a given one."""
        covariance = self.scatter / self.count
        if mean is None:
            return covariance
        step = self.mean - mean
        return covariance + torch.outer(step, step)

    def constant(self) -> list[int]:
        """The columns whose values are all the same."""
        return (self.smallest == self.largest).nonzero().squeeze(-1).tolist()
