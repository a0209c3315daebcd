"""Gaussian: a mean and a covariance, factorised once for many calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from mvnjac.autodiff.log_prob import evaluate
from mvnjac.covariance.base import Covariance
from mvnjac.fused.dense import FusedDense, prepare
from mvnjac.information.functions import Wrt, fisher_of, hessian_of, natural_gradient_of
from mvnjac.information.operators import FisherInformation, Hessian
from mvnjac.model.inputs import Inputs, density_of, with_rows
from mvnjac.parameters.names import NamesArgument
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.score.fused_evaluation import FusedEvaluation
from mvnjac.score.jacobian import Jacobian


class Gaussian:
    """A multivariate normal distribution for many calls: the covariance is factorised and checked once.

    If a parameter is changed in place, it is checked and factorised again at the next call.

    Args:
        mean, covariance, names, missing, precision, check: as in `mvnjac.jacobian`. The methods take the same rows x.

    Example:
        >>> import torch, mvnjac
        >>> gaussian = mvnjac.Gaussian(torch.zeros(2), torch.eye(2))
        >>> gaussian.jacobian(torch.ones(3, 2)).sum()["mean"]
        tensor([3., 3.])
    """

    def __init__(
        self,
        mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
        covariance: Float[Tensor, "*param_batch d d"] | Covariance | None = None,
        *,
        names: NamesArgument | None = None,
        missing: str | None = None,
        precision: str | None = None,
        check: bool = True,
    ) -> None:
        self.model = density_of("Gaussian", mean, covariance, names=names, missing=missing, precision=precision, check=check)
        self._given = self._tensors(mean, covariance)
        self._prepared = prepare(*self._given) if missing is None and precision is None else None

    @property
    def boundary(self) -> list[str]:
        """The columns of parameters that are at a bound after `fit`, such as "cov_diag[USD]"; [] if there are none.

        Their standard errors are NaN; those of the other parameters are conditional on them.
        """
        return list(self.model.boundary)

    @boundary.setter
    def boundary(self, columns: Iterable[str]) -> None:
        self.model.boundary = tuple(columns)

    @property
    def mean(self) -> Tensor:
        """The mean, in the shape that was given."""
        return self.model.arguments.shaped("mean", self.model.mean)

    @property
    def covariance(self) -> Covariance:
        """The covariance as given; a plain tensor is wrapped in `Dense`."""
        return self.model.covariance

    @property
    def names(self) -> list[str] | None:
        """The names of the variables ("row,column" if rows and columns of a matrix are named); None without names."""
        return self.model.arguments.names

    def jacobian(self, x: Float[Tensor, "*rows d"]) -> Jacobian:
        """The Jacobian at the rows x, like `mvnjac.jacobian(x, mean, covariance)`."""
        fused = self._fused(x)
        if fused is None:
            given = self._rows(x)
            return Jacobian(GeneralEvaluation.at(given.model, given.x), given.index)
        return Jacobian(FusedEvaluation(fused, lambda: GeneralEvaluation.at_validated(self.model, x)))

    def log_prob(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*out"]:
        """The log-density of the rows x, like `mvnjac.log_prob(x, mean, covariance)`."""
        fused = self._fused(x)
        result = None if fused is None else fused.log_prob()
        if result is not None:
            return result
        given = self._rows(x)
        return evaluate(given.model, given.x)

    def _tensors(self, mean: Any, covariance: Any) -> tuple[Any, Any]:
        """The arguments as they were given; tables as tensors."""
        if isinstance(covariance, Tensor | Covariance | None) and isinstance(mean, Tensor | Distribution | Covariance | None):
            return mean, covariance
        return self.model.arguments.given_mean, self.model.covariance.parameters.get("covariance_matrix")

    def _rows(self, x: Any) -> Inputs:
        return with_rows(self.model, x)

    def _fused(self, x: Any) -> FusedDense | None:
        """The rows for the kernels, or None. Parameters that were changed in place are factorised again."""
        if self._prepared is not None and not self._prepared.unchanged():
            self._prepared = prepare(*self._given)
        return None if self._prepared is None else self._prepared.rows(x)

    def hessian(
        self, x: Float[Tensor, "*rows d"], *, wrt: Wrt = None, weights: Tensor | None = None, reduce: bool = True
    ) -> Hessian:
        """The second derivatives at the rows x, like `mvnjac.hessian(x, mean, covariance)`."""
        given = self._rows(x)
        return hessian_of(given.model, given.x, wrt, weights, reduce)

    def fisher_information(self, *, wrt: Wrt = None, observed: Tensor | None = None) -> FisherInformation:
        """The expected information of one observation, like `mvnjac.fisher_information(mean, covariance)`."""
        return fisher_of(self.model, wrt, observed)

    def natural_gradient(
        self, x: Float[Tensor, "*rows d"], *, wrt: Wrt = None, weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        """(n F)⁻¹ times the total score of the rows x, like `mvnjac.natural_gradient(x, mean, covariance)`."""
        fused = self._fused(x) if wrt is None and weights is None else None
        step = None if fused is None else fused.natural_gradient()
        if step is not None:
            return step
        given = self._rows(x)
        return natural_gradient_of(given.model, given.x, wrt, weights)

    def columns(self, name: str | None = None) -> list[str]:
        """The names of the columns for one parameter; by default for the mean and all parameters of the covariance."""
        arguments = self.model.arguments
        names = arguments.default_names() if name is None else [name]
        return [each + label for each in names for label in arguments.coordinates(each).labels(arguments.labels_of(each))]

    def parameter(self, name: str) -> Tensor:
        """The value of the mean, of a parameter of the covariance, or of a parameter of any dense parametrisation.

        Raises:
            UnknownNameError: the name is not valid; a KeyError that lists the valid names.
        """
        return self.model.arguments.shaped(name, self.model.parameter(name))

    def __repr__(self) -> str:
        return f"Gaussian(mean={tuple(self.mean.shape)}, covariance={self.covariance!r})"
