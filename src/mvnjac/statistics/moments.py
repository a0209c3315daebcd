"""Mean and covariance of rows that arrive in batches, without ever forming raw moments.

Each batch is centred at its own mean; two batches are merged by Chan, Golub & LeVeque (1979, *Updating formulae and a pairwise
algorithm for computing sample variances*), pairwise (`merging.PairwiseReduction`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvnjac.statistics.pairwise import PairwiseReduction
from mvnjac.statistics.serialization import stored_as


@stored_as("moments")
@dataclass(frozen=True)
class Moments:
    """The moments of rows, seen from an origin.

    count; shift (d,): the mean less the origin; scatter (d, d): Σ (x − x̄)(x − x̄)ᵀ; smallest and largest value of each column.
    The origin, one of the rows, takes a common offset out before anything is summed.
    """

    count: int
    origin: Tensor
    shift: Tensor
    scatter: Tensor
    smallest: Tensor
    largest: Tensor

    @staticmethod
    def of(x: Tensor, origin: Tensor | None = None) -> Moments:
        """The moments of the rows x (n, d), n ≥ 1, from an origin (d,), by default the first row."""
        origin = x[0].clone() if origin is None else origin
        shifted = x - origin
        shift = shifted.mean(0)
        shift = shift + (shifted - shift).mean(0)  # corrected by the mean of what it leaves
        centred = shifted - shift
        scatter = centred.mT @ centred
        return Moments(x.shape[0], origin, shift, 0.5 * (scatter + scatter.mT), x.amin(0), x.amax(0))

    @staticmethod
    def of_batches(batches: Iterable[Tensor]) -> Moments | None:
        """The moments of all rows of all batches; None without rows."""
        tree, i = PairwiseReduction[Moments](), 0
        for x in batches:
            if len(x):
                tree.add(i, Moments.of(x))
                i += 1
        return tree.total()

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of rows, seen from this one's origin; the difference of two origins, both of them rows, is exact
        where an offset is what they have in common."""
        count = self.count + other.count
        step = ((other.origin - self.origin) + other.shift) - self.shift
        scatter = self.scatter + other.scatter + torch.outer(step, step) * (self.count * other.count / count)
        return Moments(
            count,
            self.origin,
            self.shift + step * (other.count / count),
            scatter,
            torch.minimum(self.smallest, other.smallest),
            torch.maximum(self.largest, other.largest),
        )

    @property
    def mean(self) -> Tensor:
        """(d,) the sample mean."""
        return self.origin + self.shift

    def covariance(self, mean: Tensor | None = None) -> Tensor:
        """(d, d) maximum-likelihood covariance: about the sample mean, or about a given one."""
        covariance = self.scatter / self.count
        if mean is None:
            return covariance
        step = (self.origin - mean) + self.shift
        return covariance + torch.outer(step, step)

    def constant(self) -> list[int]:
        """The columns whose values are all the same."""
        return (self.smallest == self.largest).nonzero().squeeze(-1).tolist()


def root(scatter: Tensor) -> Tensor:
    """(r, d) R with RᵀR = scatter, each variable seen in its own units; r its rank, at least 1."""
    if not bool(torch.isfinite(scatter).all()):
        return torch.diag(scatter.diagonal().sqrt())  # no root: `refuse_extreme` says of which variables
    scale = scatter.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, 1)
    values, vectors = torch.linalg.eigh(scatter / torch.outer(scale, scale))
    kept = values > 0
    kept[-1] = True  # of no scatter at all a row of zeros is left
    return values[kept].clamp(min=0).sqrt().unsqueeze(-1) * vectors[:, kept].mT * scale
