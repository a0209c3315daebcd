"""The second-order part of a covariance structure: Fisher information, directions that leave Σ unchanged, and units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from mvnjac.covariance.named_parameters import NamedParameters


class SecondOrder(NamedParameters):
    """Fisher information with respect to the structure's parameters. `fisher` and `times` are required for it.

    The `factor` arguments are what the structure's `factor` returns. Changes and gradients are given by parameter name, each in
    the parameter's own shape.
    """

    #: whether different parameter values give the same Σ for every Σ of this structure (for example rotations of factors)
    redundant: ClassVar[bool] = False

    #: whether derivatives of second order follow from those of the functions µ(θ) and Σ(θ) by the chain rule
    second_order_by_chain_rule: ClassVar[bool] = False

    def fisher(self, factor: Any, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The information times v, a change of some of the parameters: ½ ⟨∂Σ, Σ⁻¹ dΣ[v] Σ⁻¹⟩ for every parameter."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `fisher`, its Fisher information")

    def fisher_solve(self, factor: Any, gradients: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The inverse of `fisher` over exactly these parameters, if it has a closed form; None to solve numerically."""
        return None

    def times(self, factor: Any, v: Tensor) -> Tensor:
        """Σ v for v (..., d)."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `times`, its product with a vector")

    def redundant_among(self, names: Iterable[str]) -> bool:
        """Whether these parameters can change along directions that leave Σ unchanged."""
        return self.redundant and set(self.fields) <= set(names)

    @property
    def redundant_directions(self) -> int:
        """The number of directions in which the parameters can change while Σ does not."""
        return 0

    def free_parameters(self, d: int) -> int:
        """The number of identified parameters for d variables: unique elements less redundant directions."""
        elements = sum(self.coordinates_of(name, d).size for name in self.parameters)
        return min(elements - self.redundant_directions, d * (d + 1) // 2)

    def minimum_norm(self, factor: Any, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """The change v without its component along directions that leave Σ unchanged."""
        return v

    def units(self, factor: Any) -> dict[str, Tensor] | None:
        """Typical scales of the entries of "mean" and of each parameter, in their own shapes: about the standard error that one
        observation gives.

        They precondition the iterative solution with an information that is too large to be formed as a matrix. None if the
        structure has no such scales.
        """
        return None
