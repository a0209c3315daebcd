"""A model: parsed arguments with the factor of their covariance, to be evaluated at rows of x."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Size, Tensor

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.model import validation
from mvnjac.model.arguments import Arguments, parse
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check, Tolerance, raise_first, rounding
from mvnjac.parameters.coordinates import vector
from mvnjac.parameters.names import Names
from mvnjac.tensors.allocation import guarded
from mvnjac.tensors.full_precision import full_precision
from mvnjac.tensors.tracing import is_concrete, is_traced, savable, unsavable, unwrap
from mvnjac.whitening.cache import Factors, Snapshot
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals
from mvnjac.whitening.sums import ForwardCache


class Model:
    """Arguments with the factor of their covariance, which is computed once.

    Attributes:
        arguments: names, shapes and options.
        covariance, d, dtype, working, batch: those of the arguments.
        boundary: the columns of parameters that are at a bound after a fit.
        forward_cache: sums that a forward pass computed for the backward pass, with a snapshot of the tensors.
        fills_forward_cache: whether a forward pass should compute it.
    """

    def __init__(self, arguments: Arguments, factors: Factors | None = None, checked: list[Snapshot] | None = None) -> None:
        self.arguments = arguments
        self.covariance, self.d, self.batch = arguments.covariance, arguments.d, arguments.batch
        self.dtype, self.working = arguments.dtype, arguments.working
        self._factors = Factors() if factors is None else factors
        self._checked: list[Snapshot] = [] if checked is None else checked  # shared with copies of the model
        self.boundary: tuple[str, ...] = ()
        self.forward_cache: tuple[Snapshot, ForwardCache] | None = None
        self.fills_forward_cache = False

    @property
    def mean(self) -> Tensor:
        """The mean (..., d); a matrix is flattened row by row."""
        return self.arguments.mean

    @property
    def reduced_batch(self) -> Size:
        """The leading dimensions that sums over rows keep: those of the mean and the covariance as parameters, broadcast."""
        return self.covariance.batch if self.arguments.mean_follows else self.batch

    def parameter(self, name: str) -> Tensor:
        """The value of a parameter, in any parametrisation."""
        self.arguments.coordinates(name)
        if name == "mean":
            return self.mean
        if name in self.covariance.parameters:
            return self.covariance.parameters[name]
        with self.arithmetic():
            return dense_parameters()[name].value(name, self._working_mean(True), self._factor(True).dense()).to(self.dtype)

    # --- rows ----------------------------------------------------------------------------------------------------

    def rows(self, x: Tensor) -> Residuals:
        """The residuals of rows x (..., d), after validation; they are whitened on demand."""
        self.validate(x)
        return self.unchecked_rows(x)

    def unchecked_rows(self, x: Tensor) -> Residuals:
        """The residuals of rows that are already validated."""
        keep_graph = is_traced(x, *self.arguments.given)
        x = savable(x) if keep_graph else x.detach()
        mean, factor = self._working_mean(keep_graph), self._factor(keep_graph)
        observed = self._observed(x)
        if observed is None:
            return Residuals(x, mean, factor)
        return IncompleteResiduals(x, mean, self._working_covariance(keep_graph), factor, observed)

    def rows_observing(self, observed: Tensor) -> Residuals:
        """Rows with the given patterns of observed entries (..., d); their values are not used."""
        function = self.arguments.function
        validation.require_mask(function, observed, self.d)
        patterns = self.arguments.flat(torch.where(observed, self.mean.new_zeros(()), torch.nan))
        validation.require_patterns(function, observed, patterns, self.d)
        if patterns.ndim == 2:  # the same patterns for all entries of the batch
            patterns = patterns.reshape((len(patterns), *(1,) * len(self.batch), self.d))
        self.arguments.require_rows(patterns)
        marginal = Model(replace(self.arguments, missing="marginalise"), self._factors, self._checked)
        return marginal.unchecked_rows(patterns)

    def _observed(self, x: Tensor) -> Tensor | None:
        """Which entries of x (..., d) are observed; None if all are, or if missing entries are not allowed."""
        if not self.arguments.missing:
            return None
        concrete = is_concrete(x)
        observed = ~torch.isnan(unwrap(x) if concrete else x)
        return None if concrete and bool(observed.all()) else observed

    @guarded("log_prob", "pass fewer rows at a time.")
    def log_prob(self, rows: Residuals) -> Tensor:
        """The log-density of the rows, in the dtype of the results."""
        with self.arithmetic():
            return rows.log_prob.to(self.dtype)

    # --- validation ----------------------------------------------------------------------------------------------

    def validate(self, x: Tensor) -> None:
        """Check the shape of x, and all values if they are available."""
        self.arguments.require_rows(x)
        if self.arguments.check and is_concrete(x, *self.arguments.given):
            x, mean, *parameters = (unwrap(t) for t in (x, *self.arguments.given))
            self.at(mean, parameters)._validate_entries(x)

    def _validate_entries(self, x: Tensor) -> None:
        """All checks, with one device synchronisation; mean and covariance are checked only the first time."""
        given = self.arguments.given
        pending: list[Check] = [checks.finite_rows(x, missing=self.arguments.missing is not None)]
        first_time = not (self._checked and self._checked[0].matches(given))
        if first_time:
            pending.extend(self._parameter_checks())
        with torch.no_grad():
            raise_first(self.arguments.function, pending, self.arguments.naming)
        if first_time:
            self._checked[:] = [Snapshot(given)]

    def validate_parameters(self, tolerance: Tolerance = rounding) -> None:
        """Check the values of mean and covariance if they are available, also if the option `check` is False.

        tolerance: the largest admissible difference between mirrored entries of a symmetric parameter.
        """
        if not is_concrete(*self.arguments.given):
            return
        mean, *parameters = (unwrap(t) for t in self.arguments.given)
        with torch.no_grad():
            pending = self.at(mean, parameters)._parameter_checks(tolerance)
            raise_first(self.arguments.function, pending, self.arguments.naming)

    def _parameter_checks(self, tolerance: Tolerance = rounding) -> list[Check]:
        of_covariance = self.covariance.all_checks(self._factor(False))
        if tolerance is not rounding:
            of_covariance = (check if check.tolerating is None else check.tolerating(tolerance) for check in of_covariance)
        return [checks.finite(self.arguments.mean_name, self.mean, vector(self.d)), *of_covariance]

    # --- modified copies -----------------------------------------------------------------------------------------

    def filling_forward_cache(self) -> Model:
        """A copy for one forward pass, which fills `forward_cache`."""
        other = copy.copy(self)
        other.fills_forward_cache = True
        return other

    def unchecked(self) -> Model:
        """A copy without validation: an invalid covariance gives NaN."""
        return Model(replace(self.arguments, check=False))

    def with_naming(self, naming: Names) -> Model:
        """A copy with other names of the variables."""
        other = copy.copy(self)
        other.arguments = replace(self.arguments, naming=naming)
        return other

    def with_options(self, function: str, naming: Names, missing: str | None, precision: str | None, check: bool) -> Model:
        """A copy for a call of `function`, whose options other than the defaults replace those of the model."""
        old = self.arguments
        validation.require_missing(function, missing)
        working = old.working if precision is None else validation.working_dtype(function, precision, old.dtype)
        other = copy.copy(self) if working == old.working else Model(old)
        other.arguments = replace(
            old,
            function=function,
            naming=naming,
            missing=missing or old.missing,
            check=check and old.check,
            working=working,
        )
        other.working = working
        return other

    def at(self, mean: Tensor, parameters: Sequence[Tensor]) -> Model:
        """The model at other values of valid shapes; factors of tensors that stay the same are reused."""
        current = [self.arguments.given_mean, *self.covariance.parameters.values()]
        if all(t is u for t, u in zip((mean, *parameters), current, strict=True)) and not self.arguments.mean_is_matrix:
            return self
        other, arguments = copy.copy(self), self.arguments.at(mean, parameters)
        other.arguments, other.covariance, other.batch = arguments, arguments.covariance, arguments.batch
        return other

    def with_mean(self, mean: Tensor) -> Model:
        """A copy with another mean, which is parsed; both models share the factor of the covariance."""
        old = self.arguments
        precision = None if old.working == old.dtype else "float64"
        arguments = parse(
            old.function,
            mean,
            self.covariance,
            names=old.naming.argument,
            missing=old.missing,
            precision=precision,
            check=old.check,
            mean_name=old.mean_name,
        )
        other = Model(arguments, self._factors)
        other.boundary = self.boundary
        return other

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Model:
        """The model of the rows `index` along dimension `dim` of the batch `full`, whose parameters may differ between rows."""
        if dim < len(full) - len(self.batch):
            return self
        other = Model(self.arguments.narrow(full, dim, index))
        other.boundary = self.boundary
        return other

    def at_working_precision(self) -> Model:
        """A copy with results in the dtype of the arithmetic."""
        if self.dtype == self.working:
            return self
        mean, *parameters = (t.to(self.working) for t in self.arguments.given)
        return Model(replace(self.arguments.at(mean, parameters), dtype=self.working))

    # --- factor and working precision ----------------------------------------------------------------------------

    def arithmetic(self) -> AbstractContextManager[None]:
        """The context for all matrix products: without autocast and TF32."""
        return full_precision(self.working, self.mean.device)

    def prepared(self) -> tuple[Tensor, Factor]:
        """The mean and the factor, in the dtype of the arithmetic."""
        keep_graph = is_traced(*self.arguments.given)
        return self._working_mean(keep_graph), self._factor(keep_graph)

    def _working_mean(self, keep_graph: bool) -> Tensor:
        if self.arguments.mean_follows:
            mean = self._working_covariance(True).mean
            assert mean is not None
            return mean if keep_graph else mean.detach()
        return (savable(self.mean) if keep_graph else self.mean.detach()).to(self.working)

    def _factor(self, keep_graph: bool) -> Factor:
        """The factor, with or without an autograd graph; each of the two is computed once."""
        parameters = list(self.covariance.parameters.values())
        keep_graph = keep_graph and is_traced(*parameters)
        factor = self._factors.get(parameters, keep_graph)
        if factor is None:
            with self.arithmetic():
                factor = self._working_covariance(keep_graph).factor(self.d)
            factor.checked = self.arguments.check
            self._factors.put(parameters, keep_graph, factor)
        return factor

    def _working_covariance(self, keep_graph: bool) -> Covariance:
        parameters = self.covariance.parameters.values()
        unchanged = not any(unsavable(t) if keep_graph else t.requires_grad for t in parameters)
        if self.working == self.dtype and unchanged:
            return self.covariance
        return self.covariance.map(lambda t: (savable(t) if keep_graph else t.detach()).to(self.working))
