"""The derivative by one parameter of rows with missing entries: that of complete rows at the imputed residual, and a shift.

The shift is a constant of each pattern, ½ (I − Π) in whitened coordinates (`missing/incomplete_residuals.py`), brought to the
parameter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Size, Tensor

from mvnjac.blocks.base import Block
from mvnjac.blocks.outer import Outer
from mvnjac.covariance import dense_parameters
from mvnjac.covariance.maps.autodiff import AutodiffMaps
from mvnjac.covariance.maps.whitened import WhitenedMaps
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.kernels.reference import Patterns
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.tensors.broadcasting import batch_shape, over_event, sum_to
from mvnjac.tensors.tracing import is_traced

#: rows whose shifts are added to a matrix at a time
_ROWS = 1024


def incomplete_block(name: str, rows: IncompleteResiduals) -> Block:
    """The derivative by a parameter of the covariance, or by one of any dense parametrisation."""
    covariance, own = rows.covariance, name in rows.covariance.fields
    if own and rows.groups:
        i, inner = covariance.in_group(name)
        group = rows.groups[i]
        if isinstance(group, IncompleteResiduals):
            return incomplete_block(inner, group)
        return covariance.groups(rows.factor)[i][1].pullback(inner, group)
    if own and rows.keeps_form:
        return rows.marginals.block(name, covariance.coordinates_of(name, rows.d))
    factor = rows.factor.dense()
    owner = type(covariance) if own else dense_parameters()[name]
    if not issubclass(owner, DenseParametrisation):
        definition = AutodiffMaps(covariance, rows.mean, factor, [name])
        complete, local = covariance.pullback(name, rows), covariance.local.get(name, ())
        return IncompleteBlock(
            complete, rows, lambda M: definition.vjp(None, M)[name], lambda v: definition.jvp({name: v})[1], local
        )
    maps = WhitenedMaps(rows.mean, factor, [name], [owner])
    complete = owner.pullback(name, rows if own else rows.densely())

    def gradient(M: Tensor) -> Tensor:
        gradients = maps.projected(owner, owner.adjoint(factor, M))
        return gradients[name] if name in gradients else M.new_zeros((*M.shape[:-2], *complete.coordinates.shape))

    return IncompleteBlock(complete, rows, gradient, lambda v: owner.differential(factor, {name: v}), owner.local.get(name, ()))


class IncompleteBlock(Block):
    """A block of complete rows, and a shift.

    Args:
        complete: the formula for complete rows, at the imputed residuals.
        rows: the rows with missing entries.
        gradient: (..., d, d) a gradient in whitened coordinates → the full gradient by the parameter.
        change: a change of the parameter → (..., d, d) the change in whitened coordinates.
        local: the axes along which an entry concerns one variable alone: it is 0 where that one is missing.
    """

    def __init__(
        self,
        complete: Block,
        rows: IncompleteResiduals,
        gradient: Callable[[Tensor], Tensor],
        change: Callable[[Tensor], Tensor],
        local: tuple[int, ...],
    ) -> None:
        self.coordinates, self.batch = complete.coordinates, rows.batch
        self._complete, self._rows = complete, rows
        self._gradient, self._change, self._local = gradient, change, local
        self._event = len(self.coordinates.shape)

    def full(self) -> Tensor:
        shift, pattern = self._shifts()
        moved = self._complete.full() + self._unfolded(shift if pattern is None else self._of_rows(shift, pattern))
        return moved * self._kept(self._rows.observed)

    def unique(self, out: Tensor | None = None) -> Tensor:
        plain = len(self.batch) == 1 and self._rows.grouped and not self._rows.layout.groups
        if out is None and (not plain or is_traced(self._complete_entry(), *self._rows.factor.tensors())):
            return self.coordinates.pack_gradient(self.full())
        if out is None:
            out = self._complete_entry().new_empty((*self.batch, self.coordinates.size))
        if not plain:
            return out.copy_(self.coordinates.pack_gradient(self.full()))
        pattern = self._rows.patterns
        chunks = self._rows.shifts_by_chunks()  # all of them, d×d each, would be many times larger than what is kept
        packed = torch.cat([self.coordinates.pack_gradient(self._gradient(M)) for M in chunks])
        if isinstance(self._complete, Outer) and not is_traced(packed):
            patterns = Patterns(pattern, self._rows.mask, 0 in self._local, 1 in self._local)
            if self._complete.by_kernel(packed + self.coordinates.pack_gradient(self._complete.constant), out, patterns):
                return out
        self._complete.unique(out)
        for first in range(0, self.batch[0], _ROWS):
            at = slice(first, first + _ROWS)
            out[at] += packed[pattern[at]]
            out[at] *= self.coordinates.pack(self._kept(self._rows.mask[at]))
        return out

    def entries(self, positions: Tensor) -> Tensor:
        shift, pattern = self._shifts()
        some = self.coordinates.all_entries().pack(shift)[..., positions]
        more = some if pattern is None else some.index_select(-2, pattern)
        entries = self._complete.entries(positions) + self._rows.layout.unfold(more, 1)
        kept = self.coordinates.all_entries().pack(self._kept(self._rows.mask))[..., positions]
        return entries * self._rows.layout.unfold(kept.expand((*self._rows.layout.group_shape, *kept.shape)), 1)

    def partial(self, weights: Tensor | None, param_batch: Size) -> tuple[Tensor, ...]:
        return (self.total(weights, param_batch),)

    def complete(self, partial: tuple[Tensor, ...], param_batch: Size) -> Tensor:
        return partial[0]

    def total(self, weights: Tensor | None, param_batch: Size) -> Tensor:
        rows = self._rows
        weights = None if weights is None else weights.expand(self.batch)
        within = rows.layout.param_batch
        fits = (
            rows.grouped
            and len(param_batch) <= len(within)
            and all(a in (1, b) for a, b in zip(param_batch[::-1], within[::-1], strict=False))
        )
        if not fits:
            full = self.full()
            return sum_to(full if weights is None else full * over_event(weights, self._event), param_batch, self._event)
        shift = sum_to(self._gradient(rows.summed_shift(weights)), param_batch, self._event)
        total = self._complete.total(weights, param_batch) + shift.expand(
            (*param_batch, *shift.shape[shift.ndim - self._event :])
        )
        return total * self._kept(rows.mask.any(0))

    def matvec(self, direction: Tensor) -> Tensor:
        rows, own = self._rows, self._rows.layout.param_batch
        batch = batch_shape(direction, self._event)
        if rows.grouped and (
            len(batch) > len(own) or any(a not in (1, b) for a, b in zip(batch[::-1], own[::-1], strict=False))
        ):
            product = self.full() * direction
            return product.sum(tuple(range(-self._event, 0))) if self._event else product
        K = self._change(self.coordinates.project(direction))
        fold = rows.layout.fold_params if rows.grouped else rows.layout.fold
        K = fold(K, 2)
        trace, parts = K.diagonal(dim1=-2, dim2=-1).sum(-1), []
        for chains, T in rows.rotations:
            on_diagonal = ((T @ (K.unsqueeze(-3) if rows.grouped else K)) * T).sum(-1)
            parts.append(torch.where(chains.mask, on_diagonal.unsqueeze(-2), 0).sum(-1))
        observed = rows.gathered(parts, 0)
        trace = rows.layout.unfold_params(trace, 0) if rows.grouped else rows.layout.unfold(trace, 0)
        return (self._complete.matvec(direction) + 0.5 * (trace - observed)) * rows.observed.any(-1)

    # --- shifts ----------------------------------------------------------------------------------------------------

    def _shifts(self) -> tuple[Tensor, Tensor | None]:
        """(G?, P, *shape) of the patterns, and (N,) which one a row has; or of each row, (N, *shape)."""
        rows, layout = self._rows, self._rows.layout
        M, pattern = rows.shifts()
        if pattern is None:
            return layout.fold(self._gradient(layout.unfold(M, 2)), self._event), None
        own = layout.param_batch
        first = M.reshape((*own, *M.shape[-3:])).movedim(len(own), 0)
        shift = self._gradient(first).movedim(0, len(own))
        return shift.reshape((*layout.group_shape, *shift.shape[len(own) :])), pattern

    def _of_rows(self, shift: Tensor, pattern: Tensor) -> Tensor:
        return shift.index_select(shift.ndim - self._event - 1, pattern)

    def _unfolded(self, shift: Tensor) -> Tensor:
        return self._rows.layout.unfold(shift, self._event)

    # --- zeros -----------------------------------------------------------------------------------------------------

    def _kept(self, observed: Tensor) -> Tensor:
        """(..., d) → (..., *shape): 1, and 0 where a variable that an entry concerns is missing, or all are."""
        kept = observed.any(-1).reshape((*observed.shape[:-1], *(1,) * self._event)).to(self._rows.mean.dtype)
        for axis in self._local:
            shape = [1] * self._event
            shape[axis] = observed.shape[-1]
            kept = kept * observed.reshape((*observed.shape[:-1], *shape))
        return kept.expand((*observed.shape[:-1], *self.coordinates.shape))

    def _complete_entry(self) -> Tensor:
        return self._rows.scaled
