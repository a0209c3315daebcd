"""The way from arguments to residuals: what is given is checked, brought to one precision, factorised once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from mvnjac.arithmetic import as_given, below, concrete, tracked
from mvnjac.batches import batch_shape, broadcast, narrow
from mvnjac.coordinates import Coordinates, vector
from mvnjac.covariance import checks, dense_parameters
from mvnjac.covariance.base import Covariance, Factor, same_kind
from mvnjac.covariance.cache import Factors, Snapshot
from mvnjac.covariance.checks import Check
from mvnjac.covariance.parametric import Parametric
from mvnjac.distribution_arguments import mean_and_covariance
from mvnjac.errors import ArgumentError, ShapeError
from mvnjac.residuals import Residuals
from mvnjac.selection import unknown_name
from mvnjac.whitened import Sums


class Model:
    """A mean and a covariance, ready to meet rows of x.

    Attributes:
        mean, covariance: as given.
        names: the variables' names, or None.
        mean_follows: the mean is a function of the covariance's parameters, and no parameter itself.
        mean_name: how messages call the mean.
        dtype: of the results; `working` is the dtype of the arithmetic.
    """

    def __init__(
        self,
        function: str,
        mean: Tensor | Distribution | Covariance | None,
        covariance: Tensor | Covariance | None,
        names: Sequence[str] | None,
        precision: str | None,
        check: bool,
        mean_name: str = "mean",
    ) -> None:
        mean, covariance = mean_and_covariance(function, mean, covariance)
        self.function, self.check, self.mean_name = function, check, mean_name
        self.covariance = _as_covariance(function, covariance)
        self.mean_follows = isinstance(self.covariance, Parametric) and self.covariance.mean is not None
        self.mean = mean = self._valid_mean(mean)
        same_kind(function, mean_name, mean, "covariance", next(iter(self.covariance.parameters.values())))
        self.d = self._dimension()
        self.names = _valid_names(function, names, self.d)
        self.dtype = mean.dtype
        self.working, self.precision = _working(function, precision, self.dtype), precision
        self.batch = self._batch()
        self._factors = Factors()
        self._checked: list[Snapshot] = []  # shared with the models `at` other numbers
        #: what a forward pass has put aside for the backward pass: for which tensors, and the sums
        self.foreseen: tuple[Snapshot, Sums] | None = None
        self.foresees = False

    def residuals(self, x: Tensor) -> Residuals:
        """x → whitened residuals (as yet unwhitened: z and a follow on demand), checked once."""
        self.validate(x)
        return self.rows(x)

    def rows(self, x: Tensor) -> Residuals:
        """The residuals of an x that has been looked at."""
        keep = tracked(x, *self.given())
        return Residuals(x if keep else x.detach(), self._working_mean(keep), self._factor(keep))

    def given(self) -> list[Tensor]:
        """The mean and the covariance's parameters, as given."""
        return [self.mean, *self.covariance.parameters.values()]

    def validate(self, x: Tensor) -> None:
        """Look at the shape of x, and at the numbers where there are any: beneath transforms that only watch derivatives."""
        self.check_shape(x)
        if self.check and concrete(x, *self.given()):
            x, mean, *parameters = (below(t) for t in (x, *self.given()))
            self.at(mean, parameters).check_numbers(x)

    def foreseeing(self) -> Model:
        """The same model for one call, whose backward pass may find what its forward pass has put aside."""
        other = copy.copy(self)
        other.foresees = True
        return other

    def unchecked(self) -> Model:
        """The same model that leaves NaN where there is no density."""
        other = copy.copy(self)
        other.check, other._factors = False, Factors()
        return other

    def at(self, mean: Tensor, parameters: Sequence[Tensor]) -> Model:
        """The same model at other numbers (of valid shapes); a factor of the same tensors is used again."""
        if all(t is u for t, u in zip((mean, *parameters), self.given(), strict=True)):
            return self
        other = copy.copy(self)
        other.mean, other.covariance = mean, self.covariance.at(parameters)
        other.batch = other._batch()
        return other

    def arithmetic(self) -> AbstractContextManager[None]:
        """The context in which every product is formed: no autocast, no TF32."""
        return as_given(self.working, self.mean.device)

    def namer(self, i: int) -> str:
        """How variable i is called in a message."""
        return f"variable {i}" if self.names is None else f"{self.names[i]!r}"

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Model:
        """The model of some rows, where each row has a mean or a covariance of its own; else itself."""
        if dim < len(full) - len(self.batch):
            return self
        part = copy.copy(self)
        part.mean = narrow(self.mean, full, 1, dim, index)
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
        keep = tracked(*self.given())
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
        if isinstance(self.covariance, Parametric) and self.mean_follows:
            covariance = self.covariance
            if self.working != self.dtype:
                covariance = covariance.map(lambda t: t.to(self.working))
            assert covariance.mean is not None
            return covariance.mean if keep else covariance.mean.detach()
        return (self.mean if keep else self.mean.detach()).to(self.working)

    def _factor(self, keep: bool) -> Factor:
        """The factor: with its graph where one must be kept, without where not; each made once."""
        parameters = list(self.covariance.parameters.values())
        keep = keep and tracked(*parameters)
        factor = self._factors.get(parameters, keep)
        if factor is None:
            as_it_is = self.working == self.dtype and (keep or not any(t.requires_grad for t in parameters))
            covariance = (
                self.covariance if as_it_is else self.covariance.map(lambda t: (t if keep else t.detach()).to(self.working))
            )
            with self.arithmetic():
                factor = covariance.factor(self.d)
            factor.checked = self.check
            self._factors.put(parameters, keep, factor)
        return factor

    # --- shapes --------------------------------------------------------------------------------------------------

    def _valid_mean(self, mean: Tensor | None) -> Tensor:
        if isinstance(self.covariance, Parametric) and self.covariance.mean is not None:
            if mean is not None:
                raise ArgumentError(
                    f"{self.function}: a mean of shape {tuple(mean.shape)} is given, but the function of Parametric returns a mean, "
                    "too; pass None for the mean, or let the function return Σ alone."
                )
            return self.covariance.mean
        if mean is None:
            raise ArgumentError(f"{self.function}: the mean is None; pass a tensor of shape (d,) or (..., d).")
        checks.floating(self.function, self.mean_name, mean)
        return mean

    def _dimension(self) -> int:
        if self.mean.ndim == 0:
            raise ShapeError(
                f"{self.function}: {self.mean_name} has shape (); pass a {self.mean_name} of shape (d,) or (..., d)."
            )
        d, expected = self.mean.shape[-1], self.covariance.dimension
        if expected is not None and d != expected:
            raise ShapeError(
                f"{self.function}: {self.mean_name} has shape {tuple(self.mean.shape)}, but the covariance is of {expected} variables "
                f"({self.covariance!r}); pass a {self.mean_name} of shape ({expected},) or (..., {expected})."
            )
        if d == 0:
            raise ShapeError(f"{self.function}: {self.mean_name} has shape {tuple(self.mean.shape)}: there are no variables.")
        return d

    def _batch(self) -> Size:
        own, other = batch_shape(self.mean, 1), self.covariance.batch
        try:
            return broadcast(own, other)
        except RuntimeError:
            raise ShapeError(
                f"{self.function}: the leading dimensions of the {self.mean_name} {tuple(own)} and of the covariance {tuple(other)} "
                "do not broadcast."
            ) from None

    def check_shape(self, x: Tensor) -> None:
        checks.floating(self.function, "x", x)
        same_kind(self.function, "x", x, self.mean_name, self.mean)
        if x.ndim == 0 or x.shape[-1] != self.d:
            columns = x.shape[-1] if x.ndim else "no"
            raise ShapeError(
                f"{self.function}: {self.mean_name} has shape {tuple(self.mean.shape)}, but x, of shape {tuple(x.shape)}, has "
                f"{columns} columns; pass x of shape (n, {self.d})"
                + (f" or a {self.mean_name} of shape ({x.shape[-1]},) or (n, {x.shape[-1]})." if x.ndim else ".")
            )
        try:
            broadcast(batch_shape(x, 1), self.batch)
        except RuntimeError:
            raise ShapeError(
                f"{self.function}: x has shape {tuple(x.shape)}, but {self.mean_name} and covariance have the leading dimensions "
                f"{tuple(self.batch)}; the leading dimensions must broadcast (for a grid of n rows and these, pass x of "
                f"shape (n, {'1, ' * len(self.batch)}{self.d}))."
            ) from None

    # --- numbers -------------------------------------------------------------------------------------------------

    def check_numbers(self, x: Tensor) -> None:
        """Look at all flags of this call together; mean and covariance only the first time."""
        pending: list[Check] = [checks.finite_rows(x)]
        first_time = not (self._checked and self._checked[0].matches(self.given()))
        if first_time:
            pending.extend(self._parameter_checks())
        with torch.no_grad():
            self._raise_first(pending)
        if first_time:
            self._checked[:] = [Snapshot(self.given())]

    def check_parameters(self) -> None:
        """Look at mean and covariance alone, where there are numbers, whatever `check` says."""
        if not concrete(*self.given()):
            return
        mean, *parameters = (below(t) for t in self.given())
        with torch.no_grad():
            self._raise_first(self.at(mean, parameters)._parameter_checks())

    def _parameter_checks(self) -> list[Check]:
        own = self.covariance.all_checks(self._factor(False))
        return [checks.finite(self.mean_name, self.mean, vector(self.d)), *own]

    def _raise_first(self, pending: Iterable[Check]) -> None:
        pending = list(pending)
        flags = [check.ok for check in pending if isinstance(check.ok, Tensor)]
        known = all(check.ok for check in pending if not isinstance(check.ok, Tensor))
        if known and (not flags or bool(torch.stack(flags).all())):  # one look at all that is on the device
            return
        for check in pending:
            error = None if bool(check.ok) else check.explain(self.function, self.namer)
            if error is not None:
                raise error


def _as_covariance(function: str, covariance: Tensor | Covariance) -> Covariance:
    if isinstance(covariance, Covariance):
        return covariance
    checks.floating(function, "covariance", covariance)
    from mvnjac.covariance.dense import Dense  # a plain tensor means Σ itself

    return Dense(covariance)


def _valid_names(function: str, names: Sequence[str] | None, d: int) -> list[str] | None:
    if names is None:
        return None
    names = [str(name) for name in names]
    if len(names) != d:
        raise ShapeError(f"{function}: {len(names)} names for {d} variables.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ArgumentError(f"{function}: names must be unique; {', '.join(map(repr, repeated))} occurs more than once.")
    return names


def _working(function: str, precision: str | None, dtype: torch.dtype) -> torch.dtype:
    if precision is None:
        return dtype
    if precision != "float64":
        raise ArgumentError(
            f"{function}: precision is {precision!r}; expected None (arithmetic in the dtype given) or 'float64' "
            "(float32 arguments are worked in float64 inside, and the results rounded)."
        )
    return torch.float64
