"""The contract of a dense parametrisation: parameters of any covariance matrix, however it was specified."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from mvnjac.blocks.base import Block
from mvnjac.parameters.coordinates import Coordinates
from mvnjac.parameters.descriptions import Phrase
from mvnjac.whitening.factor import DenseFactor
from mvnjac.whitening.residuals import Residuals

#: one tensor per parameter, each in the parameter's own shape
Values = Mapping[str, Tensor]


class DenseParametrisation(ABC):
    """Values of parameters θ that follow from a `DenseFactor` (and the mean), and derivatives with respect to them.

    Second-order derivatives use whitened coordinates: Σ = L (I + K) Lᵀ at K = 0. A change of θ corresponds to a symmetric K
    (and a change of the mean to m, µ + L m). A gradient with respect to Σ corresponds to a symmetric M: ⟨M, K⟩ = tr(M K) is
    the change of the function.

    All methods are class methods: they need a factor of Σ, but no instance of this parametrisation. Arguments `v` and
    `gradients` are tensors by parameter name.

    Attributes:
        fields: the names of the parameters, each with a function d → its coordinates over d variables.
    """

    fields: Mapping[str, Callable[[int], Coordinates]]
    #: phrases for the elements of parameters, by parameter, for summaries and reports
    phrases: Mapping[str, Phrase] = {}
    #: by parameter, the axes along which each entry belongs to one variable
    local: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    #: whether these are natural parameters: they determine the mean, too, and the Hessian of log p does not depend on x
    canonical: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def pullback(cls, name: str, rows: Residuals) -> Block:
        """The derivative of each row's log-density with respect to the parameter; `rows.factor` is a DenseFactor."""

    @classmethod
    @abstractmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        """The value of the parameter, (*param_batch, *shape)."""

    @classmethod
    @abstractmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        """K for the change v of the parameters; parameters that v does not contain do not change."""

    @classmethod
    @abstractmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        """The full gradients with respect to the parameters, ⟨adjoint(M), v⟩ = ⟨M, differential(v)⟩ for symmetric M."""

    @classmethod
    def projected(cls, factor: DenseFactor, gradients: Values) -> dict[str, Tensor]:
        """Full gradients projected to the parameters' free entries: exactly symmetric, and 0 where an entry is fixed."""
        coordinates = {name: cls.fields[name](factor.d) for name in gradients}
        return {
            name: coordinates[name].project(0.5 * (G + G.mT) if coordinates[name].mirrored else G)
            for name, G in gradients.items()
        }

    @classmethod
    def second_differential(cls, factor: DenseFactor, v: Values, M: Tensor) -> dict[str, Tensor]:
        """The gradients of ⟨G, d²Σ[v, ·]⟩, G the gradient with respect to Σ that corresponds to M; {} if Σ is linear in θ."""
        return {}

    @classmethod
    @abstractmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        """The change of the parameters that corresponds to K."""

    @classmethod
    @abstractmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        """A matrix whose symmetric part is the M with these full gradients."""

    # For parameters that determine the mean, too, `differential` is that of Σ, and the following methods are those of the mean.

    @classmethod
    def mean_differential(cls, factor: DenseFactor, mean: Tensor, v: Values) -> Tensor | None:
        """m for the change v; None if the mean does not depend on these parameters."""
        return None

    @classmethod
    def mean_adjoint(cls, factor: DenseFactor, mean: Tensor, g: Tensor) -> dict[str, Tensor]:
        """The contribution of a gradient g with respect to m to the full gradients."""
        return {}

    @classmethod
    def inverse_mean_differential(cls, factor: DenseFactor, mean: Tensor, m: Tensor, v: Values) -> dict[str, Tensor]:
        """The further change of the parameters that corresponds to m, given their change v that corresponds to K."""
        return {}

    @classmethod
    def inverse_mean_adjoint(cls, factor: DenseFactor, mean: Tensor, gradients: Values) -> tuple[Tensor, Tensor] | None:
        """The gradient g with respect to m in these full gradients, and the matrix to add to that of `inverse_adjoint`."""
        return None
