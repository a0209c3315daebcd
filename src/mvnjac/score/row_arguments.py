"""The arguments of a Jacobian's methods: rows, weights, directions, outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor

from mvnjac.errors import ArgumentError, ShapeError
from mvnjac.tables.arrays import as_tensor
from mvnjac.tensors.broadcasting import RowLayout


def row_weights(weights: Tensor | None, name: str, batch: Size, param_batch: Size, dtype: torch.dtype) -> Tensor | None:
    """The weights in a shape that broadcasts with the batch: one per row, or one per entry of the batch."""
    if weights is None:
        return None
    weights = as_tensor("J", name, weights)
    if not isinstance(weights, Tensor):
        raise ShapeError(f"{name} is a {type(weights).__name__}; pass a tensor of shape {tuple(batch)}.")
    rows = RowLayout(batch, param_batch).rows
    weights = weights.to(dtype)
    if weights.shape == batch:
        return weights
    if weights.shape == Size(batch[i] for i in rows):
        return weights.reshape([length if i in rows else 1 for i, length in enumerate(batch)])
    if weights.ndim == len(batch) and all(a in (1, b) for a, b in zip(weights.shape, batch, strict=True)):
        return weights.expand(batch)
    raise ShapeError(f"{name} has shape {tuple(weights.shape)}; expected one number per row: {tuple(batch)}.")


def require_counts(function: str, weights: Tensor) -> None:
    """Raise unless weights (n,) are valid as numbers of occurrences: finite, not negative and not all 0."""
    invalid = ~(weights >= 0) | weights.isinf()
    if bool(invalid.any()) or not bool((weights > 0).any()):
        row = int(invalid.nonzero()[0]) if bool(invalid.any()) else 0
        weight = weights[row].item()
        raise ArgumentError(
            f"{function}: the weight of row {row} is {weight!r}; weights must be finite and not negative, not all 0."
        )


def direction(v: Tensor, size: int) -> Tensor:
    """The direction v of `matvec`, validated."""
    if not isinstance(v, Tensor) or v.ndim == 0 or v.shape[-1] != size:
        got = f"has shape {tuple(v.shape)}" if isinstance(v, Tensor) else f"is a {type(v).__name__}"
        raise ShapeError(f"matvec: v {got}; expected a tensor of shape ({size},), one number per column.")
    return v


def _index_dtype(key: Any) -> torch.dtype:
    """The dtype of a mask or of row numbers."""
    if isinstance(key, Tensor):
        return key.dtype
    if key and all(isinstance(i, bool) for i in key):
        return torch.bool
    return torch.float64 if any(isinstance(i, float) for i in key) else torch.long


def row_index(key: object, batch: Size, device: torch.device) -> slice | Tensor:
    """The rows that J[key] selects along the first dimension, as a slice or as non-negative row numbers."""
    if not batch:
        raise ShapeError("J[...]: this is the Jacobian of a single observation x (d,); there are no rows to select.")
    if isinstance(key, slice):
        if key.step is not None and key.step < 1:
            raise ArgumentError(f"J[{key.start}:{key.stop}:{key.step}]: the step must be positive.")
        return key
    numbers = isinstance(key, list | tuple) and all(isinstance(i, int | float) for i in key)
    if not numbers and not (isinstance(key, Tensor) and key.ndim == 1):
        raise ArgumentError(
            f"J[{key!r}]: expected the name of a parameter, a slice of rows such as J[0:10], a list or tensor of row "
            "numbers, or a boolean mask."
        )
    index = torch.as_tensor(key, dtype=_index_dtype(key), device=device)
    if index.dtype is torch.bool:
        if index.shape != batch[:1]:
            raise ShapeError(f"J[mask]: the mask has shape {tuple(index.shape)}; expected ({batch[0]},).")
        return index.nonzero().squeeze(-1)
    if index.is_floating_point() and index.numel():
        raise ArgumentError(f"J[...]: row numbers must be integers, got {index.dtype}.")
    index = index.long()
    outside = index[(index < -batch[0]) | (index >= batch[0])]
    if outside.numel():
        raise ArgumentError(f"J[...]: row {int(outside[0])} does not exist; there are {batch[0]} rows.")
    return torch.where(index < 0, index + batch[0], index)


def check_out(out: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device, is_traced: bool) -> None:
    """Raise unless `out` can hold the result: the same shape, dtype and device, and no autograd graph."""
    if is_traced:
        raise ArgumentError(
            "matrix: out= cannot carry gradients, but the arguments require them; detach the arguments, call under "
            "torch.no_grad(), or omit out=."
        )
    if tuple(out.shape) != tuple(shape) or out.dtype != dtype or out.device != device:
        raise ShapeError(
            f"matrix: out has shape {tuple(out.shape)}, {out.dtype}, on {out.device}; expected shape {tuple(shape)}, "
            f"{dtype}, on {device}."
        )
