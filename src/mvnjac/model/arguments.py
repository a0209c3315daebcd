"""Parses the arguments of a public function, once; errors about shapes, dtypes, devices and names are raised here."""

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
from mvnjac.parameters.descriptions import Phrase, descriptions
from mvnjac.parameters.names import Names, NamesArgument, valid_names
from mvnjac.parameters.selection import Selection, unknown_name
from mvnjac.tensors.broadcasting import narrow, stacked
from mvnjac.tensors.tracing import constant_size


@dataclass(frozen=True)
class Arguments:
    """A mean and a covariance of matching shapes, the names of the variables, and the options. The values are not read here.

    Attributes:
        function: the public function that was called, for messages.
        given_mean: the mean as it was passed; mean_is_matrix: whether it is a matrix (m, q) for each entry of the batch.
        mean_name: the name of the mean in messages.
        covariance: a structure; a plain tensor is wrapped in `Dense`.
        batch: the leading dimensions of mean and covariance, broadcast.
        event: the shape of an observation: (d,), or (m, q) if the mean is a matrix.
        d: the number of variables.
        naming: the names of the variables.
        dtype: the dtype of the results; working: the dtype of the arithmetic.
        missing: None or "marginalise"; check: whether values are validated.
    """

    function: str
    given_mean: Tensor
    mean_is_matrix: bool
    mean_name: str
    covariance: Covariance
    batch: Size
    event: Size
    d: int
    naming: Names
    dtype: torch.dtype
    working: torch.dtype
    missing: str | None
    check: bool

    # --- parameters ----------------------------------------------------------------------------------------------

    @property
    def mean(self) -> Tensor:
        """The mean (..., d); a matrix is flattened row by row."""
        return stacked(self.given_mean, -2) if self.mean_is_matrix else self.given_mean

    @property
    def given(self) -> list[Tensor]:
        """The mean (..., d) and the parameters of the covariance."""
        return [self.mean, *self.covariance.parameters.values()]

    @property
    def names(self) -> list[str] | None:
        """The names of the variables; None if they have none."""
        return self.naming.labels if self.naming.given else None

    @property
    def mean_follows(self) -> bool:
        """Whether the mean is a function of the parameters of the covariance instead of a parameter."""
        return self.covariance.mean is not None

    def default_names(self) -> list[str]:
        """The parameters that derivatives are taken with respect to by default."""
        return [*([] if self.mean_follows else ["mean"]), *self.covariance.fields]

    def parameter_names(self) -> list[str]:
        """All parameters that derivatives can be taken with respect to: the defaults and every dense parametrisation."""
        return list(dict.fromkeys(["mean", *self.covariance.fields, *dense_parameters()]))

    def coordinates(self, name: str) -> Coordinates:
        """The coordinates of x or of a parameter. Raises an UnknownNameError that lists the valid names."""
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
        return (self.covariance.names_of(name, self.naming) if name in self.covariance.fields else self.naming).labels

    def select(self, wrt: str | Iterable[str] | None, layout: str = "unique", *, x: bool = False) -> Selection:
        """The columns selected by `wrt`; x: whether "x" is a valid name."""
        known = [*(["x"] if x else []), *self.parameter_names()]
        return Selection(wrt, layout, self.default_names(), known, self.coordinates, self.labels_of)

    def descriptions(self, selection: Selection) -> list[str]:
        """The columns in words, such as "variance of CHF"."""
        return descriptions(selection, self._phrase)

    def _phrase(self, name: str) -> Phrase | None:
        if name in ("x", "mean"):
            return "derivative with respect to {}" if name == "x" else "mean of {}"
        owner = self.covariance if name in self.covariance.fields else dense_parameters()[name]
        return owner.phrases.get(name)

    # --- observations --------------------------------------------------------------------------------------------

    def flat(self, x: Tensor) -> Tensor:
        """x with the variables in one dimension; observations that are matrices are flattened row by row."""
        if len(self.event) == 1:
            return x
        checks.floating(self.function, "x", x)
        if x.shape[-2:] != self.event:
            (m, q), d = self.event, self.event.numel()
            raise ShapeError(
                f"{self.function}: {self.mean_name} has {m} × {q} variables, but x has shape {tuple(x.shape)}; pass x of shape "
                f"(n, {m}, {q}), or flatten both row by row, to (n, {d}) and ({d},)."
            )
        return stacked(x, -2)

    def shaped(self, name: str, result: Tensor) -> Tensor:
        """The result, reshaped to observations (..., m, q) if it is a derivative with respect to x or a matrix mean."""
        return result.reshape((*result.shape[:-1], *self.event)) if name in ("x", "mean") and len(self.event) > 1 else result

    def require_rows(self, x: Tensor) -> None:
        """Raise unless the dtype, device and shape of x (..., d) match the mean and the covariance."""
        validation.require_rows(self.function, x, self.mean_name, self.mean, self.batch)

    # --- modified copies -----------------------------------------------------------------------------------------

    def at(self, mean: Tensor, parameters: Sequence[Tensor]) -> Arguments:
        """A copy with other values of mean and parameters, of valid shapes."""
        return self.with_parameters(mean, self.covariance.at(parameters))

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Arguments:
        """A copy for the rows `index` along dimension `dim` of the batch `full`, in which parameters differ between rows."""
        return self.with_parameters(narrow(self.mean, full, 1, dim, index), self.covariance.narrow(full, dim, index))

    def with_parameters(self, mean: Tensor, covariance: Covariance) -> Arguments:
        """A copy with another mean (..., d) and covariance of the same variables."""
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
    """The arguments of `function`, checked for consistency.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError: the arguments are invalid or do not match each other.
    """
    mean, passed_covariance = mean_and_covariance(function, mean, covariance, mean_name)
    validation.require_missing(function, missing)
    covariance = validation.as_covariance(function, passed_covariance, mean)
    mean = validation.valid_mean(function, mean_name, mean, covariance)
    validation.require_same_kind(function, mean_name, mean, covariance, isinstance(passed_covariance, Covariance))
    matrix_shape = covariance.matrix_shape
    mean_is_matrix = matrix_shape is not None and mean.shape[-2:] == matrix_shape
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
        constant_size(flat),
        valid_names(function, names, event, matrix_shape),
        mean.dtype,
        validation.working_dtype(function, precision, mean.dtype),
        missing,
        check,
    )
