"""What a fit is: the estimate, and how it was found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Size, Tensor

from mvnjac import model_file
from mvnjac.covariance.base import Covariance
from mvnjac.gaussian import Gaussian
from mvnjac.information import hessian_of
from mvnjac.operators import Operator
from mvnjac.sample import Sample
from mvnjac.solvers import conditional_diagonal
from mvnjac.words import counted


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
    _sample: Sample = field(repr=False)

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

    def standard_errors(self) -> dict[str, Tensor]:
        """The standard errors of the estimates, in the parameters' own shapes: from the inverse of the expected information; where
        entries are missing, of the observed one, minus the Hessian (Kenward & Molenberghs 1998, *Likelihood based frequentist
        inference when data are missing at random*).

        Of a symmetric parameter both entries have that of the one element; what cannot vary has 0. Parameters that are known up
        to a convention only (cov_factor, row_covariance and column_covariance) have none, and are left out. What stands at a bound has
        NaN, and the others' errors are those given that it stands there.

        Raises:
            MemoryLimitError: the information has no closed inverse and its matrix cannot fit.
        """
        model, sample = self.gaussian._model, self._sample
        sample.require_rows("standard errors")
        if sample.complete:
            information: Operator = self.gaussian.fisher_information()
            scale = 1 / sample.total
        else:
            rows = sample.origin + sample.rows
            information, scale = hessian_of(model, rows, None, sample.weights, True), -1.0
        variances = scale * (self._conditional(information) if self.boundary else information.inverse_diagonal())
        result, first = {}, 0
        for name in model.default_names():
            kind = model.coordinates(name)
            if name not in self.covariance.unidentified:
                result[name] = model.shaped(name, kind.unpack(variances[..., first : first + kind.size].sqrt()))
            first += kind.size
        return result

    def _conditional(self, information: Operator) -> Tensor:
        """The diagonal of the inverse of what is left without the parameters at a bound; NaN for these."""
        free = torch.tensor([column not in self.boundary for column in information.columns()], device=information.device)
        return conditional_diagonal(information.matrix(), free, information.redundant)

    def shaped(self, event: Size) -> Fit:
        """The same estimate, the mean being a matrix."""
        given = self.gaussian._model
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
        }
        model_file.write(Path(path), self.gaussian, about)

    def __str__(self) -> str:
        return (
            f"{self.covariance!r} of {counted(self.gaussian._model.d, 'variable')}, {counted(self.rows, 'row')}: "
            f"log-likelihood {self.log_likelihood:.10g}; "
            f"{self.message}"
        )
