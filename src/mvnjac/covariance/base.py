"""What a covariance structure must supply.

A structure is one file in this folder with one public subclass of `Covariance`. It declares its parameters, builds a `Factor`
from them (once), and gives the derivative of the log-density by each parameter as a `Block` (its pullback). It also brings
sample instances and bad inputs; the contract test, the command line and the top-level names find it by themselves.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Size, Tensor

from mvnjac.covariance.estimation import Estimable
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import DeviceError, DtypeError, ShapeError
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import Coordinates
from mvnjac.parameters.names import Names
from mvnjac.tensors.broadcasting import batch_shape, broadcast, narrow
from mvnjac.tensors.tracing import constant_size
from mvnjac.whitening.factor import Factor

if TYPE_CHECKING:
    from mvnjac.blocks.base import Block
    from mvnjac.whitening.residuals import Residuals


class Covariance(Estimable, ABC):
    """A covariance Σ in some parametrisation. Keywords of the constructor are the parameters' names.

    Attributes:
        fields: the parameters' names, each with the kind of its coordinates; `coordinates_of` gives them for this instance.
        parameters: the tensors given, by name; never altered.
    """

    fields: Mapping[str, Callable[[int], Coordinates]]
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

    # --- what a structure supplies -------------------------------------------------------------------------------

    @abstractmethod
    def factor(self, d: int) -> Factor:
        """Factorise Σ, once. A failure does not raise here; `checks` reports it."""

    @abstractmethod
    def pullback(self, name: str, rows: Residuals) -> Block:
        """The derivative of each row's log-density by the parameter `name`. (Where no instance is needed, a class method.)"""

    @abstractmethod
    def dense(self, d: int | None = None) -> Tensor:
        """Σ itself, (*batch, d, d), by the definition of the parametrisation; differentiable."""

    @abstractmethod
    def checks(self, factor: Factor) -> Iterator[Check]:
        """What must hold of the numbers, beyond being finite."""

    @classmethod
    @abstractmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        """Sample instances over d variables, for the contract test."""

    @classmethod
    @abstractmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        """Inputs over three variables that must be refused when a Jacobian is asked for."""

    # --- second order, for structures that are no dense parametrisation -------------------------------------------

    def fisher(self, factor: Any, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The information times the change v of some of the parameters: ½ ⟨∂Σ, Σ⁻¹ dΣ[v] Σ⁻¹⟩, by each parameter."""
        raise NotImplementedError(f"{type(self).__name__} does not say its Fisher information")

    def fisher_solve(self, factor: Any, gradients: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The inverse of that, where it is closed form over exactly these parameters; else None: by the matrix, or by iteration."""
        return None

    def times(self, factor: Any, v: Tensor) -> Tensor:
        """Σ v, (..., d)."""
        raise NotImplementedError(f"{type(self).__name__} does not say its product with a vector")

    #: whether different parameters may mean the same Σ, whichever they are (rotations of factors)
    redundant: ClassVar[bool] = False

    def redundant_among(self, names: Iterable[str]) -> bool:
        """Whether these parameters move along directions that leave Σ as it is."""
        return self.redundant and set(self.fields) <= set(names)

    def units(self, factor: Any) -> dict[str, Tensor] | None:
        """A scale for each entry of "mean" and of each parameter, in their own shapes: about a step that one observation can tell.

        In these units an information too large for its matrix is solved with by iteration; None: it is not.
        """
        return None

    def free_parameters(self, d: int) -> int:
        """How many parameters tell different Σ of d variables apart: the elements, less what leaves every Σ as it is."""
        elements = sum(self.coordinates_of(name, d).size for name in self.parameters)
        return min(elements - self.redundant_directions, d * (d + 1) // 2)

    @property
    def redundant_directions(self) -> int:
        """In how many directions the parameters may move without a change of Σ."""
        return 0

    def minimum_norm(self, factor: Any, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """The change v without what leaves Σ as it is."""
        return v

    # --- missing entries ----------------------------------------------------------------------------------------

    #: by parameter, the axes along which an entry concerns one variable alone: its derivative is 0 where that variable is missing
    local: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    #: whether the marginal of some variables is the same structure, at the entries of the parameters that are local to them
    keeps_marginals: bool = False

    def marginal(self, observed: Tensor) -> Self:
        """The covariance of the variables `observed` (indices), of a structure that keeps its form."""
        return self.at([self._local_part(name, value, observed) for name, value in self.parameters.items()])

    def _local_part(self, name: str, value: Tensor, observed: Tensor) -> Tensor:
        event = len(self.coordinates_of(name, 1).shape)
        for axis in self.local.get(name, ()):
            value = value.index_select(axis - event, observed)
        return value

    def groups(self, factor: Any) -> list[tuple[slice, Covariance, Factor]]:
        """Independent groups of variables, each with its covariance and the factor of that; none where there is one group."""
        return []

    def in_group(self, name: str) -> tuple[int, str]:
        """The group that a parameter belongs to, and its name there."""
        raise NotImplementedError(f"{type(self).__name__} has no groups")

    @property
    def mean(self) -> Tensor | None:
        """µ, where it is a function of the same parameters."""
        return None

    # --- what follows from it ------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.parameters.values())).dtype

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    @property
    def dimension(self) -> int | None:
        """The number of variables; None where the parameters don't tell."""
        for key, value in self.parameters.items():
            if self.coordinates_of(key, 1).shape and value.ndim:
                return constant_size(value)
        return None

    @property
    def batch(self) -> Size:
        """The leading dimensions of the parameters, broadcast."""
        return broadcast(*(self.parameter_batch(key) for key in self.parameters))

    def parameter_batch(self, name: str) -> Size:
        """The leading dimensions of one parameter."""
        return batch_shape(self.parameters[name], len(self.coordinates_of(name, 1).shape))

    def coordinates_of(self, name: str, d: int) -> Coordinates:
        """The coordinates of a parameter over d variables."""
        return self.fields[name](d)

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        """(m, q) where the variables form a matrix, row by row."""
        return None

    def names_of(self, parameter: str, names: Names) -> Names:
        """What the axes of a parameter are labelled by, given the names of the variables."""
        return names

    def evaluated(self) -> tuple[Tensor | None, Covariance]:
        """The mean, where it follows from the parameters; and the same Σ with every function of a user's carried out."""
        return None, self

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same structure with every parameter replaced (another dtype, detached)."""
        return self.at([function(value) for value in self.parameters.values()])

    def at(self, values: Sequence[Tensor]) -> Self:
        """The same structure at other values of its parameters, in their order."""
        return type(self)(**dict(zip(self.parameters, values, strict=True)))

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Self:
        """The parameters of some rows, where each row (along `dim` of the batch `full`) has its own."""
        events = {name: len(self.coordinates_of(name, 1).shape) for name in self.parameters}
        return self.at([narrow(value, full, events[name], dim, index) for name, value in self.parameters.items()])

    def all_checks(self, factor: Factor) -> Iterator[Check]:
        """Finite numbers first, then what the structure demands."""
        for name, value in self.parameters.items():
            check = checks.finite(name, value, self.coordinates_of(name, 1))
            yield check.within(functools.partial(self.names_of, name))
        yield from self.checks(factor)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={tuple(value.shape)}" for name, value in self.parameters.items())
        return f"{type(self).__name__}({shapes}, dtype={self.dtype})"

    def fingerprint(self) -> dict[str, Any]:
        """What tells it from others: its class and shapes, and its numbers."""
        return {"structure": repr(self), "parameters": self.parameters}

    def _check_shapes(self) -> None:
        name, d = type(self).__name__, self.dimension
        for key, value in self.parameters.items():
            expected = self.coordinates_of(key, d or 1).shape
            if 0 in value.shape[value.ndim - len(expected) :] and 0 not in expected:
                raise ShapeError(f"{name}: {key} has shape {tuple(value.shape)}: there are no variables.")
            if value.ndim < len(expected) or tuple(value.shape[value.ndim - len(expected) :]) != expected:
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
    """Two arguments that must agree in dtype and device.

    remedy: what to do about different dtypes; by default the one of lower precision is to be converted.
    """
    if a.dtype != b.dtype:
        name, wider = (first, b.dtype) if b.dtype.itemsize > a.dtype.itemsize else (second, a.dtype)
        remedy = remedy or f"convert one of them, for example by {name}.to({wider})."
        raise DtypeError(f"{function}: {first} is {a.dtype} but {second} is {b.dtype}; {remedy}")
    if a.device != b.device:
        raise DeviceError(f"{function}: {first} is on {a.device} but {second} is on {b.device}; move one of them.")
