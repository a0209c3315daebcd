"""The derivatives of rows as blocks, one per parameter: their columns and products, and the division of rows into chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Size, Tensor

from mvnjac.blocks.base import Block, Entrywise
from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.kernels import planner
from mvnjac.missing.incomplete_blocks import incomplete_block
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.model.model import Model
from mvnjac.parameters.coordinates import vector
from mvnjac.parameters.selection import Part
from mvnjac.tensors import memory
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, narrow
from mvnjac.tensors.tracing import recorded
from mvnjac.whitening.residuals import Residuals


class RowBlocks:
    """Rows and the derivatives of their log-densities with respect to each parameter.

    Attributes:
        model: the mean and the covariance.
        rows: the residuals, whitened on demand.
        x_batch: the leading dimensions of x before broadcasting.
    """

    def __init__(self, model: Model, rows: Residuals, x_batch: Size) -> None:
        self.model, self.rows, self.x_batch = model, rows, x_batch

    @classmethod
    def at(cls, model: Model, x: Tensor) -> Self:
        """The derivatives at x, after validation."""
        x = model.arguments.flat(x)
        return cls(model, model.rows(x), batch_shape(x, 1))

    @classmethod
    def at_validated(cls, model: Model, x: Tensor) -> Self:
        """The derivatives at an x that is already validated."""
        x = model.arguments.flat(x)
        return cls(model, model.unchecked_rows(x), batch_shape(x, 1))

    def block(self, name: str, rows: Residuals | None = None) -> Block:
        """The derivative with respect to one parameter; rows: some of the rows, by default all."""
        rows, covariance = rows or self.rows, self.model.covariance
        if name == "x":
            return Entrywise(-rows.scaled, vector(rows.d))
        if name == "mean":
            return Entrywise(rows.scaled, vector(rows.d))
        if isinstance(rows, IncompleteResiduals):
            return incomplete_block(name, rows)
        if name in covariance.fields:
            return covariance.pullback(name, rows)
        return dense_parameters()[name].pullback(name, rows.densely())

    def param_batch(self, name: str) -> Size:
        """The leading dimensions of x or of one parameter, which are also those of its total gradient."""
        covariance = self.model.covariance
        if name == "x":
            return self.x_batch
        if name == "mean":
            return batch_shape(self.model.mean, 1)
        if name in covariance.fields:
            return covariance.parameter_batch(name)
        return covariance.batch if issubclass(dense_parameters()[name], Covariance) else self.model.batch

    def columns(self, part: Part, out: Tensor | None = None, rows: Residuals | None = None) -> Tensor:
        """The columns of a part (*batch, k), written into `out` unless it is None."""
        block = self.block(part.name, rows)
        if part.index is not None:
            columns = block.elements(part.coordinates, part.index_tensor(self.model.mean.device))
        elif part.layout == "full":
            columns = part.coordinates.pack(block.full())
        else:
            return block.unique(out)
        return columns if out is None else out.copy_(columns)

    def directional(self, part: Part, v: Tensor) -> Tensor:
        """The columns of a part times v (..., k): (*batch)."""
        block = self.block(part.name)
        if part.index is None:
            return block.matvec(part.coordinates.unpack(v))
        return (block.elements(part.coordinates, part.index_tensor(v.device)) * v).sum(-1)

    def narrow(self, dim: int, index: slice | Tensor) -> Self:
        """The derivatives of the rows `index` along dimension `dim`."""
        batch = self.rows.batch
        with torch.set_grad_enabled(torch.is_grad_enabled() or self.rows.requires_grad):  # also under no_grad the graph is kept
            model, rows = self.model.narrow(batch, dim, index), self.rows.narrow(dim, index)
        on_meta = index if isinstance(index, slice) else index.to("meta")
        x_batch = narrow(torch.empty(self.x_batch, dtype=torch.bool, device="meta"), batch, 0, dim, on_meta).shape
        return type(self)(model, rows, x_batch)

    def chunks(self, columns: int, weights: Tensor | None, size: int) -> Iterator[tuple[Residuals, Tensor | None]]:
        """Chunks of rows with their weights; each is released before the next one.

        The rows are divided along the longest dimension that is summed over. A chunk with `columns` numbers per row takes about
        `size` bytes. If operations are recorded (a compiler or tracer is active), all rows form one chunk.
        """
        batch = self.rows.batch
        dims = RowLayout(batch, self.model.reduced_batch).rows
        if not dims or recorded() or batch.numel() == 0:
            yield self.rows, weights
            return
        dim = max(dims, key=lambda i: batch[i])
        step = planner.rows_in(size, columns * (batch.numel() // batch[dim]), self.model.working.itemsize)
        workspace = None if self.rows.is_traced else memory.Workspace()
        for start in range(0, batch[dim], step):
            at = slice(start, start + step)
            yield self.rows.narrow(dim, at, workspace), None if weights is None else narrow(weights, batch, 0, dim, at)
