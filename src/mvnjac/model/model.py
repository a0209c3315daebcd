"""The way from arguments to residuals: what is given is checked, brought to one precision, factorised once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.errors import ShapeError
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.model import arguments
from mvnjac.model.torch_distributions import mean_and_covariance
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check, Tolerance, raise_first, rounding
from mvnjac.parameters.coordinates import Coordinates, vector
from mvnjac.parameters.names import NamesArgument, valid_names
from mvnjac.parameters.selection import unknown_name
from mvnjac.tensors.allocation import guarded
from mvnjac.tensors.broadcasting import narrow, stacked
from mvnjac.tensors.precision import full_precision
from mvnjac.tensors.tracing import is_concrete, is_traced, savable, unsavable, unwrap
from mvnjac.whitening.cache import Factors, Snapshot
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals
from mvnjac.whitening.sums import ForwardCache


class Model:
    """A mean and a covariance, ready to meet rows of x.

    Attributes:
        covariance: as given.
        mean: as given; where an observation is a matrix, row by row in one dimension.
        event: the shape of an observation: (d,), or (m, q) where the mean is given as matrices.
        naming: what the variables are called.
        mean_follows: the mean is a function of the covariance's parameters, and no parameter itself.
        mean_name: how messages call the mean.
        dtype: of the results; `working` is the dtype of the arithmetic.
    """

    def __init__(
        self,
        function: str,
        mean: Tensor | Distribution | Covariance | None,
        covariance: Tensor | Covariance | None,
        names: NamesArgument | None,
        precision: str | None,
        check: bool,
        mean_name: str = "mean",
        missing: str | None = None,
    ) -> None:
        mean, covariance = mean_and_covariance(function, mean, covariance, mean_name)
        self.function, self.check, self.mean_name = function, check, mean_name
        self.missing = arguments.valid_missing(function, missing)
        self.covariance = arguments.as_covariance(function, covariance, mean)
        self.mean_follows = self.covariance.mean is not None
        self._mean = mean = arguments.valid_mean(function, mean_name, mean, self.covariance)
        arguments.require_one_kind(function, mean_name, mean, covariance, self.covariance)
        matrix = self.covariance.matrix_shape
        self._as_matrix = matrix is not None and mean.shape[-2:] == matrix
        self.event = mean.shape[-2:] if self._as_matrix else mean.shape[-1:]
        self.d = arguments.dimension(function, mean_name, self.mean, self.covariance)
        self.naming = valid_names(function, names, self.event, matrix)
        self.dtype = mean.dtype
        self.working, self.precision = arguments.working(function, precision, self.dtype), precision
        self.batch = self._batch()
        self._factors = Factors()
        #: the columns of parameters that a fit found at a bound
        self.boundary: tuple[str, ...] = ()
        self._checked: list[Snapshot] = []  # shared with the models `at` other numbers
        #: what a forward pass has put aside for the backward pass: for which tensors, and the sums
        self.forward_cache: tuple[Snapshot, ForwardCache] | None = None
        self.fills_forward_cache = False

    @property
    def mean(self) -> Tensor:
        return stacked(self._mean, -2) if self._as_matrix else self._mean

    @property
    def names(self) -> list[str] | None:
        """The variables' names; None where they have none."""
        return self.naming.labels if self.naming.given else None

    def labels_of(self, name: str) -> list[str] | None:
        """The labels along the axes of x or a parameter; None for numbers."""
        own = name in self.covariance.fields
        return (self.covariance.names_of(name, self.naming) if own else self.naming).labels

    def flat(self, x: Tensor) -> Tensor:
        """x with the variables in one dimension, row by row where an observation is a matrix."""
        if len(self.event) == 1:
            return x
        checks.floating(self.function, "x", x)
        if x.shape[-2:] != self.event:
            raise ShapeError(
                f"{self.function}: {self.mean_name} has {self.event[0]} × {self.event[1]} variables, but x has shape "
                f"{tuple(x.shape)}; pass x of shape (n, {self.event[0]}, {self.event[1]}), or both row by row, (n, {self.d}) and "
                f"({self.d},)."
            )
        return stacked(x, -2)

    def shaped(self, name: str, result: Tensor) -> Tensor:
        """A result by x or by the mean, in the shape of an observation; any other as it is."""
        return result.reshape((*result.shape[:-1], *self.event)) if name in ("x", "mean") and len(self.event) > 1 else result

    def residuals(self, x: Tensor) -> Residuals:
        """x → whitened residuals (as yet unwhitened: z and a follow on demand), checked once."""
        self.validate(x)
        return self.rows(x)

    def rows(self, x: Tensor) -> Residuals:
        """The residuals of an x that has been looked at."""
        keep = is_traced(x, *self.given())
        x, mean, factor = savable(x) if keep else x.detach(), self._working_mean(keep), self._factor(keep)
        observed = self._observed(x)
        if observed is None:
            return Residuals(x, mean, factor)
        return IncompleteResiduals(x, mean, self._working_covariance(keep), factor, observed)

    @guarded("log_prob", "take fewer rows at a time.")
    def log_prob(self, rows: Residuals) -> Tensor:
        """The rows' log-density in the dtype of the results, by arithmetic as given."""
        with self.arithmetic():
            return rows.log_prob.to(self.dtype)

    def rows_observing(self, observed: Tensor) -> Residuals:
        """Rows of which nothing but the observed entries (..., d) is known."""
        arguments.require_mask(self.function, observed, self.d)
        patterns = self.flat(torch.where(observed, self.mean.new_zeros(()), torch.nan))
        arguments.require_patterns(self.function, observed, patterns, self.d)
        if patterns.ndim == 2:  # the same rows for each of many means and covariances
            patterns = patterns.reshape((len(patterns), *(1,) * len(self.batch), self.d))
        self.check_shape(patterns)
        other = copy.copy(self)
        other.missing = "marginalise"
        return other.rows(patterns)

    def _observed(self, x: Tensor) -> Tensor | None:
        """(*batch of x, d) which entries are there, where some are missing, or may be."""
        if not self.missing:
            return None
        known = is_concrete(x)
        observed = ~torch.isnan(unwrap(x) if known else x)
        return None if known and bool(observed.all()) else observed

    def given(self) -> list[Tensor]:
        """The mean and the covariance's parameters, as given."""
        return [self.mean, *self.covariance.parameters.values()]

    def validate(self, x: Tensor) -> None:
        """Look at the shape of x, and at the numbers where there are any: beneath transforms that only watch derivatives."""
        self.check_shape(x)
        if self.check and is_concrete(x, *self.given()):
            x, mean, *parameters = (unwrap(t) for t in (x, *self.given()))
            self.at(mean, parameters).check_numbers(x)

    def filling_forward_cache(self) -> Model:
        """The same model for one call, whose backward pass may find what its forward pass has put aside."""
        other = copy.copy(self)
        other.fills_forward_cache = True
        return other

    def unchecked(self) -> Model:
        """The same model that leaves NaN where there is no density."""
        other = copy.copy(self)
        other.check, other._factors = False, Factors()
        return other

    def at(self, mean: Tensor, parameters: Sequence[Tensor]) -> Model:
        """The same model at other numbers (of valid shapes); a factor of the same tensors is used again."""
        given = [self._mean, *self.covariance.parameters.values()]  # as they are: a transform that they came from may be over
        if all(t is u for t, u in zip((mean, *parameters), given, strict=True)) and not self._as_matrix:
            return self
        other = copy.copy(self)
        other._mean, other._as_matrix, other.covariance = mean, False, self.covariance.at(parameters)
        other.batch = other._batch()
        return other

    def with_mean(self, mean: Tensor) -> Model:
        """The same covariance, factorised once for both, at another mean, whose shape and kind are looked at."""
        names, options = self.naming.argument, (self.precision, self.check, self.mean_name, self.missing)
        other = Model(self.function, mean, self.covariance, names, *options)
        other._factors, other.boundary = self._factors, self.boundary
        return other

    def arithmetic(self) -> AbstractContextManager[None]:
        """The context in which every product is formed: no autocast, no TF32."""
        return full_precision(self.working, self.mean.device)

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Model:
        """The model of some rows, where each row has a mean or a covariance of its own; else itself."""
        if dim < len(full) - len(self.batch):
            return self
        part = copy.copy(self)
        part._mean, part._as_matrix = narrow(self.mean, full, 1, dim, index), False
        part.covariance = self.covariance.narrow(full, dim, index)
        part.batch, part._factors, part._checked = part._batch(), Factors(), []
        return part

    def default_names(self) -> list[str]:
        """What derivatives are by, if nothing else is said."""
        return [*([] if self.mean_follows else ["mean"]), *self.covariance.fields]

    def parameter_names(self) -> list[str]:
        """All parameters there are derivatives by: the mean, the covariance's own, the other dense ones."""
        own = list(self.covariance.fields)
        return ["mean", *own, *(name for name in dense_parameters() if name not in own)]

    def coordinates(self, name: str) -> Coordinates:
        """The coordinates of x or of a parameter; an UnknownNameError lists the names there are."""
        if name in ("x", "mean"):
            return vector(self.d)
        if name in self.covariance.fields:
            return self.covariance.coordinates_of(name, self.d)
        if name in dense_parameters():
            return dense_parameters()[name].fields[name](self.d)
        raise unknown_name(name, name, ["x", *self.parameter_names()])

    def parameter(self, name: str) -> Tensor:
        """The value of a parameter, in any parametrisation."""
        self.coordinates(name)
        if name == "mean":
            return self.mean
        if name in self.covariance.parameters:
            return self.covariance.parameters[name]
        with self.arithmetic():
            return dense_parameters()[name].value(name, self._working_mean(True), self._factor(True).dense()).to(self.dtype)

    @property
    def reduced_batch(self) -> Size:
        """The leading dimensions that reductions keep: those that the mean or the covariance has, as parameters."""
        return self.covariance.batch if self.mean_follows else self.batch

    def prepared(self) -> tuple[Tensor, Factor]:
        """The mean and the factor, in the arithmetic's precision."""
        keep = is_traced(*self.given())
        return self._working_mean(keep), self._factor(keep)

    def at_working_precision(self) -> Model:
        """The same model, of results that are not rounded."""
        if self.dtype == self.working:
            return self
        mean, *parameters = (t.to(self.working) for t in self.given())
        other = self.at(mean, parameters)
        other.dtype, other._factors = self.working, Factors()
        return other

    # --- preparation ---------------------------------------------------------------------------------------------

    def _working_mean(self, keep: bool) -> Tensor:
        if self.mean_follows:
            own = self._working_covariance(True).mean
            assert own is not None
            return own if keep else own.detach()
        return (savable(self.mean) if keep else self.mean.detach()).to(self.working)

    def _factor(self, keep: bool) -> Factor:
        """The factor: with its graph where one must be kept, without where not; each made once."""
        parameters = list(self.covariance.parameters.values())
        keep = keep and is_traced(*parameters)
        factor = self._factors.get(parameters, keep)
        if factor is None:
            with self.arithmetic():
                factor = self._working_covariance(keep).factor(self.d)
            factor.checked = self.check
            self._factors.put(parameters, keep, factor)
        return factor

    def _working_covariance(self, keep: bool) -> Covariance:
        parameters = self.covariance.parameters.values()
        as_it_is = self.working == self.dtype and not any(unsavable(t) if keep else t.requires_grad for t in parameters)
        if as_it_is:
            return self.covariance
        return self.covariance.map(lambda t: (savable(t) if keep else t.detach()).to(self.working))

    def _batch(self) -> Size:
        return arguments.common_batch(self.function, self.mean_name, self.mean, self.covariance)

    def check_shape(self, x: Tensor) -> None:
        """Whether rows of x meet the mean and the covariance."""
        arguments.require_rows(self.function, x, self.mean_name, self.mean, self.batch)

    # --- numbers -------------------------------------------------------------------------------------------------

    def check_numbers(self, x: Tensor) -> None:
        """Look at all flags of this call together; mean and covariance only the first time."""
        pending: list[Check] = [checks.finite_rows(x, missing=self.missing is not None)]
        first_time = not (self._checked and self._checked[0].matches(self.given()))
        if first_time:
            pending.extend(self._parameter_checks())
        with torch.no_grad():
            raise_first(self.function, pending, self.naming)
        if first_time:
            self._checked[:] = [Snapshot(self.given())]

    def check_parameters(self, tolerance: Tolerance = rounding) -> None:
        """Look at mean and covariance alone, where there are numbers, whatever `check` says.

        tolerance: of entries of a symmetric parameter that should be equal.
        """
        if not is_concrete(*self.given()):
            return
        mean, *parameters = (unwrap(t) for t in self.given())
        with torch.no_grad():
            raise_first(self.function, self.at(mean, parameters)._parameter_checks(tolerance), self.naming)

    def _parameter_checks(self, tolerance: Tolerance = rounding) -> list[Check]:
        own = self.covariance.all_checks(self._factor(False))
        if tolerance is not rounding:
            own = (check if check.tolerating is None else check.tolerating(tolerance) for check in own)
        return [checks.finite(self.mean_name, self.mean, vector(self.d)), *own]
