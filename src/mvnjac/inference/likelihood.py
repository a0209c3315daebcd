"""The log-likelihood of a sample as a function of one vector, with its score and the natural gradient."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.gaussian import Gaussian
from mvnjac.operators import FisherInformation
from mvnjac.sample import Sample


class Likelihood:
    """θ (p,): the unique elements of the parameters one after the other, logarithms where they are positive numbers.

    Of complete rows the mean is estimated already, at whatever Σ: it is the sample's, and not among the parameters, unless it is
    a function of them.
    """

    def __init__(self, sample: Sample, structure: Covariance) -> None:
        self.sample, self.structure, self.names = sample, structure, list(structure.parameters)
        self._kinds = {name: structure.coordinates_of(name, sample.d) for name in structure.parameters}
        self.sizes = [kind.size for kind in self._kinds.values()]
        self._logarithmic = [name in structure.positive for name in self._kinds]

    @property
    def start(self) -> Tensor:
        """θ of the structure that was given."""
        packed = [kind.pack(self.structure.parameters[name]).reshape(-1) for name, kind in self._kinds.items()]
        return torch.cat([p.log() if log else p for p, log in zip(packed, self._logarithmic, strict=True)])

    def at(self, theta: Tensor) -> Point:
        """The likelihood there.

        Raises:
            NotPositiveDefiniteError, NotFiniteError: θ is no density.
        """
        parts = theta.split(self.sizes)
        values = [
            kind.unpack(part.exp() if log else part)
            for part, kind, log in zip(parts, self._kinds.values(), self._logarithmic, strict=True)
        ]
        return Point(self, theta, self.structure.at(values))

    def stretch(self, theta: Tensor) -> Tensor:
        """(p,) ∂(unique elements)/∂θ."""
        parts = zip(theta.split(self.sizes), self._logarithmic, strict=True)
        return torch.cat([part.exp() if log else torch.ones_like(part) for part, log in parts])

    def largest_logarithm(self, change: Tensor) -> float:
        """The largest entry, in absolute value, of a change of θ, among those that are logarithms."""
        parts = zip(change.split(self.sizes), self._logarithmic, strict=True)
        return max((float(part.abs().max()) for part, log in parts if log), default=0.0)

    def packed(self, gradients: dict[str, Tensor]) -> Tensor:
        """(p,) full gradients as partial derivatives by the unique elements."""
        return torch.cat([kind.pack_gradient(gradients[name]).reshape(-1) for name, kind in self._kinds.items()])


class Point:
    """The log-likelihood at one θ.

    Attributes:
        value: log p, summed over all observations.
        score: (p,) its derivatives by θ.
    """

    def __init__(self, likelihood: Likelihood, theta: Tensor, structure: Covariance) -> None:
        sample = likelihood.sample
        self._likelihood, self.theta, self.structure = likelihood, theta, structure
        self.gaussian = Gaussian(None if structure.mean is not None else torch.zeros_like(sample.origin), structure)
        J = self.gaussian.jacobian(sample.rows)
        self.value = float((sample.weights * J.log_prob).sum())
        totals = J.sum(weights=sample.weights, wrt=likelihood.names)
        self._stretch = likelihood.stretch(theta)
        self.score = likelihood.packed(totals) * self._stretch

    @cached_property
    def _information(self) -> FisherInformation:
        return self.gaussian.fisher_information(wrt=self._likelihood.names)

    def scores(self, name: str) -> Tensor:
        """The part of the score by one parameter."""
        return self.score.split(self._likelihood.sizes)[self._likelihood.names.index(name)]

    def natural(self, gradient: Tensor) -> Tensor:
        """(n F)⁻¹ times a gradient by θ: a change of θ."""
        return self._information.solve(gradient / self._stretch) / self._stretch / self._likelihood.sample.total

    @cached_property
    def score_ratio(self) -> float:
        """√(sᵀ (n F)⁻¹ s), the same in all coordinates: no total score is larger, in units of the square root of its information,
        by any parameter of any parametrisation (Cauchy & Schwarz)."""
        return abs(float(self.score @ self.natural(self.score))) ** 0.5
