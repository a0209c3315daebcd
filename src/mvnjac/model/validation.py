"""Checks of shapes, dtypes, devices and options: of mean and covariance, and of x against both."""

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
    """The covariance; a plain tensor is wrapped in `Dense`. mean: the argument whose dtype an error message recommends."""
    if isinstance(covariance, Covariance):
        return covariance
    checks.floating(function, "covariance", covariance, mean.dtype if isinstance(mean, Tensor) else None)
    return Dense(covariance)


def require_same_kind(function: str, mean_name: str, mean: Tensor, covariance: Covariance, is_structure: bool) -> None:
    """Raise unless mean and covariance have the same dtype and device. is_structure: the user passed no plain tensor."""
    parameter, remedy = next(iter(covariance.parameters.values())), None
    if is_structure and mean.dtype.itemsize > parameter.dtype.itemsize:
        remedy = f"convert one of them, for example by covariance.map(lambda t: t.to({mean.dtype}))."
    same_kind(function, mean_name, mean, "covariance", parameter, remedy)


def valid_mean(function: str, mean_name: str, mean: Tensor | None, covariance: Covariance) -> Tensor:
    """The mean, either the argument or the function of the covariance's parameters."""
    if covariance.mean is not None:
        if mean is not None:
            raise ArgumentError(
                f"{function}: got a mean of shape {tuple(mean.shape)}, but the function of Parametric returns a mean, too; "
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
    """Raise unless x has the dtype and device of the mean, and its shape matches the mean and the batch."""
    checks.floating(function, "x", x, mean.dtype)
    remedy = f"convert x by x.to({mean.dtype}), or {mean_name} and covariance to {x.dtype}."
    same_kind(function, "x", x, mean_name, mean, remedy)
    require_row_shape(function, x, mean_name, mean, batch)


def require_row_shape(function: str, x: Tensor, mean_name: str, mean: Tensor, batch: Size) -> None:
    """Raise unless x has as many columns as the mean, and its leading dimensions broadcast with the batch."""
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
            f"{tuple(batch)}; the leading dimensions must broadcast (to evaluate n rows at each of these, pass x of "
            f"shape (n, {'1, ' * len(batch)}{d}))."
        ) from None


def require_mask(function: str, observed: object, d: int) -> None:
    """Raise unless `observed` is a boolean tensor."""
    if not isinstance(observed, Tensor) or observed.dtype is not torch.bool:
        got = observed.dtype if isinstance(observed, Tensor) else f"a {type(observed).__name__}"
        raise DtypeError(f"{function}: observed is {got}; expected a boolean tensor (n, {d}), True where an entry is observed.")


def require_patterns(function: str, observed: Tensor, patterns: Tensor, d: int) -> None:
    """Raise unless the mask has d columns and at least one row. patterns: the mask with the variables in its last dimension."""
    if patterns.ndim == 0 or patterns.shape[-1] != d:
        raise ShapeError(f"{function}: observed has shape {tuple(observed.shape)}; expected (n, {d}).")
    if not patterns.numel():
        raise ShapeError(
            f"{function}: observed has shape {tuple(observed.shape)}: there are no rows; expected (n, {d}) with n ≥ 1."
        )


def require_missing(function: str, missing: str | None) -> None:
    """Raise unless `missing` is None or "marginalise"."""
    if missing not in (None, "marginalise"):
        raise ArgumentError(
            f"{function}: missing is {missing!r}; expected None (NaN in x is an error) or 'marginalise' (NaN marks a missing "
            "entry, and each row has the marginal density of its observed entries)."
        )


def working_dtype(function: str, precision: str | None, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic."""
    if precision is None:
        return dtype
    if precision != "float64":
        raise ArgumentError(
            f"{function}: precision is {precision!r}; expected None (computations in the dtype of the arguments) or "
            "'float64' (float32 arguments are converted to float64, and the results are rounded to float32)."
        )
    return torch.float64
