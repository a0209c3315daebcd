"""Base classes of second derivatives: products with the Fisher information, and with the Hessian of the rows.

There is one implementation per kind of covariance: `dense` for every dense parametrisation, `structured` for structures that
supply their own information, `parametric` for functions θ → Σ(θ), `incomplete` and `marginal` for rows with missing entries.
Changes and gradients have the shapes of the parameters; `columns` converts them to columns.

Source: Magnus & Neudecker, *Matrix Differential Calculus*, ch. 15.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Size, Tensor

from mvnjac.covariance.parametrisation import Values
from mvnjac.model.model import Model
from mvnjac.parameters.selection import Selection
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.whitening.residuals import Residuals

#: forms a matrix, or its diagonal, directly instead of by products with unit vectors
DirectMatrix = Callable[[], Tensor]


class RowStatistics(ABC):
    """The sums over (weighted) rows from which the total score and the Hessian are computed."""

    @property
    @abstractmethod
    def count(self) -> Tensor:
        """(*param_batch) the sum of the weights."""

    @abstractmethod
    def score(self) -> dict[str, Tensor]:
        """The total full gradients."""

    @abstractmethod
    def hessian(self, v: Values) -> dict[str, Tensor]:
        """H v, with the Hessian H of the total log-density."""

    def hessian_solve(self, gradients: Values) -> dict[str, Tensor]:
        """H⁻¹ g if it has a closed form, else {}."""
        return {}

    def hessian_matrix(self, selection: Selection) -> DirectMatrix | None:
        """The Hessian over the unique elements, or None if it is formed by products with unit vectors."""
        return None


class Curvature(ABC):
    """Second derivatives with respect to the mean and some parameters: linear maps from changes to full gradients, by name.

    Attributes:
        model: the mean and the covariance.
        names: the parameters.
        redundant: whether different values of the parameters give the same density.
        broadcasts: whether changes may have more leading dimensions than the batch.
        solves: whether F⁻¹ g or H⁻¹ g may have a closed form for some parameters.
    """

    model: Model
    names: list[str]
    broadcasts: bool
    solves = True

    @abstractmethod
    def fisher(self, v: Values) -> dict[str, Tensor]:
        """F v, per observation."""

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor]:
        """F⁻¹ g for the parameters for which it has a closed form; F is block diagonal between them and the others."""
        return {}

    def fisher_matrix(self, selection: Selection) -> DirectMatrix | None:
        """The information over the unique elements, or None if it is formed by products with unit vectors."""
        return None

    def fisher_inverse_diagonal(self) -> DirectMatrix | None:
        """The diagonal of the inverse if it has a closed form for the unique elements, else None."""
        return None

    @abstractmethod
    def statistics(self, evaluation: GeneralEvaluation, weights: Tensor | None, param_batch: Size) -> RowStatistics:
        """The sums over the rows, with the leading dimensions `param_batch`."""

    @property
    def redundant(self) -> bool:
        return False

    @property
    def work(self) -> int:
        """About how many numbers a product stores temporarily."""
        return 8 * max(self.model.d, *(value.numel() for value in self.model.covariance.parameters.values()))

    def units(self) -> dict[str, Tensor] | None:
        """A scale for each entry of each parameter, which conjugate gradients need; None if the matrix is always formed."""
        return None

    def minimum_norm(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """The change v without its component along the directions in which the density is constant."""
        return v

    def natural(self, rows: Residuals, weights: Tensor | None, param_batch: Size) -> dict[str, Tensor] | None:
        """(n F)⁻¹ times the total score if it has a direct formula, else None."""
        return None
