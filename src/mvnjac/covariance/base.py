"""The contract of a covariance structure.

A structure is one file in `structured` or `parametrisations` with one public subclass of `Covariance`. It declares its
parameters, builds a `Factor` from them once, and gives the derivative of the log-density with respect to each parameter as a
`Block`. It also provides sample instances and invalid inputs. The contract test, the command line and the names in `mvnjac`
find it automatically.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Self

from torch import Tensor

from mvnjac.blocks.base import Block
from mvnjac.covariance.estimation import Estimable
from mvnjac.covariance.marginalisable import Marginalisable
from mvnjac.covariance.named_parameters import same_kind as same_kind
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.covariance.second_order import SecondOrder
from mvnjac.errors import ShapeError
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals


class Covariance(SecondOrder, Marginalisable["Covariance"], Estimable):
    """A covariance matrix Σ of d variables in some parametrisation.

    A subclass implements the abstract methods `factor`, `pullback`, `dense`, `checks`, `samples` and `bad_inputs`. It may
    override those of second order (`fisher`, `fisher_solve`, `times`, …), of missing entries (`local`, `marginal`, `groups`,
    …) and of estimation (`start`, …), which have defaults. The page "Custom structures" of the documentation has a complete
    example.

    Args:
        parameters: as keywords, tensors (*batch, *shape) of the same dtype (float32 or float64) and device. The keywords are
            the names of the parameters; the leading dimensions broadcast against each other.

    Attributes:
        fields: the names of the parameters, each with a function d → its coordinates over d variables. `coordinates_of` gives
            the coordinates for this instance.
        parameters: the tensors that were given, by name; they are never modified.

    Raises:
        DtypeError, DeviceError: if a parameter is not a tensor of float32 or float64, or dtypes or devices differ.
        ShapeError: if a shape is not that of the parameter's coordinates, or the leading dimensions do not broadcast.

    Example:
        >>> import torch, mvnjac
        >>> structure = mvnjac.Diagonal(torch.tensor([1.0, 4.0]))
        >>> structure
        Diagonal(cov_diag=(2,), dtype=torch.float32)
        >>> structure.dense()
        tensor([[1., 0.],
                [0., 4.]])
    """

    @abstractmethod
    def factor(self, d: int) -> Factor:
        """Factorise Σ of d variables, once. A failure does not raise here; `checks` reports it."""

    @abstractmethod
    def pullback(self, name: str, rows: Residuals) -> Block:
        """The derivative of each row's log-density with respect to the parameter `name`.

        It may be a class method if it needs no instance.
        """

    @abstractmethod
    def dense(self, d: int | None = None) -> Tensor:
        """Σ, (*batch, d, d), by the definition of the parametrisation; differentiable.

        d: the number of variables, required if it does not follow from the parameters.
        """

    @abstractmethod
    def checks(self, factor: Factor) -> Iterator[Check]:
        """The conditions on the parameters' values, besides being finite."""

    @classmethod
    @abstractmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        """Sample instances over d variables, for the contract test."""

    @classmethod
    @abstractmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        """Invalid inputs over three variables, with the error that a Jacobian of them must raise."""

    @property
    def mean(self) -> Tensor | None:
        """µ, if it is a function of the same parameters; else None."""
        return None

    def evaluated(self) -> tuple[Tensor | None, Covariance]:
        """µ, if it is a function of the parameters, and the same Σ with every function supplied by the user evaluated."""
        return None, self

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        """(m, q) if an observation is an m×q matrix, flattened row by row; else None."""
        return None

    # --- nested structures ---------------------------------------------------------------------------------------

    #: the classes, by name, of which every Σ of this one is a member, if their `nesting_order` is not lower; its own among them
    special_case_of: ClassVar[tuple[str, ...]] = ()

    @property
    def nesting_order(self) -> int:
        """The order, bandwidth or number of factors: a structure contains those of lower order."""
        return 0

    def contains(self, other: Covariance) -> bool:
        """Whether every Σ of the structure `other`, over the same variables, is one of this structure."""
        return type(self).__name__ in other.special_case_of and other.nesting_order <= self.nesting_order

    def has_more_factors(self, other: Covariance) -> bool:
        """Whether there are more factors than in `other`: their loadings are not identified if `other` holds."""
        return False

    def all_checks(self, factor: Factor) -> Iterator[Check]:
        """Finiteness of every parameter, then `checks`."""
        for name, value in self.parameters.items():
            check = checks.finite(name, value, self.coordinates_of(name, 1))
            yield check.within(functools.partial(self.names_of, name))
        yield from self.checks(factor)

    def _known_dimension(self, d: int | None) -> int:
        """d, or the number of variables that follows from the parameters: for `dense(d)`."""
        d = self.dimension if d is None else d
        if d is None:
            raise ShapeError(f"{type(self).__name__}.dense: the number of variables is not known here; pass it: dense(d).")
        return d
