"""What the drop-in distributions show and accept: parameters as attributes, the support, and torch's tolerance of asymmetry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, identity_transform, transform_to
from torch.distributions.utils import lazy_property

from mvnjac.errors import ReadOnlyError


class Parameter(lazy_property):
    """A parameter of the covariance as an attribute: the tensor that was given, or what follows from it now.

    It is a `lazy_property`, since torch looks for these where a constraint is declared for a parameter that was not given.
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
        name, own = self.wrapped.__name__, type(instance).__name__
        raise ReadOnlyError(
            f"{own}.{name} cannot be assigned: the other forms of the covariance would not follow. "
            f"Build a new {own} from the new value (loc can be assigned), or change the tensor that was given in place."
        )


class _Entries(constraints.Constraint):
    """Real numbers, and NaN where an entry is missing."""

    def check(self, value: Tensor) -> Tensor:
        return torch.ones_like(value, dtype=torch.bool)


for _registry in (biject_to, transform_to):
    _registry.register(_Entries, lambda _: identity_transform)

#: the support where NaN marks a missing entry
real_or_missing = constraints.independent(_Entries(), 1)


def as_torch(A: Tensor) -> Tensor:
    """(..., d, d) how far two entries of a symmetric matrix may differ in torch.distributions: `constraints.symmetric`."""
    return 1e-6 + 1e-5 * A.mT.abs()
