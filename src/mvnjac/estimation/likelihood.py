"""The log-likelihood of a sample as a function of one vector, with its score and the natural gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import UnsolvedError
from mvnjac.estimation.quasi_newton import held_at
from mvnjac.gaussian import Gaussian
from mvnjac.information.functions import fisher_of
from mvnjac.information.operators import FisherInformation
from mvnjac.linalg.solvers import conjugate_gradients
from mvnjac.parameters.coordinates import Coordinates, vector
from mvnjac.statistics.sufficient import SufficientStatistics

MARGINALISE = "marginalise"
#: a direction of the search, and the size of a score, need no more digits
TOLERANCE = 1e-2
#: the largest information that is solved with as a matrix
_DENSE_SIZE = 500


class Likelihood:
    """θ (p,): the unique elements of the parameters one after the other, logarithms where they are positive numbers.

    Of complete rows the mean is estimated already, at whatever Σ: it is the sample's, and not among the parameters; nor is it
    where it is a function of them.

    Attributes:
        names: the parameters.
        start: θ at the mean and the structure that were given; lower: the bounds of θ: none here.
    """

    def __init__(self, sample: SufficientStatistics, mean: Tensor, structure: Covariance) -> None:
        self.sample, self._structure = sample, structure
        self._follows = structure.mean is not None
        self._by_mean = not (sample.complete or self._follows)
        given = {"mean": mean, **structure.parameters} if self._by_mean else structure.parameters
        self.names = list(given)
        self._kinds = {name: _kind(structure, name, sample.d) for name in given}
        self._sizes = [kind.size for kind in self._kinds.values()]
        self._logarithmic = [name in structure.positive for name in given]
        packed = [kind.pack(given[name]).reshape(-1) for name, kind in self._kinds.items()]
        self.start = torch.cat([p.log() if log else p for p, log in zip(packed, self._logarithmic, strict=True)])
        self.lower = torch.full_like(self.start, -torch.inf)

    def at(self, theta: Tensor) -> Point:
        """The likelihood there.

        Raises:
            NotPositiveDefiniteError, NotFiniteError: θ is no density.
        """
        return Point(self, theta, self.gaussian(theta))

    def gaussian(self, theta: Tensor) -> Gaussian:
        """The density at θ."""
        parts = zip(self.split(theta).values(), self._kinds.values(), self._logarithmic, strict=True)
        values = [kind.unpack(part.exp() if log else part) for part, kind, log in parts]
        mean = values.pop(0) if self._by_mean else None if self._follows else torch.zeros_like(self.sample.origin)
        missing = None if self.sample.complete else MARGINALISE
        return Gaussian(mean, self._structure.at(values), missing=missing)

    def totals(self, gaussian: Gaussian) -> tuple[float, dict[str, Tensor]]:
        """The log-likelihood of all observations, and its gradients by the parameters."""
        return self.sample.totals(gaussian, self.names)

    def rounding(self, value: float) -> float:
        """By how much a log-likelihood of about this value is uncertain."""
        return rounding(self.sample, value)

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """The part of θ (or of a change of it, or of a score) that is each parameter's."""
        return dict(zip(self.names, theta.split(self._sizes), strict=True))

    def log_jacobian(self, theta: Tensor) -> Tensor:
        """(p,) ∂(unique elements)/∂θ."""
        parts = zip(self.split(theta).values(), self._logarithmic, strict=True)
        return torch.cat([part.exp() if log else torch.ones_like(part) for part, log in parts])

    def largest_logarithm(self, change: Tensor) -> float:
        """The largest entry, in absolute value, of a change of θ, among those that are logarithms."""
        parts = zip(self.split(change).values(), self._logarithmic, strict=True)
        return max((float(part.abs().max()) for part, log in parts if log), default=0.0)

    @property
    def by_chains(self) -> bool:
        """Whether entries are missing and Σ is dense: then an information of all patterns is as cheap as a score."""
        return not self.sample.complete and isinstance(self._structure, DenseParametrisation)

    def units(self, gaussian: Gaussian) -> Tensor:
        """(p,) a scale for each unique element."""
        _, factor = gaussian.model.prepared()
        ones = {name: torch.ones_like(value) for name, value in gaussian.covariance.parameters.items()}
        units = {"mean": self.sample.variances.sqrt(), **(gaussian.covariance.units(factor) or ones)}
        return torch.cat([kind.pack(units[name]).reshape(-1) for name, kind in self._kinds.items()])

    def packed(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """(p,) full gradients as partial derivatives by the unique elements."""
        return torch.cat([kind.pack_gradient(gradients[name]).reshape(-1) for name, kind in self._kinds.items()])


class Point:
    """The log-likelihood at one θ.

    Attributes:
        gaussian: the density there.
        value: log p, summed over all observations.
        score: (p,) its derivatives by θ.
    """

    def __init__(self, likelihood: Likelihood, theta: Tensor, gaussian: Gaussian) -> None:
        self._likelihood, self.theta, self.gaussian = likelihood, theta, gaussian
        self.value, totals = likelihood.totals(gaussian)
        self._log_jacobian = likelihood.log_jacobian(theta)
        self.score = likelihood.packed(totals) * self._log_jacobian
        self.held = held_at(theta, likelihood.lower, self.score)

    @property
    def structure(self) -> Covariance:
        """Σ."""
        return self.gaussian.covariance

    def scores(self, name: str) -> Tensor:
        """The part of the score that is by one parameter."""
        return self._likelihood.split(self.score)[name]

    def natural(self, gradient: Tensor) -> Tensor:
        """About (n F)⁻¹ times a gradient by θ: a change of θ. F is that of the average observation; but of a structure with missing
        entries, whose patterns cost much, that of a complete one."""
        solve = self._dense_solution if self._likelihood.by_chains else self._solver(self._complete)
        b = gradient / self._log_jacobian
        try:
            change = solve(b)
        except UnsolvedError:  # any direction uphill will do
            change = self._likelihood.units(self.gaussian).square() * b
        return change / self._log_jacobian / self._likelihood.sample.total

    @cached_property
    def score_ratio(self) -> float:
        """√(sᵀ (n F)⁻¹ s), the same in all coordinates: no total score is larger, in units of the square root of its information,
        by any parameter of any parametrisation (Cauchy & Schwarz). NaN where an iteration with the information does not end."""
        solve = self._dense_solution if self._likelihood.by_chains else self._solver(self._observed)
        s = self.score / self._log_jacobian
        try:
            return abs(float(s @ solve(s)) / self._likelihood.sample.total) ** 0.5
        except UnsolvedError:
            return math.nan

    def _dense_solution(self, b: Tensor) -> Tensor:
        """By the information of the patterns, that of complete rows, which is closed form, being nearly the same."""
        return conjugate_gradients("fit", self._observed.matvec, b, self._complete.solve, TOLERANCE)

    def _solver(self, information: FisherInformation) -> Callable[[Tensor], Tensor]:
        if information.shape[-1] <= _DENSE_SIZE or information.closed:
            return information.solve
        units = self._likelihood.units(self.gaussian)
        return lambda b: conjugate_gradients("fit", information.matvec, b, lambda r: units * units * r, TOLERANCE)

    @cached_property
    def _observed(self) -> FisherInformation:
        """Of the average observation."""
        sample = self._likelihood.sample
        if sample.complete:
            return self._complete
        return fisher_of(self.gaussian.model, self._likelihood.names, sample.observed, sample.multiplicity)

    @cached_property
    def _complete(self) -> FisherInformation:
        """Of a complete one."""
        return self.gaussian.fisher_information(wrt=self._likelihood.names)


def _kind(structure: Covariance, name: str, d: int) -> Coordinates:
    return vector(d) if name == "mean" else structure.coordinates_of(name, d)


def rounding(sample: SufficientStatistics, value: float) -> float:
    """By how much a log-likelihood of about this value is uncertain: 10 eps (|ℓ| + n d), it being a sum of n d terms or so."""
    return 10 * torch.finfo(torch.float64).eps * (abs(value) + sample.total * sample.d)
