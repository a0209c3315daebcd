"""The arguments of a public function, parsed once. Errors of shape, dtype, device and name are raised here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.errors import ShapeError
from mvnjac.model import validation
from mvnjac.model.torch_distributions import mean_and_covariance
from mvnjac.parameters import checks
from mvnjac.parameters.coordinates import Coordinates, vector
from mvnjac.parameters.names import Names, NamesArgument, valid_names
from mvnjac.parameters.selection import Selection, unknown_name
from mvnjac.tensors.broadcasting import narrow, stacked
from mvnjac.tensors.tracing import constant_size


@dataclass(frozen=True)
class Arguments:
    """A mean and a covariance that fit each other, the names of the variables, and the options of the evaluation.

    No entry of a tensor is read here.

    Attributes:
        function: the public function that was called, for messages.
        given_mean: the mean as given; mean_is_matrix: whether an observation has two dimensions in it.
        mean_name: the name of the mean in messages.
        covariance: a structure; a plain tensor has become `Dense`.
        batch: the leading dimensions of mean and covariance, broadcast.
        event: the shape of an observation: (d,), or (m, q) if the mean is given as matrices.
        naming: the names of the variables.
        dtype: of the results; working: of the arithmetic.
        missing: None, or "marginalise"; check: whether the entries are validated.
    """

    function: str
    given_mean: Tensor
    mean_is_matrix: bool
    mean_name: str
    covariance: Covariance
    batch: Size
    event: Size
    naming: Names
    dtype: torch.dtype
    working: torch.dtype
    missing: str | None
    check: bool

    # --- parameters ----------------------------------------------------------------------------------------------

    @property
    def mean(self) -> Tensor:
        """(*batch, d) the mean; a mean that is a matrix is stacked row by row."""
        return stacked(self.given_mean, -2) if self.mean_is_matrix else self.given_mean

    @property
    def d(self) -> int:
        """The number of variables."""
        return constant_size(self.mean)

    @property
    def given(self) -> list[Tensor]:
        """The mean and the parameters of the covariance, as given."""
        return [self.mean, *self.covariance.parameters.values()]

    @property
    def names(self) -> list[str] | None:
        """The names of the variables; None if they have none."""
        return self.naming.labels if self.naming.given else None

    @property
    def mean_follows(self) -> bool:
        """Whether the mean is a function of the parameters of the covariance, and no parameter itself."""
        return self.covariance.mean is not None

    def default_names(self) -> list[str]:
        """The parameters that derivatives are taken with respect to by default."""
        return [*([] if self.mean_follows else ["mean"]), *self.covariance.fields]

    def parameter_names(self) -> list[str]:
        """All parameters that derivatives can be taken with respect to: those given, and every dense parametrisation."""
        return list(dict.fromkeys(["mean", *self.covariance.fields, *dense_parameters()]))

    def coordinates(self, name: str) -> Coordinates:
        """The coordinates of x or of a parameter; an UnknownNameError lists the names that exist."""
        d = self.d
        if name in ("x", "mean"):
            return vector(d)
        if name in self.covariance.fields:
            return self.covariance.coordinates_of(name, d)
        if name in dense_parameters():
            return dense_parameters()[name].fields[name](d)
        raise unknown_name(name, name, ["x", *self.parameter_names()])

    def labels_of(self, name: str) -> list[str] | None:
        """The labels along the axes of x or of a parameter; None if the variables have no names."""
        given = name in self.covariance.fields
        return (self.covariance.names_of(name, self.naming) if given else self.naming).labels

    def select(self, wrt: str | Iterable[str] | None, layout: str = "unique", *, x: bool = False) -> Selection:
        """The columns that `wrt` names; x: whether "x" is among the names."""
        known = [*(["x"] if x else []), *self.parameter_names()]
        return Selection(wrt, layout, self.default_names(), known, self.coordinates, self.labels_of)

    # --- observations --------------------------------------------------------------------------------------------

    def flat(self, x: Tensor) -> Tensor:
        """x with the variables in one dimension; an observation that is a matrix is stacked row by row."""
        if len(self.event) == 1:
            return x
        checks.floating(self.function, "x", x)
        if x.shape[-2:] != self.event:
            (m, q), d = self.event, self.event.numel()
            raise ShapeError(
                f"{self.function}: {self.mean_name} has {m} × {q} variables, but x has shape {tuple(x.shape)}; pass x of shape "
                f"(n, {m}, {q}), or both row by row, (n, {d}) and ({d},)."
            )
        return stacked(x, -2)

    def shaped(self, name: str, result: Tensor) -> Tensor:
        """A derivative with respect to x or the mean in the shape of an observation; any other as it is."""
        return result.reshape((*result.shape[:-1], *self.event)) if name in ("x", "mean") and len(self.event) > 1 else result

    def require_rows(self, x: Tensor) -> None:
        """Raise unless rows x (..., d) fit the mean and the covariance."""
        validation.require_rows(self.function, x, self.mean_name, self.mean, self.batch)

    # --- the same with something replaced ------------------------------------------------------------------------

    def at(self, mean: Tensor, parameters: Sequence[Tensor]) -> Arguments:
        """The same arguments with other values of valid shapes."""
        return self.with_parameters(mean, self.covariance.at(parameters))

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Arguments:
        """The arguments of the rows `index` along `dim` of the batch `full`, for parameters that differ from row to row."""
        return self.with_parameters(narrow(self.mean, full, 1, dim, index), self.covariance.narrow(full, dim, index))

    def with_parameters(self, mean: Tensor, covariance: Covariance) -> Arguments:
        """The same arguments with another mean (*batch, d) and covariance of the same variables."""
        batch = validation.common_batch(self.function, self.mean_name, mean, covariance)
        return replace(self, given_mean=mean, mean_is_matrix=False, covariance=covariance, batch=batch)


def parse(
    function: str,
    mean: Tensor | Distribution | Covariance | None,
    covariance: Tensor | Covariance | None,
    *,
    names: NamesArgument | None = None,
    missing: str | None = None,
    precision: str | None = None,
    check: bool = True,
    mean_name: str = "mean",
) -> Arguments:
    """The arguments of `function`, checked against each other.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError: what was got, what was expected, and what to do.
    """
    mean, given = mean_and_covariance(function, mean, covariance, mean_name)
    validation.require_missing(function, missing)
    covariance = validation.as_covariance(function, given, mean)
    mean = validation.valid_mean(function, mean_name, mean, covariance)
    validation.require_one_kind(function, mean_name, mean, given, covariance)
    matrix = covariance.matrix_shape
    mean_is_matrix = matrix is not None and mean.shape[-2:] == matrix
    flat = stacked(mean, -2) if mean_is_matrix else mean
    validation.require_dimension(function, mean_name, flat, covariance)
    event = mean.shape[-2:] if mean_is_matrix else mean.shape[-1:]
    return Arguments(
        function,
        mean,
        mean_is_matrix,
        mean_name,
        covariance,
        validation.common_batch(function, mean_name, flat, covariance),
        event,
        valid_names(function, names, event, matrix),
        mean.dtype,
        validation.working_dtype(function, precision, mean.dtype),
        missing,
        check,
    )
