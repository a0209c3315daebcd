"""A dense parametrisation: parameters that every covariance has, in whichever other way it was given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from mvnjac.coordinates import Coordinates

if TYPE_CHECKING:
    from mvnjac.blocks import Block
    from mvnjac.covariance.factor import DenseFactor
    from mvnjac.residuals import Residuals


class DenseParametrisation(ABC):
    """Derivatives by, and values of, parameters that follow from a `DenseFactor` (and the mean)."""

    fields: ClassVar[Mapping[str, Callable[[int], Coordinates]]]

    @classmethod
    @abstractmethod
    def pullback(cls, name: str, rows: Residuals) -> Block:
        """The derivative of each row's log-density by the parameter; `rows.factor` is a DenseFactor."""

    @classmethod
    @abstractmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        """The parameter's value, (*own batch, *shape)."""
