"""The derivative with respect to a matrix as an outer product plus a constant: the block of each row is c u vᵀ + O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Size, Tensor

from mvnjac.blocks.base import MatrixBlock
from mvnjac.kernels import cpu, cuda, planner
from mvnjac.kernels.reference import Form, PackedProduct, Patterns
from mvnjac.linalg.symmetric_products import rows_times, symmetrised
from mvnjac.parameters.coordinates import Coordinates, Triangle
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, sum_to
from mvnjac.tensors.tracing import is_on_host, is_traced


@dataclass(eq=False)
class Outer(MatrixBlock):
    """coefficient · left rightᵀ (+ its transpose if `both`) + offset_scale · offset, in the entries that can vary.

    For symmetric parameters the result is symmetric.

    Attributes:
        left: (*batch, m).
        right: (*batch, k).
        offset: (*param_batch, m, k), shared by the rows.
        coordinates: of the parameter.
        coefficient: of the product.
        both: whether the transpose of the product is added.
        diagonal: (*param_batch, m), multiplies the diagonal of the product, but not of the offset; None for 1.
        offset_scale: of the offset; the scaled offset is formed only if needed by itself.
    """

    left: Tensor
    right: Tensor
    offset: Tensor
    coordinates: Coordinates
    coefficient: float = 1.0
    both: bool = False
    diagonal: Tensor | None = None
    offset_scale: float = 1.0

    @property
    def batch(self) -> Size:  # type: ignore[override]
        return batch_shape(self.left, 1)

    @property
    def constant(self) -> Tensor:
        """(*param_batch, m, k) the constant that is added to the product."""
        return self.offset if self.offset_scale == 1 else self.offset_scale * self.offset

    def full(self) -> Tensor:
        left, right = self.left.unsqueeze(-1), self.right.unsqueeze(-2)
        if self.both or self.diagonal is not None:
            return self._assemble(left * right)
        return self.coordinates.project(torch.addcmul(self.constant, left, right, value=self.coefficient))

    def entries(self, positions: Tensor) -> Tensor:
        rows, columns = positions // self.coordinates.shape[1], positions % self.coordinates.shape[1]
        product = self.left[..., rows] * self.right[..., columns]
        if self.both:
            product = product + self.right[..., rows] * self.left[..., columns]
        if self.diagonal is not None:
            product = torch.where(rows == columns, product * self.diagonal[..., rows], product)
        entries = self.coefficient * product + self.constant.flatten(-2)[..., positions]
        free = self.coordinates.free(positions)
        return entries if free is None else torch.where(free, entries, 0)

    def unique(self, out: Tensor | None = None) -> Tensor:
        if not isinstance(self.coordinates, Triangle):
            if out is None:
                return self.full().flatten(-2)
            left, right = self.left.unsqueeze(-1), self.right.unsqueeze(-2)
            torch.addcmul(self.constant, left, right, value=self.coefficient, out=out.unflatten(-1, self.coordinates.shape))
            return out
        offset = self.coordinates.pack_gradient(self.constant)
        if out is None and is_traced(self.left, self.right, self.offset):
            return torch.cat([self._slice(offset[..., at], terms) for at, *terms in self._slices()], -1)
        if out is None:
            out = self.left.new_empty(*self.batch, self.coordinates.size)
        if self.by_kernel(offset, out):
            return out
        # the left and right vectors of a chunk fit in the cache
        size = self.left.shape[-1] * self.left.element_size()
        for rows in self._row_chunks(max(1000, planner.CACHE_BYTES // max(1, size))):
            chunk = replace(self, left=self.left[rows], right=self.right[rows])
            for at, *terms in chunk._slices():
                self._slice(offset[..., at], terms, out=out[rows][..., at])
        return out

    def by_kernel(self, offset: Tensor, out: Tensor, patterns: Patterns | None = None) -> bool:
        """`unique` by a kernel; False if none supports the operands. offset: packed; shared, per row, or per pattern."""
        if not isinstance(self.coordinates, Triangle) or out.ndim != 2:
            return False
        form = Form(self.coefficient, self.both, self.coordinates.mirrored, not self.coordinates.diagonal)
        operands = PackedProduct(self.left, self.right, offset, out, form, self.diagonal, patterns)
        return cuda.packed(operands) or cpu.packed(operands)

    def partial(self, weights: Tensor | None, param_batch: Size) -> tuple[Tensor, ...]:
        layout = self._layout(param_batch)
        left, right = layout.fold(self.left), layout.fold(self.right)
        if weights is None:
            count = left.new_full((), layout.n_rows)
        else:
            folded = layout.fold(weights, 0)
            left, count = left * folded.unsqueeze(-1), folded.sum(-1)
        return left.mT @ right, count

    def complete(self, partial: tuple[Tensor, ...], param_batch: Size) -> Tensor:
        product, count = self._product_and_count(partial, param_batch)
        if self.coordinates.mirrored and not self.both:
            product = symmetrised(product)
        return sum_to(self._assemble(product, count), param_batch, 2)

    def total(self, weights: Tensor | None, param_batch: Size) -> Tensor:
        """For an unweighted sum without tracing in one matrix product, with fewer passes over d×d arrays."""
        layout = self._layout(param_batch)
        one_product = weights is None and not self.both and self.diagonal is None and self.offset.ndim == 2
        if not one_product or param_batch or layout.param_batch or is_traced(self.left, self.right, self.offset):
            return super().total(weights, param_batch)
        left, right = layout.fold(self.left), layout.fold(self.right)
        count = self.offset_scale * layout.n_rows
        offset = self.offset
        if self.coordinates.mirrored and not offset.is_contiguous():
            offset = offset.mT  # equal by symmetry, and contiguous
        product = torch.addmm(offset, left.mT, right, beta=count, alpha=self.coefficient)
        return self.coordinates.project(symmetrised(product) if self.coordinates.mirrored else product)

    def matvec(self, direction: Tensor) -> Tensor:
        direction = self.coordinates.project(direction)
        constant = (self.constant * direction).sum((-2, -1))
        direction = self._scale_diagonal(direction)
        layout = RowLayout(self.batch, batch_shape(direction, 2))
        product = rows_times(layout.fold(self.left), layout.fold_params(direction, 2))
        product = layout.unfold((product * layout.fold(self.right)).sum(-1), 0)
        factor = 2 * self.coefficient if self.both else self.coefficient  # `both`: the direction is symmetric
        return factor * product + constant

    @staticmethod
    def _slice(offset: Tensor, terms: list[tuple[Tensor, Tensor]], out: Tensor | None = None) -> Tensor:
        for u, v in terms:
            offset = torch.addcmul(offset, u, v, out=out) if out is not None else torch.addcmul(offset, u, v)
        return offset

    def _slices(self) -> Iterator[tuple[Any, ...]]:
        """(slice, (u, v), …) for each column of the triangle, whose elements are the sum of the products u v.

        u is (*batch, m) and v (*batch, 1): the elements of a column share the right factor, so that one multiply-add per column
        writes a contiguous slice of every row, without an n×d×d array.
        """
        terms = [self._columns(self.left, self.right)]
        if self.both:
            terms.append(self._columns(self.right, self.left))
        first = 0
        for column in zip(*terms, strict=True):
            length = column[0][0].shape[-1]
            yield slice(first, first + length), *column
            first += length

    def _columns(self, left: Tensor, right: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The left factors below (and on) the diagonal, multiplied by the multiplicities, and the right factor of each column.

        One working copy of the left factors is multiplied by the off-diagonal multiplicity. Entry j is a diagonal element only
        in column j and is not used by later columns, so that it is rescaled in place in column j.
        """
        assert isinstance(self.coordinates, Triangle)
        d, mirrored, diagonal = self.coordinates.d, self.coordinates.mirrored, self.coordinates.diagonal
        below = (2 if mirrored else 1) * self.coefficient
        uniform = not mirrored and self.diagonal is None  # the diagonal has the same factor
        work = left * below if below != 1 else left if uniform else left.clone()
        in_place = not is_traced(left, right, self.offset)
        for j in range(d if diagonal else d - 1):
            if not diagonal:
                u = work[..., j + 1 :]
            elif uniform:
                u = work[..., j:]
            else:
                entry = left[..., j : j + 1] * self.coefficient
                entry = entry if self.diagonal is None else entry * self.diagonal[..., j : j + 1]
                if in_place:
                    work[..., j : j + 1] = entry
                    u = work[..., j:]
                else:
                    u = torch.cat([entry, work[..., j + 1 :]], -1)
            yield u, right[..., j : j + 1]

    def _assemble(self, product: Tensor, count: Tensor | float = 1.0) -> Tensor:
        """The sum of blocks from `product` = Σ left rightᵀ over `count` rows (or total weight); in place unless traced."""
        if self.both:
            product = product + product.mT
        product = self._scale_diagonal(product)
        if is_traced(product, self.offset) or product.shape != torch.broadcast_shapes(product.shape, self.offset.shape):
            return self.coordinates.project(self.coefficient * product + count * self.constant)
        product = product if self.coefficient == 1 else product.mul_(self.coefficient)
        if isinstance(count, Tensor) and count.numel() == 1 and is_on_host(count):
            count = float(count)
        if not isinstance(count, Tensor):
            return self.coordinates.project(product.add_(self.offset, alpha=self.offset_scale * count))
        summed = product.addcmul_(self.offset, count, value=self.offset_scale)
        return self.coordinates.project(summed)

    def _scale_diagonal(self, full: Tensor) -> Tensor:
        if self.diagonal is None:
            return full
        on_diagonal = torch.eye(full.shape[-1], dtype=torch.bool, device=full.device)
        return torch.where(on_diagonal, full * self.diagonal.unsqueeze(-1), full)
