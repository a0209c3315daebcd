"""Checks of shapes, dtypes and devices: mean against covariance, and rows against both."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from mvnjac.covariance.base import Covariance, same_kind
from mvnjac.covariance.parametrisations.dense import Dense
from mvnjac.errors import ArgumentError, DtypeError, ShapeError
from mvnjac.parameters import checks
from mvnjac.tensors.broadcasting import batch_shape, broadcast
from mvnjac.tensors.tracing import constant_size


def as_covariance(function: str, covariance: Tensor | Covariance, mean: object = None) -> Covariance:
    """A structure as it is; a plain tensor as `Dense`. mean: the argument whose dtype a message recommends."""
    if isinstance(covariance, Covariance):
        return covariance
    checks.floating(function, "covariance", covariance, mean.dtype if isinstance(mean, Tensor) else None)
    return Dense(covariance)


def require_one_kind(function: str, mean_name: str, mean: Tensor, given: Tensor | Covariance, covariance: Covariance) -> None:
    """Raise unless mean and covariance have the same dtype and device. given: the covariance before it became a structure."""
    parameter, remedy = next(iter(covariance.parameters.values())), None
    if isinstance(given, Covariance) and mean.dtype.itemsize > parameter.dtype.itemsize:
        remedy = f"convert one of them, for example by covariance.map(lambda t: t.to({mean.dtype}))."
    same_kind(function, mean_name, mean, "covariance", parameter, remedy)


def valid_mean(function: str, mean_name: str, mean: Tensor | None, covariance: Covariance) -> Tensor:
    """The mean as given, or as a function of the parameters of the covariance."""
    if covariance.mean is not None:
        if mean is not None:
            raise ArgumentError(
                f"{function}: a mean of shape {tuple(mean.shape)} is given, but the function of Parametric returns a mean, too; "
                "pass None for the mean, or let the function return Σ alone."
            )
        return covariance.mean
    if mean is None:
        raise ArgumentError(f"{function}: the mean is None; pass a tensor of shape (d,) or (..., d).")
    checks.floating(function, mean_name, mean, covariance.dtype)
    return mean


def require_dimension(function: str, mean_name: str, mean: Tensor, covariance: Covariance) -> None:
    """Raise unless the mean and the covariance have the same number of variables, at least one."""
    if mean.ndim == 0:
        raise ShapeError(f"{function}: {mean_name} has shape (); pass a {mean_name} of shape (d,) or (..., d).")
    d, expected = constant_size(mean), covariance.dimension
    if expected is not None and d != expected:
        matrix = covariance.matrix_shape
        form = f"(..., {expected})" if matrix is None else f"(..., {matrix[0]}, {matrix[1]})"
        raise ShapeError(
            f"{function}: {mean_name} has shape {tuple(mean.shape)}, but the covariance is of {expected} variables "
            f"({covariance!r}); pass a {mean_name} of shape ({expected},) or {form}."
        )
    if d == 0:
        raise ShapeError(f"{function}: {mean_name} has shape {tuple(mean.shape)}: there are no variables.")


def common_batch(function: str, mean_name: str, mean: Tensor, covariance: Covariance) -> Size:
    """The leading dimensions of mean and covariance, broadcast."""
    mean_batch, covariance_batch = batch_shape(mean, 1), covariance.batch
    try:
        return broadcast(mean_batch, covariance_batch)
    except RuntimeError:
        raise ShapeError(
            f"{function}: the leading dimensions of the {mean_name} {tuple(mean_batch)} and of the covariance "
            f"{tuple(covariance_batch)} do not broadcast."
        ) from None


def require_rows(function: str, x: Tensor, mean_name: str, mean: Tensor, batch: Size) -> None:
    """Raise unless x has the dtype and device of the mean, and a shape that fits it and the batch of mean and covariance."""
    checks.floating(function, "x", x, mean.dtype)
    remedy = f"convert x by x.to({mean.dtype}), or {mean_name} and covariance to {x.dtype}."
    same_kind(function, "x", x, mean_name, mean, remedy)
    require_row_shape(function, x, mean_name, mean, batch)


def require_row_shape(function: str, x: Tensor, mean_name: str, mean: Tensor, batch: Size) -> None:
    """Raise unless the shape of x fits the mean and the batch of mean and covariance."""
    d = mean.shape[-1]
    if x.ndim == 0 or x.shape[-1] != d:
        columns = x.shape[-1] if x.ndim else "no"
        raise ShapeError(
            f"{function}: {mean_name} has shape {tuple(mean.shape)}, but x, of shape {tuple(x.shape)}, has {columns} columns; "
            f"pass x of shape (n, {d})"
            + (f" or a {mean_name} of shape ({x.shape[-1]},) or (n, {x.shape[-1]})." if x.ndim else ".")
        )
    try:
        broadcast(batch_shape(x, 1), batch)
    except RuntimeError:
        raise ShapeError(
            f"{function}: x has shape {tuple(x.shape)}, but {mean_name} and covariance have the leading dimensions "
            f"{tuple(batch)}; the leading dimensions must broadcast (for a grid of n rows and these, pass x of shape "
            f"(n, {'1, ' * len(batch)}{d}))."
        ) from None


def require_mask(function: str, observed: object, d: int) -> None:
    """Raise unless `observed` is a boolean tensor."""
    if not isinstance(observed, Tensor) or observed.dtype is not torch.bool:
        got = observed.dtype if isinstance(observed, Tensor) else f"a {type(observed).__name__}"
        raise DtypeError(f"{function}: observed is {got}; expected a boolean tensor (n, {d}), True where an entry is there.")


def require_patterns(function: str, observed: Tensor, patterns: Tensor, d: int) -> None:
    """Raise unless a mask, with the variables in its last dimension, has d columns and at least one row."""
    if patterns.ndim == 0 or patterns.shape[-1] != d:
        raise ShapeError(f"{function}: observed has shape {tuple(observed.shape)}; expected (n, {d}).")
    if not patterns.numel():
        raise ShapeError(
            f"{function}: observed has shape {tuple(observed.shape)}: there are no rows to average over; pass (n, {d}) with n ≥ 1."
        )


def require_missing(function: str, missing: str | None) -> None:
    """Raise unless `missing` is None or "marginalise"."""
    if missing not in (None, "marginalise"):
        raise ArgumentError(
            f"{function}: missing is {missing!r}; expected None (NaN in x is an error) or 'marginalise' (NaN marks a missing entry, "
            "and each row is the marginal of what it observes)."
        )


def working_dtype(function: str, precision: str | None, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic."""
    if precision is None:
        return dtype
    if precision != "float64":
        raise ArgumentError(
            f"{function}: precision is {precision!r}; expected None (arithmetic in the dtype given) or 'float64' "
            "(float32 arguments are worked in float64 inside, and the results rounded)."
        )
    return torch.float64
