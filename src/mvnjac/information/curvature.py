"""The contracts of second order: products with the Fisher information, and with the Hessian of the rows.

There is one implementation for each kind of covariance: `dense` for every dense parametrisation, `structured` for the structures
that supply their own information, `parametric` for functions θ → Σ(θ), and `incomplete` and `marginal` for rows with missing
entries. Parameters and gradients are in the shapes of the parameters; `operators` turns them into columns.

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

#: forms a matrix, or its diagonal, without products with unit vectors
DirectMatrix = Callable[[], Tensor]


class RowStatistics(ABC):
    """Sums over (weighted) rows from which the total score and the Hessian follow."""

    @property
    @abstractmethod
    def count(self) -> Tensor:
        """(*param_batch) the sum of the weights."""

    @abstractmethod
    def score(self) -> dict[str, Tensor]:
        """The full gradients, summed."""

    @abstractmethod
    def hessian(self, v: Values) -> dict[str, Tensor]:
        """H v, summed."""

    def hessian_solve(self, gradients: Values) -> dict[str, Tensor]:
        """H⁻¹ g if it has a closed form; else {}."""
        return {}

    def hessian_matrix(self, selection: Selection) -> DirectMatrix | None:
        """The Hessian over the unique elements, if it is not formed by products with unit vectors."""
        return None


class Curvature(ABC):
    """Second order with respect to the mean and some parameters: linear maps from changes to full gradients, name by name.

    Attributes:
        model: the mean and the covariance.
        redundant: whether different values of the parameters give the same density.
        broadcasts: whether changes may have more leading dimensions than the batch; else they come one at a time.
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
        """F⁻¹ g for the parameters for which it has a closed form; they share no information with the others, which are left out."""
        return {}

    def fisher_matrix(self, selection: Selection) -> DirectMatrix | None:
        """The information over the unique elements, if it is not formed by products with unit vectors."""
        return None

    def fisher_inverse_diagonal(self) -> DirectMatrix | None:
        """The diagonal of its inverse, if that has a closed form."""
        return None

    @abstractmethod
    def statistics(self, evaluation: GeneralEvaluation, weights: Tensor | None, param_batch: Size) -> RowStatistics:
        """The sums over the rows, reduced to the batch `param_batch`."""

    @property
    def redundant(self) -> bool:
        return False

    @property
    def work(self) -> int:
        """About how many numbers a product stores temporarily."""
        return 8 * max(self.model.d, *(value.numel() for value in self.model.covariance.parameters.values()))

    def units(self) -> dict[str, Tensor] | None:
        """A scale for each entry of each parameter, if there may be too many of them for the matrix; else None."""
        return None

    def minimum_norm(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """A change of the parameters without the directions that leave the density unchanged."""
        return v

    def natural(self, rows: Residuals, weights: Tensor | None, param_batch: Size) -> dict[str, Tensor] | None:
        """(n F)⁻¹ times the total score, if that is simpler than either of them."""
        return None
