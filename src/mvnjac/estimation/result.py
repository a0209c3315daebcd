"""What a fit is: the estimate, and how it was found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Size, Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.errors import counted
from mvnjac.estimation import model_file
from mvnjac.estimation.likelihood_ratio import LikelihoodRatioTest, likelihood_ratio_test
from mvnjac.gaussian import Gaussian
from mvnjac.information.functions import hessian_of
from mvnjac.information.operators import Operator
from mvnjac.linalg.solvers import conditional_solver
from mvnjac.model.elements import elements
from mvnjac.parameters.selection import Part
from mvnjac.statistics.fingerprint import Fingerprint
from mvnjac.statistics.sufficient import SufficientStatistics


@dataclass(frozen=True)
class Fit:
    """A mean and a covariance estimated by maximum likelihood. Made by `fit`.

    Attributes:
        gaussian: the estimate, ready for many calls, float64.
        log_likelihood: Σ w log p over the rows, at the estimate.
        rows: how many rows there were (of positive weight).
        iterations: of the search; 0 where the maximum is closed form.
        converged: whether this is a maximum: `score_ratio` is below 1e-6, or below 1e-5 where rounding of the log-likelihood hides
            what is left.
        score_ratio: √(sᵀ I⁻¹ s) with s the total score and I the total information of what is not at a bound: no total score is
            larger, in units of the square root of its information, by any parameter of any parametrisation. The search goes on until
            it is below 1e-8.
        message: the same in words.
    """

    gaussian: Gaussian
    log_likelihood: float
    rows: int
    iterations: int
    converged: bool
    score_ratio: float
    message: str
    _sample: SufficientStatistics = field(repr=False)

    @property
    def boundary(self) -> list[str]:
        """The columns of parameters that stand at a bound of the search, such as "cov_diag[USD]"; [] where there are none."""
        return self.gaussian.boundary

    @property
    def mean(self) -> Float[Tensor, "d"]:
        """µ."""
        return self.gaussian.mean

    @property
    def covariance(self) -> Covariance:
        """Σ, of the structure that was asked for."""
        return self.gaussian.covariance

    @property
    def names(self) -> list[str] | None:
        """The variables' names."""
        return self.gaussian.names

    @property
    def n_parameters(self) -> int:
        """How many parameters were estimated: those of the mean and the free ones of the covariance.

        Of `LowRank` d k + d − k (k − 1)/2, because rotations of the factors leave Σ as it is; of `Kronecker` one less than the unique
        elements of both matrices, because a scale may move from one to the other. Parameters that the estimate has at a boundary
        count like all others: they were free to leave it.
        """
        model, covariance = self.gaussian.model, self.covariance
        return (0 if model.arguments.mean_follows else model.d) + covariance.free_parameters(model.d)

    @property
    def aic(self) -> float:
        """Akaike's information criterion, 2 p − 2 log-likelihood, p = `n_parameters` (Akaike 1974); smaller is better."""
        return 2 * self.n_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """The Bayesian information criterion, p log n − 2 log-likelihood, n the sum of the weights (Schwarz 1978); smaller is
        better."""
        return self.n_parameters * math.log(self._sample.total) - 2 * self.log_likelihood

    def likelihood_ratio_test(self, other: Fit, *, nested: bool = False) -> LikelihoodRatioTest:
        """This fit against another of the same rows, of which one is a restriction of the other: `inference.likelihood_ratio_test`,
        the fit with fewer parameters being the restricted one."""
        one, two = sorted((self, other), key=lambda fit: fit.n_parameters)
        return likelihood_ratio_test(one, two, nested=nested)

    def fingerprint(self) -> Fingerprint:
        """A few numbers that identify the observations, up to rounding and the order of the rows."""
        return Fingerprint.of(self._sample)

    def standard_errors(self, wrt: str | Sequence[str] | None = None) -> dict[str, Tensor]:
        """The standard errors of the estimates, in the parameters' own shapes: from the inverse of the expected information; where
        entries are missing, of the observed one, minus the Hessian (Kenward & Molenberghs 1998, *Likelihood based frequentist
        inference when data are missing at random*).

        Of a symmetric parameter both entries have that of the one element; what cannot vary has 0. Parameters that are known up
        to a convention only (cov_factor of several factors, row_covariance and column_covariance) have none, and are left out. What
        stands at a bound has NaN, and the others' errors are those given that it stands there.

        Args:
            wrt: names of parameters, of the structure or of any dense parametrisation ("covariance_matrix", "correlation_matrix",
                …), whose standard errors follow by the delta method; None: the mean and the structure's own.

        Returns:
            One tensor a parameter, by name.

        Raises:
            UnknownNameError: no parameter of that name.
            MemoryLimitError: the information has no closed inverse and its matrix cannot fit.

        Example:
            >>> import torch, mvnjac
            >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0]])
            >>> mvnjac.fit(x, "diagonal").standard_errors("covariance_matrix")["covariance_matrix"]
            tensor([[0.8839, 0.0000],
                    [0.0000, 2.4749]], dtype=torch.float64)
        """
        model = self.gaussian.model
        information, factor = self._information()
        if wrt is not None:
            return self._errors_of([wrt] if isinstance(wrt, str) else list(wrt), information, factor)
        variances = (self._conditional(information)[1] if self.boundary else information.inverse_diagonal()) / factor
        result, first = {}, 0
        for name in model.arguments.default_names():
            kind = model.arguments.coordinates(name)
            if name not in self.covariance.unidentified:
                result[name] = model.arguments.shaped(name, kind.unpack(variances[..., first : first + kind.size].sqrt()))
            first += kind.size
        return result

    def _information(self) -> tuple[Operator, float]:
        """An operator and the factor that makes it the information of all rows."""
        self._sample.require_rows("standard errors")
        if self._sample.complete:
            return self.gaussian.fisher_information(), self._sample.total
        rows = self._sample.origin + self._sample.rows
        return hessian_of(self.gaussian.model, rows, None, self._sample.weights, True), -1.0

    def _conditional(self, information: Operator) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """b → A⁻¹ b without the parameters at a bound, and its diagonal, NaN for these."""
        bound = [column in self.boundary for column in information.columns()]
        free = ~torch.tensor(bound, dtype=torch.bool, device=information.device)
        solve = conditional_solver(information.matrix(), free, information.redundant)
        unit = torch.eye(len(bound), dtype=information.dtype, device=information.device)
        return solve, torch.where(free, solve(unit).diagonal(), torch.nan)

    def _errors_of(self, wrt: Sequence[str], information: Operator, factor: float) -> dict[str, Tensor]:
        """By the delta method."""
        model, result = self.gaussian.model, {}
        solve = self._conditional(information)[0] if self.boundary else information.solve
        for name in wrt:
            part = Part(name, "unique", model.arguments.coordinates(name))
            _, gradients = elements(model, model.arguments.default_names(), [part])
            variances = (gradients * solve(gradients)).sum(-1) / factor
            errors = variances.clamp(min=0).sqrt() if name not in self.covariance.unidentified else variances * math.nan
            result[name] = model.arguments.shaped(name, part.coordinates.unpack(errors))
        return result

    def shaped(self, event: Size) -> Fit:
        """The same estimate, the mean being a matrix."""
        given = self.gaussian.model.arguments
        names = given.naming.argument
        gaussian = Gaussian(self.mean.reshape(event), self.covariance, names=names, missing=given.missing)
        return dataclasses.replace(self, gaussian=gaussian)

    def save(self, path: str | Path) -> None:
        """Write the estimate as a model: a .safetensors file, complete or absent, that `mvnjac.load` and `mvnjac score --model` read.

        Raises:
            ArgumentError: a `Parametric`, which is a function.
            TableError: the file cannot be written.
        """
        about = {
            "rows": str(self.rows),
            "log_likelihood": repr(self.log_likelihood),
            "converged": str(self.converged).lower(),
            "score_ratio": repr(self.score_ratio),
            model_file.ESTIMATED_FROM: self.fingerprint().to_json(),
        }
        model_file.write(Path(path), self.gaussian, about)

    def __str__(self) -> str:
        return (
            f"{self.covariance!r} of {counted(self.gaussian.model.d, 'variable')}, {counted(self.rows, 'row')}: "
            f"log-likelihood {self.log_likelihood:.10g}; "
            f"{self.message}"
        )
