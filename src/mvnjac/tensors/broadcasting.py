"""Division of the leading dimensions of a batch into rows and into groups of rows that share one parameter.

Broadcasting follows torch.distributions: x (n, 1, d) with Σ (K, d, d) is a grid of n·K densities. Relative to the covariance,
n is a *row* dimension and K a *group* dimension: every product with a d×d matrix is computed per group, for all rows of the
group at once, so that a shared factor is never copied. In the common case, x (n, d) and one Σ, folding is a no-op.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Size, Tensor


class RowLayout:
    """The division of the batch `full` into rows and groups for a parameter of batch shape `param_batch`.

    `param_batch` is broadcastable to `full`. A folded array is (N, *event) if there is no group dimension, else (K, N, *event).
    """

    def __init__(self, full: Size, param_batch: Size) -> None:
        self.full, self.param_batch = Size(full), Size(param_batch)
        offset = len(full) - len(param_batch)
        self.groups = [i for i in range(len(full)) if i >= offset and param_batch[i - offset] != 1]
        self.rows = [i for i in range(len(full)) if i not in self.groups]
        self.n_rows = math.prod([full[i] for i in self.rows])
        self.group_shape = Size([math.prod([full[i] for i in self.groups])] if self.groups else [])

    def fold(self, t: Tensor, event: int = 1) -> Tensor:
        """(*batch broadcastable to full, *event) → (K?, N, *event)."""
        shape = _event(t, event)
        t = t.expand((*self.full, *shape))
        if self.groups:
            order = [*self.groups, *self.rows]
            t = t.permute((*order, *range(len(self.full), t.ndim)))
        return t.reshape((*self.group_shape, self.n_rows, *shape))

    def unfold(self, t: Tensor, event: int = 1) -> Tensor:
        """(K?, N, *event) → (*full, *event)."""
        shape = _event(t, event)
        if not self.groups:
            return t.reshape((*self.full, *shape))
        order = [*self.groups, *self.rows]
        t = t.reshape((*(self.full[i] for i in order), *shape))
        inverse = [order.index(i) for i in range(len(order))]
        return t.permute((*inverse, *range(len(order), t.ndim)))

    def fold_params(self, t: Tensor, event: int) -> Tensor:
        """An array of the parameter (*batch broadcastable to param_batch, *event) → (K?, *event)."""
        shape = _event(t, event)
        return t.expand((*self.param_batch, *shape)).reshape((*self.group_shape, *shape))

    def unfold_params(self, t: Tensor, event: int) -> Tensor:
        """An array already summed over the rows, (K?, *event) → (*param_batch, *event)."""
        return t.reshape((*self.param_batch, *_event(t, event)))


def refolded(
    function: Callable[[Tensor, RowLayout], Tensor], rows: Tensor, layout: RowLayout, param_batch: Size, event: int = 1
) -> Tensor:
    """Apply a function that needs the rows folded for another parameter, of batch `param_batch`, and fold the result back.

    This avoids copying a parameter of a small batch to each row when another parameter differs from row to row.
    """
    if layout.param_batch == param_batch:
        return function(rows, layout)
    inner = RowLayout(layout.full, param_batch)
    result = function(inner.fold(layout.unfold(rows, event), event), inner)
    return layout.fold(inner.unfold(result, event), event)


def stacked(t: Tensor, dim: int) -> Tensor:
    """Merge dimension `dim` (negative) with the next one: (..., N, m, q) → (..., N m, q) for −3."""
    before, after = t.shape[:dim], t.shape[t.ndim + dim + 2 :]
    return t.reshape(
        (*before, t.shape[dim] * t.shape[dim + 1], *after)
    )  # autograd's internal vmap has no batching rule for flatten


def batch_shape(t: Tensor, event: int) -> Size:
    """The leading dimensions, without the last `event` ones."""
    return t.shape[: t.ndim - event]


def broadcast(*shapes: Size) -> Size:
    """torch.broadcast_shapes, without its overhead if there is nothing to broadcast."""
    distinct: list[Size] = []  # a list, not a set: under torch.jit.trace sizes are tensors
    for shape in shapes:
        if shape and shape not in distinct:
            distinct.append(shape)
    return torch.broadcast_shapes(*distinct) if len(distinct) > 1 else Size(distinct[0] if distinct else ())


def sum_to(t: Tensor, batch: Size, event: int) -> Tensor:
    """Sum t over its leading dimensions to the batch shape `batch`, as autograd does for a broadcast argument."""
    shape = Size((*batch, *_event(t, event)))
    return t if t.shape == shape else t.sum_to_size(shape)


def over_event(weights: Tensor, event: int) -> Tensor:
    """Append `event` dimensions of size 1, so that one number per batch entry multiplies arrays with event dimensions."""
    return weights.reshape((*weights.shape, *(1,) * event))


def narrow(t: Tensor, full: Size, event: int, dim: int, index: slice | Tensor) -> Tensor:
    """Select along dimension `dim` of the full batch; an array that is broadcast along it is returned unchanged."""
    batch = batch_shape(t, event)
    axis = dim - (len(full) - len(batch))
    if axis < 0 or batch[axis] == 1 != full[dim]:
        return t
    if isinstance(index, slice):
        return t[(slice(None),) * axis + (index,)]
    return t.index_select(axis, index)


def _event(t: Tensor, event: int) -> Size:
    return t.shape[t.ndim - event :]
