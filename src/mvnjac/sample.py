"""A sample as a fit sees it: rows that stand for all observations, however many there were.

A Gaussian likelihood depends on n observations only through their number, mean and scatter. So many rows are replaced by 2d of
them about the mean, ± the rows of a root of the scatter, each of weight n/(2d): every weighted sum of a quadratic form over them
is that over the observations, and a fit costs the same whatever n is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvnjac.moments import Moments

#: rows that are looked at together
_ROWS = 8192


@dataclass(frozen=True)
class Sample:
    """Centred rows with weights.

    Attributes:
        count: how many observations there were (of positive weight).
        origin: (d,) what was subtracted: the weighted mean.
        rows: (m, d) float64; with the weights, their sum is 0 but for rounding.
        weights: (m,), positive.
        constant: the columns whose values are all the same.
        namer: how variable i is called in a message.
        name: what a message begins with: the function, or the file.
    """

    count: int
    origin: Tensor
    rows: Tensor
    weights: Tensor
    constant: list[int]
    namer: Callable[[int], str]
    name: str = "fit"

    @classmethod
    def of(cls, x: Tensor, weights: Tensor | None, namer: Callable[[int], str], name: str = "fit") -> Sample:
        """Of finite rows x (n, d), n ≥ 1, float64, and weights (n,), positive; none: all 1."""
        n, d = x.shape
        if weights is None and n > 2 * d:
            moments = Moments.of_batches(x.split(max(_ROWS, 2 * d)))
            assert moments is not None
            return cls.of_moments(moments, namer, name)
        weights = x.new_ones(n) if weights is None else weights
        origin = x[0].clone()
        shifted = x - origin  # a common offset goes before anything is summed
        for _ in range(2):
            mean = (weights.unsqueeze(-1) * shifted).sum(0) / weights.sum()
            origin, shifted = origin + mean, shifted - mean
        constant = (x.amin(0) == x.amax(0)).nonzero().squeeze(-1).tolist()
        return cls(n, origin, shifted, weights, constant, namer, name)

    @classmethod
    def of_moments(cls, moments: Moments, namer: Callable[[int], str], name: str = "fit") -> Sample:
        """Of the moments of rows that are not there any more."""
        root = _root(moments.scatter)
        half = root * (len(root) / moments.count) ** 0.5
        rows = torch.cat([half, -half])
        weights = rows.new_full((len(rows),), moments.count / len(rows))
        sample = cls(moments.count, moments.mean, rows, weights, moments.constant(), namer, name)
        sample.__dict__["covariance"] = moments.covariance()  # as it was summed: the root has been rounded
        return sample

    @classmethod
    def of_batches(cls, batches: Iterable[Tensor], namer: Callable[[int], str], name: str = "fit") -> Sample | None:
        """Of rows that come in batches; None without rows. No more than 2d of them are held, or d×d numbers."""
        kept: list[Tensor] = []
        batches = iter(batches)
        for x in batches:
            kept.append(x)
            if sum(map(len, kept)) > 2 * x.shape[-1]:
                break
        if not sum(map(len, kept)):
            return None
        together = torch.cat(kept)
        if len(together) <= 2 * together.shape[-1]:
            return cls.of(together, None, namer, name)
        moments = Moments.of_batches(x for source in ([together], batches) for x in source)
        assert moments is not None
        return cls.of_moments(moments, namer, name)

    def in_units(self, units: Tensor) -> Sample:
        """The same observations about their mean, each variable divided by its unit (d,)."""
        return dataclasses.replace(self, rows=self.rows / units)

    @property
    def d(self) -> int:
        """The number of variables."""
        return self.rows.shape[-1]

    @property
    def total(self) -> float:
        """The sum of the weights."""
        return float(self.weights.sum())

    @functools.cached_property
    def scaled_rows(self) -> Tensor:
        """(m, d) the rows times √(w / Σ w): their Gram matrix is the covariance."""
        return self.rows * (self.weights / self.weights.sum()).sqrt().unsqueeze(-1)

    @functools.cached_property
    def covariance(self) -> Tensor:
        """(d, d) the maximum-likelihood covariance without any structure; formed when first asked for."""
        product = self.scaled_rows.mT @ self.scaled_rows
        return 0.5 * (product + product.mT)

    @functools.cached_property
    def variances(self) -> Tensor:
        """(d,) its diagonal."""
        return (self.scaled_rows * self.scaled_rows).sum(0)


def _root(scatter: Tensor) -> Tensor:
    """(r, d) R with RᵀR = scatter, each variable seen in its own units; r its rank, at least 1."""
    scale = scatter.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, 1)
    values, vectors = torch.linalg.eigh(scatter / torch.outer(scale, scale))
    kept = values > 0
    kept[-1] = True  # of no scatter at all a row of zeros is left
    return values[kept].clamp(min=0).sqrt().unsqueeze(-1) * vectors[:, kept].mT * scale
