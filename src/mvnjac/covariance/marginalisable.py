"""The part of a covariance structure that missing entries need: marginals of the same structure, and independent groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import Tensor

from mvnjac.covariance.named_parameters import NamedParameters
from mvnjac.whitening.factor import Factor

#: the class of the groups' covariances
C = TypeVar("C")


class Marginalisable(NamedParameters, Generic[C]):
    """Marginals and independent groups of variables. Every member has a default, which is correct for any structure."""

    #: by parameter, the axes along which each entry belongs to one variable: its derivative is 0 if that variable is missing
    local: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    #: whether a marginal has the same structure, with the entries of the `local` parameters that belong to its variables
    keeps_marginals: bool = False

    def marginal(self, observed: Tensor) -> Self:
        """The covariance of the variables `observed` (indices), if the structure `keeps_marginals`."""
        return self.at([self._marginal_parameter(name, value, observed) for name, value in self.parameters.items()])

    def _marginal_parameter(self, name: str, value: Tensor, observed: Tensor) -> Tensor:
        for axis in self.local.get(name, ()):
            value = value.index_select(axis - self.event_dims(name), observed)
        return value

    def groups(self, factor: Any) -> list[tuple[slice, C, Factor]]:
        """Independent groups of variables: the variables, covariance and factor of each; [] if there is a single group."""
        return []

    def in_group(self, name: str) -> tuple[int, str]:
        """The number of the group that a parameter belongs to, and the parameter's name in that group."""
        raise NotImplementedError(f"{type(self).__name__} has no groups of variables")
