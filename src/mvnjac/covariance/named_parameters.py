"""Named parameter tensors with coordinates: construction, shapes, leading dimensions, and copies with other values."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Size, Tensor

from mvnjac.errors import DeviceError, DtypeError, ShapeError
from mvnjac.parameters import checks
from mvnjac.parameters.coordinates import Coordinates
from mvnjac.parameters.descriptions import Phrase
from mvnjac.parameters.names import Names
from mvnjac.tensors.broadcasting import batch_shape, broadcast, narrow
from mvnjac.tensors.tracing import constant_size


class NamedParameters(ABC):
    """The parameters of a covariance. The keywords of the constructor are their names.

    Attributes:
        fields: the names of the parameters, each with a function d → its coordinates over d variables. `coordinates_of` gives
            the coordinates for this instance.
        phrases: how an element of a parameter is named in summaries and reports, such as ("covariance of {} and {}", "variance
            of {}"); the exact name of the column if there is none.
        parameters: the tensors that were given, by name; they are never modified.
    """

    fields: Mapping[str, Callable[[int], Coordinates]]
    #: phrases for the elements of parameters, by parameter, for summaries and reports
    phrases: Mapping[str, Phrase] = {}
    parameters: dict[str, Tensor]

    def __init__(self, **parameters: Tensor) -> None:
        name = type(self).__name__
        for key, value in parameters.items():
            checks.floating(name, key, value)
        first, *others = parameters
        for key in others:
            same_kind(name, first, parameters[first], key, parameters[key])
        self.parameters = parameters
        self._check_shapes()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all parameters."""
        return next(iter(self.parameters.values())).dtype

    @property
    def device(self) -> torch.device:
        """The device of all parameters."""
        return next(iter(self.parameters.values())).device

    @property
    def dimension(self) -> int | None:
        """The number of variables; None if it does not follow from the parameters."""
        for key, value in self.parameters.items():
            if self.coordinates_of(key, 1).shape and value.ndim:
                return constant_size(value)
        return None

    @property
    def batch(self) -> Size:
        """The leading dimensions of all parameters, broadcast."""
        return broadcast(*(self.parameter_batch(key) for key in self.parameters))

    def parameter_batch(self, name: str) -> Size:
        """The leading dimensions of one parameter."""
        return batch_shape(self.parameters[name], self.event_dims(name))

    def event_dims(self, name: str) -> int:
        """The number of dimensions of a parameter without its leading ones."""
        return len(self.coordinates_of(name, 1).shape)

    def coordinates_of(self, name: str, d: int) -> Coordinates:
        """The coordinates of a parameter over d variables."""
        return self.fields[name](d)

    def names_of(self, parameter: str, names: Names) -> Names:
        """The labels of the axes of a parameter, given the names of the variables."""
        return names

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same structure with a function applied to every parameter (conversion to another dtype, detaching, …)."""
        return self.at([function(value) for value in self.parameters.values()])

    def at(self, values: Sequence[Tensor]) -> Self:
        """The same structure with other values of its parameters, in the order of `parameters`."""
        return type(self)(**dict(zip(self.parameters, values, strict=True)))

    def stored_form(self) -> Any:
        """What identifies the structure in a model file, apart from its parameters, as JSON.

        Raises:
            ArgumentError: the structure cannot be stored.
        """
        return type(self).__name__

    @classmethod
    def restored(cls, form: Any, tensors: Mapping[str, Tensor], restore: Callable[[Any, Mapping[str, Tensor]], Any]) -> Self:
        """The structure of a model file, from its stored form and its parameters; `restore` does the same for its parts."""
        return cls(**tensors)

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Self:
        """The structure for a selection of rows along dimension `dim` of the batch `full`, if its parameters vary along it."""
        return self.at([narrow(value, full, self.event_dims(name), dim, index) for name, value in self.parameters.items()])

    def fingerprint(self) -> dict[str, Any]:
        """What identifies it: class, shapes and dtype, and the values of the parameters."""
        return {"structure": repr(self), "parameters": self.parameters}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={tuple(value.shape)}" for name, value in self.parameters.items())
        return f"{type(self).__name__}({shapes}, dtype={self.dtype})"

    def _check_shapes(self) -> None:
        name, d = type(self).__name__, self.dimension
        for key, value in self.parameters.items():
            expected = self.coordinates_of(key, d or 1).shape
            got = tuple(value.shape[value.ndim - len(expected) :])
            if 0 in got and 0 not in expected:
                raise ShapeError(f"{name}: {key} has shape {tuple(value.shape)}: there are no variables.")
            if value.ndim < len(expected) or got != expected:
                symbols = ", ".join(["...", *("d" if size == (d or 1) else str(size) for size in expected)])
                others = [other for other in self.parameters if other != key]
                raise ShapeError(
                    f"{name}: {key} has shape {tuple(value.shape)}; expected ({symbols})"
                    + (f" with d = {d} as in {others[0]}." if others else ".")
                )
        try:
            _ = self.batch
        except RuntimeError:
            shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in self.parameters.items())
            raise ShapeError(f"{name}: the leading dimensions of {shapes} do not broadcast.") from None


def same_kind(function: str, first: str, a: Tensor, second: str, b: Tensor, remedy: str | None = None) -> None:
    """Raise if two arguments differ in dtype or device.

    remedy: what to do about different dtypes; the default is to convert the one of lower precision.
    """
    if a.dtype != b.dtype:
        name, wider = (first, b.dtype) if b.dtype.itemsize > a.dtype.itemsize else (second, a.dtype)
        remedy = remedy or f"convert one of them, for example by {name}.to({wider})."
        raise DtypeError(f"{function}: {first} is {a.dtype} but {second} is {b.dtype}; {remedy}")
    if a.device != b.device:
        raise DeviceError(f"{function}: {first} is on {a.device} but {second} is on {b.device}; move one of them.")
