"""The log-likelihood of a sample as a function of one parameter vector, with its score and natural gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import UnsolvedError
from mvnjac.estimation.quasi_newton import active_bounds
from mvnjac.gaussian import Gaussian
from mvnjac.information.functions import fisher_of
from mvnjac.information.operators import FisherInformation
from mvnjac.linalg.solvers import conjugate_gradients
from mvnjac.parameters.coordinates import Coordinates, vector
from mvnjac.statistics.sufficient import SufficientStatistics

MARGINALISE = "marginalise"
#: relative residual of conjugate gradients: a search direction, or the size of a score, needs no more digits
CG_TOLERANCE = 1e-2
#: up to this many parameters an information matrix without a closed inverse is factorised; beyond, conjugate gradients are used
_MAX_DENSE_SIZE = 500


class Likelihood:
    """An `Objective` of θ (p,): the concatenated unique elements of the parameters, logarithms where these are positive.

    With complete rows the mean is not part of θ: its estimate is the sample mean for every Σ. Nor is it if the structure
    determines it.

    Attributes:
        names: the parameters.
        start: θ at the given mean and structure.
        lower: the lower bounds of θ, here −inf.
    """

    def __init__(self, sample: SufficientStatistics, mean: Tensor, structure: Covariance) -> None:
        self.sample, self._structure = sample, structure
        self._mean_follows = structure.mean is not None
        self._mean_in_theta = not (sample.complete or self._mean_follows)
        given = {"mean": mean, **structure.parameters} if self._mean_in_theta else structure.parameters
        self.names = list(given)
        self._coordinates = {name: _coordinates(structure, name, sample.d) for name in given}
        self._sizes = [coordinates.size for coordinates in self._coordinates.values()]
        self._is_log = [name in structure.positive for name in given]
        packed = [coordinates.pack(given[name]).reshape(-1) for name, coordinates in self._coordinates.items()]
        self.start = torch.cat([p.log() if is_log else p for p, is_log in zip(packed, self._is_log, strict=True)])
        self.lower = torch.full_like(self.start, -torch.inf)

    def evaluate(self, theta: Tensor) -> LikelihoodPoint:
        return LikelihoodPoint(self, theta, self.gaussian(theta))

    def gaussian(self, theta: Tensor) -> Gaussian:
        """The density at θ."""
        parts = zip(self.split(theta).values(), self._coordinates.values(), self._is_log, strict=True)
        values = [coordinates.unpack(part.exp() if is_log else part) for part, coordinates, is_log in parts]
        mean = values.pop(0) if self._mean_in_theta else None if self._mean_follows else torch.zeros_like(self.sample.origin)
        missing = None if self.sample.complete else MARGINALISE
        return Gaussian(mean, self._structure.at(values), missing=missing)

    def totals(self, gaussian: Gaussian) -> tuple[float, dict[str, Tensor]]:
        """The log-likelihood of all observations, and its gradients with respect to the parameters."""
        return self.sample.totals(gaussian, self.names)

    def rounding_error(self, value: float) -> float:
        return rounding_error(self.sample, value)

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """θ (or a change of it, or a score) by parameter."""
        return dict(zip(self.names, theta.split(self._sizes), strict=True))

    def log_jacobian(self, theta: Tensor) -> Tensor:
        """(p,) the derivatives of the unique elements with respect to θ."""
        parts = zip(self.split(theta).values(), self._is_log, strict=True)
        return torch.cat([part.exp() if is_log else torch.ones_like(part) for part, is_log in parts])

    def largest_log_change(self, change: Tensor) -> float:
        parts = zip(self.split(change).values(), self._is_log, strict=True)
        return max((float(part.abs().max()) for part, is_log in parts if is_log), default=0.0)

    @property
    def precondition_by_complete(self) -> bool:
        """Whether entries are missing and Σ is dense: then products with the information of the observed patterns cost as much
        as a score, and the information of complete rows, whose inverse has a closed form, preconditions them."""
        return not self.sample.complete and isinstance(self._structure, DenseParametrisation)

    def units(self, gaussian: Gaussian) -> Tensor:
        """(p,) a scale for each unique element."""
        _, factor = gaussian.model.prepared()
        ones = {name: torch.ones_like(value) for name, value in gaussian.covariance.parameters.items()}
        units = {"mean": self.sample.variances.sqrt(), **(gaussian.covariance.units(factor) or ones)}
        return torch.cat([coordinates.pack(units[name]).reshape(-1) for name, coordinates in self._coordinates.items()])

    def packed(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """(p,) the partial derivatives with respect to the unique elements, from full gradients."""
        return torch.cat([c.pack_gradient(gradients[name]).reshape(-1) for name, c in self._coordinates.items()])


class LikelihoodPoint:
    """The log-likelihood at one θ: a `Point` of the search.

    Attributes:
        gaussian: the density at θ.
        value: log p, summed over all observations.
        score: (p,) its gradient with respect to θ.
    """

    def __init__(self, likelihood: Likelihood, theta: Tensor, gaussian: Gaussian) -> None:
        self._likelihood, self.theta, self.gaussian = likelihood, theta, gaussian
        self.value, totals = likelihood.totals(gaussian)
        self._log_jacobian = likelihood.log_jacobian(theta)
        self.score = likelihood.packed(totals) * self._log_jacobian
        self.active = active_bounds(theta, likelihood.lower, self.score)

    @property
    def structure(self) -> Covariance:
        return self.gaussian.covariance

    def score_of(self, name: str) -> Tensor:
        return self._likelihood.split(self.score)[name]

    def natural_gradient(self, gradient: Tensor) -> Tensor:
        """Approximately (n F)⁻¹ times a gradient with respect to θ, F the information of the average observation.

        For structures with missing entries, whose products are expensive, F is that of a complete observation.
        """
        b = gradient / self._log_jacobian
        try:
            change = self._solve(self._complete_information, b)
        except UnsolvedError:  # any ascent direction serves
            change = self._likelihood.units(self.gaussian).square() * b
        return change / self._log_jacobian / self._likelihood.sample.total

    @cached_property
    def score_ratio(self) -> float:
        """√(sᵀ (n F)⁻¹ s), the same in all coordinates; NaN if an iterative solution with the information does not converge.

        By the Cauchy–Schwarz inequality it bounds every total score, in units of the square root of its information, with
        respect to any parameter of any parametrisation.
        """
        s = self.score / self._log_jacobian
        try:
            return abs(float(s @ self._solve(self._pattern_information, s)) / self._likelihood.sample.total) ** 0.5
        except UnsolvedError:
            return math.nan

    def _solve(self, information: FisherInformation, b: Tensor) -> Tensor:
        if self._likelihood.precondition_by_complete:
            product, preconditioner = self._pattern_information.matvec, self._complete_information.solve
            return conjugate_gradients("fit", product, b, preconditioner, CG_TOLERANCE)
        if information.shape[-1] <= _MAX_DENSE_SIZE or information.closed:
            return information.solve(b)
        units = self._likelihood.units(self.gaussian)
        return conjugate_gradients("fit", information.matvec, b, lambda r: units * units * r, CG_TOLERANCE)

    @cached_property
    def _pattern_information(self) -> FisherInformation:
        """The expected information of the average observation, given which entries are observed."""
        sample = self._likelihood.sample
        if sample.complete:
            return self._complete_information
        return fisher_of(self.gaussian.model, self._likelihood.names, sample.observed, sample.multiplicity)

    @cached_property
    def _complete_information(self) -> FisherInformation:
        """The expected information of a complete observation."""
        return self.gaussian.fisher_information(wrt=self._likelihood.names)


def _coordinates(structure: Covariance, name: str, d: int) -> Coordinates:
    return vector(d) if name == "mean" else structure.coordinates_of(name, d)


def rounding_error(sample: SufficientStatistics, value: float) -> float:
    """The uncertainty of a log-likelihood of this value: 10 eps (|ℓ| + n d), since it is a sum of about n d terms."""
    return 10 * torch.finfo(torch.float64).eps * (abs(value) + sample.total * sample.d)
