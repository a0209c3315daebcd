"""Attributes of the distributions: parameters, the support, and torch's tolerance for asymmetric matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, identity_transform, transform_to
from torch.distributions.utils import lazy_property

from mvnjac.errors import ReadOnlyError


class Parameter(lazy_property):
    """A read-only attribute for a parameter of the covariance: the given tensor, or a value computed from it at each access.

    It is a `lazy_property`, because torch expects one for a parameter that has a constraint but was not given.
    """

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        name = self.wrapped.__name__
        if name in instance._shown:
            return instance._shown[name]
        with torch.enable_grad():
            return self.wrapped(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        name, class_name = self.wrapped.__name__, type(instance).__name__
        raise ReadOnlyError(
            f"{class_name}.{name} cannot be assigned, because other parameters of the covariance would not follow. Create a new "
            f"{class_name} with the new value (loc can be assigned), or change the given tensor in place."
        )


class _Entries(constraints.Constraint):
    """Real numbers, or NaN for missing entries."""

    def check(self, value: Tensor) -> Tensor:
        return torch.ones_like(value, dtype=torch.bool)


for _registry in (biject_to, transform_to):
    _registry.register(_Entries, lambda _: identity_transform)

#: the support if NaN marks missing entries
real_or_missing = constraints.independent(_Entries(), 1)


def torch_asymmetry(A: Tensor) -> Tensor:
    """(..., d, d) the largest differences of symmetric entries that torch.distributions allows (`constraints.symmetric`)."""
    return 1e-6 + 1e-5 * A.mT.abs()
