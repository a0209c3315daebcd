"""The derivative of rows with missing entries with respect to a parameter: that of complete rows plus a constant per pattern.

The derivative of complete rows is evaluated at the imputed residuals. The constant is ½ (I − Π) in whitened coordinates
(`missing/incomplete_residuals.py`), mapped to the parameter.
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
from mvnjac.missing.pattern_shifts import shifts, shifts_in_chunks, summed_shift
from mvnjac.missing.unchunked import UnchunkedBlock, reduces_to
from mvnjac.tensors.broadcasting import batch_shape, sum_to
from mvnjac.tensors.tracing import is_traced

#: rows whose shifts are added to a matrix at a time
_ROWS = 1024


def incomplete_block(name: str, rows: IncompleteResiduals) -> Block:
    """The derivative with respect to a parameter of the covariance, or of any dense parametrisation."""
    covariance, in_covariance = rows.covariance, name in rows.covariance.fields
    if in_covariance and rows.variable_groups:
        i, inner = covariance.in_group(name)
        group = rows.variable_groups[i]
        if isinstance(group, IncompleteResiduals):
            return incomplete_block(inner, group)
        return covariance.groups(rows.factor)[i][1].pullback(inner, group)
    if in_covariance and rows.keeps_form:
        return rows.marginals.block(name, covariance.coordinates_of(name, rows.d))
    factor = rows.factor.dense()
    owner = type(covariance) if in_covariance else dense_parameters()[name]
    if not issubclass(owner, DenseParametrisation):
        maps = AutodiffMaps(covariance, rows.mean, factor, [name])
        complete, local = covariance.pullback(name, rows), covariance.local.get(name, ())
        return IncompleteBlock(complete, rows, lambda M: maps.vjp(None, M)[name], lambda v: maps.jvp({name: v})[1], local)
    whitened = WhitenedMaps(rows.mean, factor, [name], [owner])
    complete = owner.pullback(name, rows if in_covariance else rows.densely())

    def gradient(M: Tensor) -> Tensor:
        gradients = whitened.projected(owner, owner.adjoint(factor, M))
        return gradients[name] if name in gradients else M.new_zeros((*M.shape[:-2], *complete.coordinates.shape))

    return IncompleteBlock(complete, rows, gradient, lambda v: owner.differential(factor, {name: v}), owner.local.get(name, ()))


class IncompleteBlock(UnchunkedBlock):
    """A block of complete rows plus the shift of each pattern.

    Args:
        complete: the block of complete rows, at the imputed residuals.
        rows: the rows with missing entries.
        gradient: maps a gradient in whitened coordinates (..., d, d) to the full gradient with respect to the parameter.
        change: maps a change of the parameter to the change in whitened coordinates (..., d, d).
        local: the axes of the parameter that run over the variables; an entry is 0 if its variable is missing.
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
        by_row = shift if pattern is None else shift.index_select(shift.ndim - self._event - 1, pattern)
        return (self._complete.full() + self._rows.layout.unfold(by_row, self._event)) * self._nonzero(self._rows.observed)

    def unique(self, out: Tensor | None = None) -> Tensor:
        one_density = len(self.batch) == 1 and self._rows.grouped and not self._rows.layout.groups
        if out is None and (not one_density or is_traced(self._rows.scaled, *self._rows.factor.tensors())):
            return self.coordinates.pack_gradient(self.full())
        if out is None:
            out = self._rows.scaled.new_empty((*self.batch, self.coordinates.size))
        if not one_density:
            return out.copy_(self.coordinates.pack_gradient(self.full()))
        pattern = self._rows.row_patterns
        chunks = shifts_in_chunks(self._rows)  # the d×d shifts of all patterns together need much more memory than `packed`
        packed = torch.cat([self.coordinates.pack_gradient(self._gradient(M)) for M in chunks])
        if isinstance(self._complete, Outer) and not is_traced(packed):
            patterns = Patterns(pattern, self._rows.mask, 0 in self._local, 1 in self._local)
            if self._complete.by_kernel(packed + self.coordinates.pack_gradient(self._complete.constant), out, patterns):
                return out
        self._complete.unique(out)
        for first in range(0, self.batch[0], _ROWS):
            at = slice(first, first + _ROWS)
            out[at] += packed[pattern[at]]
            out[at] *= self.coordinates.pack(self._nonzero(self._rows.mask[at]))
        return out

    def entries(self, positions: Tensor) -> Tensor:
        shift, pattern = self._shifts()
        layout, entries = self._rows.layout, self.coordinates.all_entries()
        shift = entries.pack(shift)[..., positions]
        by_row = shift if pattern is None else shift.index_select(-2, pattern)
        nonzero = entries.pack(self._nonzero(self._rows.mask))[..., positions]
        shifted = self._complete.entries(positions) + layout.unfold(by_row, 1)
        return shifted * layout.unfold(nonzero.expand((*layout.group_shape, *nonzero.shape)), 1)

    def total(self, weights: Tensor | None, param_batch: Size) -> Tensor:
        rows, weights = self._rows, None if weights is None else weights.expand(self.batch)
        if not (rows.grouped and reduces_to(rows.layout.param_batch, param_batch)):
            return self._total_of_full(weights, param_batch)
        shift = sum_to(self._gradient(summed_shift(rows, weights)), param_batch, self._event)
        shift = shift.expand((*param_batch, *shift.shape[shift.ndim - self._event :]))
        return (self._complete.total(weights, param_batch) + shift) * self._nonzero(rows.mask.any(0))

    def matvec(self, direction: Tensor) -> Tensor:
        rows, layout = self._rows, self._rows.layout
        if rows.grouped and not reduces_to(layout.param_batch, batch_shape(direction, self._event)):
            return self._matvec_of_full(direction)
        K = self._change(self.coordinates.project(direction))
        K = layout.fold_params(K, 2) if rows.grouped else layout.fold(K, 2)
        trace, parts = K.diagonal(dim1=-2, dim2=-1).sum(-1), []
        for factored, T in rows.rotations:
            on_diagonal = ((T @ (K.unsqueeze(-3) if rows.grouped else K)) * T).sum(-1)
            parts.append(torch.where(factored.mask, on_diagonal.unsqueeze(-2), 0).sum(-1))
        observed = rows.to_rows(parts, 0)
        trace = layout.unfold_params(trace, 0) if rows.grouped else layout.unfold(trace, 0)
        return (self._complete.matvec(direction) + 0.5 * (trace - observed)) * rows.observed.any(-1)

    def _shifts(self) -> tuple[Tensor, Tensor | None]:
        """(G?, P, *shape) the shift of each pattern and (N,) each row's pattern; for separate rows (N, *shape) and None."""
        layout = self._rows.layout
        M, pattern = shifts(self._rows)
        if pattern is None:
            return layout.fold(self._gradient(layout.unfold(M, 2)), self._event), None
        dims = len(layout.param_batch)
        by_pattern = M.reshape((*layout.param_batch, *M.shape[-3:])).movedim(dims, 0)
        shift = self._gradient(by_pattern).movedim(0, dims)
        return shift.reshape((*layout.group_shape, *shift.shape[dims:])), pattern

    def _nonzero(self, observed: Tensor) -> Tensor:
        """Observed entries (..., d) → (..., *shape): 0 if a variable of a local axis is missing, or if all are; else 1."""
        result = observed.any(-1).reshape((*observed.shape[:-1], *(1,) * self._event)).to(self._rows.mean.dtype)
        for axis in self._local:
            shape = [1] * self._event
            shape[axis] = observed.shape[-1]
            result = result * observed.reshape((*observed.shape[:-1], *shape))
        return result.expand((*observed.shape[:-1], *self.coordinates.shape))
