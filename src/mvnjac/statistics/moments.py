"""Mean and covariance of rows in batches, without forming raw moments.

Each batch is centred at its mean; batches are merged pairwise (`pairwise.PairwiseReduction`) by the formulae of Chan, Golub &
LeVeque 1979, *Updating formulae and a pairwise algorithm for computing sample variances*.
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
    """Number, mean, scatter and range of rows.

    Attributes:
        count: the number of rows.
        origin: (d,) one of the rows, subtracted before summing, so that a common offset does not cause rounding errors.
        shift: (d,) the mean minus the origin.
        scatter: (d, d) Σ (x − x̄)(x − x̄)ᵀ.
        smallest: (d,) the minimum of each column.
        largest: (d,) the maximum of each column.
    """

    count: int
    origin: Tensor
    shift: Tensor
    scatter: Tensor
    smallest: Tensor
    largest: Tensor

    @staticmethod
    def of(x: Tensor, origin: Tensor | None = None) -> Moments:
        """The moments of rows x (n, d), n ≥ 1, with the origin (d,), by default the first row."""
        origin = x[0].clone() if origin is None else origin
        shifted = x - origin
        shift = shifted.mean(0)
        shift = shift + (shifted - shift).mean(0)  # corrected by the mean of the remainder, for rounding
        centred = shifted - shift
        scatter = centred.mT @ centred
        return Moments(x.shape[0], origin, shift, 0.5 * (scatter + scatter.mT), x.amin(0), x.amax(0))

    @staticmethod
    def of_batches(batches: Iterable[Tensor]) -> Moments | None:
        """The moments of all rows of all batches; None without rows."""
        reduction = PairwiseReduction[Moments]()
        for i, x in enumerate(x for x in batches if len(x)):
            reduction.add(i, Moments.of(x))
        return reduction.total()

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of rows, with this one's origin.

        The difference of two origins, which are rows, is exact if they share a large offset.
        """
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
        """(d, d) the maximum-likelihood covariance about the sample mean, or about a given mean."""
        covariance = self.scatter / self.count
        if mean is None:
            return covariance
        step = (self.origin - mean) + self.shift
        return covariance + torch.outer(step, step)

    def constant(self) -> list[int]:
        """The columns with a single value."""
        return (self.smallest == self.largest).nonzero().squeeze(-1).tolist()


def root(scatter: Tensor) -> Tensor:
    """(r, d) R with RᵀR = scatter, computed with scaled variables; r is the rank, but at least 1."""
    if not bool(torch.isfinite(scatter).all()):
        return torch.diag(scatter.diagonal().sqrt())  # there is no root; the variables concerned are reported later
    scale = scatter.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, 1)
    values, vectors = torch.linalg.eigh(scatter / torch.outer(scale, scale))
    positive = values > 0
    positive[-1] = True  # a row of zeros if the scatter is 0
    return values[positive].clamp(min=0).sqrt().unsqueeze(-1) * vectors[:, positive].mT * scale
