"""The derivative with respect to a matrix as a Gram matrix, ½ Σ v vᵀ over a few vectors per row, plus a constant."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Size, Tensor

from mvnjac.blocks.base import MatrixBlock
from mvnjac.kernels import planner
from mvnjac.linalg.symmetric_products import rows_times, symmetrised
from mvnjac.parameters.coordinates import Triangle
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, over_event, stacked, sum_to
from mvnjac.tensors.tracing import is_traced


@dataclass(eq=False)
class Gram(MatrixBlock):
    """½ Σ v vᵀ + offset, symmetric: vectors (*batch, k, m), offset (*param_batch, m, m) shared by the rows."""

    vectors: Tensor
    offset: Tensor
    coordinates: Triangle

    @property
    def batch(self) -> Size:  # type: ignore[override]
        return batch_shape(self.vectors, 2)

    def full(self) -> Tensor:
        product = self.vectors.mT @ self.vectors
        return 0.25 * (product + product.mT) + self.offset

    def entries(self, positions: Tensor) -> Tensor:
        rows, columns = positions // self.coordinates.d, positions % self.coordinates.d
        products = (self.vectors[..., rows] * self.vectors[..., columns]).sum(-2)
        return 0.5 * products + self.offset.flatten(-2)[..., positions]

    def unique(self, out: Tensor | None = None) -> Tensor:
        """By chunks of rows whose m×m arrays fit in the cache until their unique elements are extracted."""
        if is_traced(self.vectors, self.offset):
            packed = self.coordinates.pack_gradient(self.full())
            return packed if out is None else out.copy_(packed)
        if out is None:
            out = self.vectors.new_empty(*self.batch, self.coordinates.size)
        size = self.offset.numel() * self.offset.element_size()
        for rows in self._row_chunks(max(1, planner.CACHE_BYTES // max(1, size))):
            out[rows] = self.coordinates.pack_gradient(replace(self, vectors=self.vectors[rows]).full())
        return out

    def partial(self, weights: Tensor | None, param_batch: Size) -> tuple[Tensor, ...]:
        """One product over the vectors of all rows."""
        layout = self._layout(param_batch)
        vectors = layout.fold(self.vectors, 2)
        if weights is None:
            weighted, count = vectors, vectors.new_full((), layout.n_rows)
        else:
            folded = layout.fold(weights, 0)
            weighted, count = vectors * over_event(folded, 2), folded.sum(-1)
        return stacked(weighted, -3).mT @ stacked(vectors, -3), count

    def complete(self, partial: tuple[Tensor, ...], param_batch: Size) -> Tensor:
        product, count = self._product_and_count(partial, param_batch)
        return sum_to(0.5 * symmetrised(product) + count * self.offset, param_batch, 2)

    def matvec(self, direction: Tensor) -> Tensor:
        constant = (self.offset * direction).sum((-2, -1))
        layout = RowLayout(torch.broadcast_shapes(self.batch, batch_shape(direction, 2)), batch_shape(direction, 2))
        vectors = layout.fold(self.vectors, 2)
        images = rows_times(stacked(vectors, -3), layout.fold_params(direction, 2)).reshape(vectors.shape)
        return 0.5 * layout.unfold((images * vectors).sum((-2, -1)), 0) + constant
