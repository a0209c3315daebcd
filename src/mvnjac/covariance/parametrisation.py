"""A dense parametrisation: parameters that every covariance has, in whichever other way it was given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from mvnjac.parameters.coordinates import Coordinates

if TYPE_CHECKING:
    from mvnjac.blocks.base import Block
    from mvnjac.whitening.factor import DenseFactor
    from mvnjac.whitening.residuals import Residuals

#: One tensor a parameter, each in the parameter's own shape.
Values = Mapping[str, Tensor]


class DenseParametrisation(ABC):
    """Derivatives by, and values of, parameters θ that follow from a `DenseFactor` (and the mean).

    Second order goes through whitened coordinates: Σ = L (I + K) Lᵀ at K = 0, so that a change of θ is a symmetric K (and a
    change of the mean is m, µ + L m), and a gradient by Σ is a symmetric M with ⟨M, K⟩ = tr(M K) the change of the function.
    """

    fields: Mapping[str, Callable[[int], Coordinates]]
    #: by parameter, the axes along which an entry concerns one variable alone
    local: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    #: natural parameters: they replace the mean too, and the second derivative of log p by them does not depend on x
    canonical: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def pullback(cls, name: str, rows: Residuals) -> Block:
        """The derivative of each row's log-density by the parameter; `rows.factor` is a DenseFactor."""

    @classmethod
    @abstractmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        """The parameter's value, (*param_batch, *shape)."""

    @classmethod
    @abstractmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        """K for the change v of the parameters (those that are not named do not change)."""

    @classmethod
    @abstractmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        """The full gradients by the parameters, ⟨adjoint(M), v⟩ = ⟨M, differential(v)⟩; M symmetric."""

    @classmethod
    def projected(cls, factor: DenseFactor, gradients: Values) -> dict[str, Tensor]:
        """Full gradients: symmetric to the last bit, and 0 where there is no freedom."""
        kinds = {name: cls.fields[name](factor.d) for name in gradients}
        return {
            name: kind.project(0.5 * (gradients[name] + gradients[name].mT) if kind.mirrored else gradients[name])
            for name, kind in kinds.items()
        }

    @classmethod
    def second_differential(cls, factor: DenseFactor, v: Values, M: Tensor) -> dict[str, Tensor]:
        """The gradients of ⟨G, d²Σ[v, ·]⟩ with G the gradient by Σ that M stands for; {} where Σ is linear in θ."""
        return {}

    @classmethod
    @abstractmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        """The change of the parameters that K is."""

    @classmethod
    @abstractmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        """The M (up to its symmetric part) that has these full gradients."""

    # Of parameters by which the mean moves with Σ, `differential` is that of Σ alone, and these are what goes with it.

    @classmethod
    def mean_differential(cls, factor: DenseFactor, mean: Tensor, v: Values) -> Tensor | None:
        """The m of the change v; None where these parameters leave the mean alone."""
        return None

    @classmethod
    def mean_adjoint(cls, factor: DenseFactor, mean: Tensor, g: Tensor) -> dict[str, Tensor]:
        """What a gradient g by m adds to the full gradients."""
        return {}

    @classmethod
    def inverse_mean_differential(cls, factor: DenseFactor, mean: Tensor, m: Tensor, v: Values) -> dict[str, Tensor]:
        """The change of the parameters that m is, beside the change v by which Σ moves."""
        return {}

    @classmethod
    def inverse_mean_adjoint(cls, factor: DenseFactor, mean: Tensor, gradients: Values) -> tuple[Tensor, Tensor] | None:
        """The gradient g by m that is in these full gradients, and what M it adds to that of `inverse_adjoint`."""
        return None
