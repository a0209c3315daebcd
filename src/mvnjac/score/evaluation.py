"""From rows to columns, totals and products: what a `Jacobian` asks for, formed from the blocks of its parameters.

Reductions go over the rows in chunks and never hold n×p; where a graph must be kept, all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Size, Tensor

from mvnjac.blocks.base import Block, Entrywise
from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.maps.whitened import WhitenedMaps
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.kernels import planner
from mvnjac.linalg.symmetric_products import add_symmetric_product
from mvnjac.missing.incomplete_blocks import incomplete_block
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.model.model import Model
from mvnjac.parameters.coordinates import vector
from mvnjac.parameters.selection import Part
from mvnjac.tensors import memory
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, broadcast, narrow, sum_to
from mvnjac.tensors.tracing import recorded
from mvnjac.whitening.residuals import Residuals
from mvnjac.whitening.sums import ForwardCache, WhitenedMoments


class Derivatives:
    """The derivatives of some rows' log-densities.

    Attributes:
        model: the mean and the covariance.
        rows: the whitened residuals.
        x_batch: the leading dimensions of x itself, before broadcasting.
    """

    def __init__(self, model: Model, rows: Residuals, x_batch: Size) -> None:
        self.model, self.rows, self.x_batch = model, rows, x_batch

    def block(self, name: str, rows: Residuals | None = None) -> Block:
        """The derivative by one parameter: of all rows, or of these."""
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

    def own_batch(self, name: str) -> Size:
        """The leading dimensions that a parameter has of its own: its total has them too."""
        covariance = self.model.covariance
        if name == "x":
            return self.x_batch
        if name == "mean":
            return batch_shape(self.model.mean, 1)
        if name in covariance.fields:
            return covariance.parameter_batch(name)
        return covariance.batch if issubclass(dense_parameters()[name], Covariance) else self.model.batch

    def columns(self, part: Part, out: Tensor | None = None, rows: Residuals | None = None) -> Tensor:
        """(*batch, k) the columns of a part, written into `out` if given."""
        block = self.block(part.name, rows)
        if part.index is not None:
            columns = block.elements(part.coordinates, part.index_tensor(self.model.mean.device))
        elif part.layout == "full":
            columns = part.coordinates.pack(block.full())
        else:
            return block.unique(out)
        return columns if out is None else out.copy_(columns)

    def directional(self, part: Part, v: Tensor) -> Tensor:
        """(*batch) a part's columns times v (..., k)."""
        block = self.block(part.name)
        if part.index is None:
            return block.matvec(part.coordinates.unpack(v))
        return (block.elements(part.coordinates, part.index_tensor(v.device)) * v).sum(-1)

    def totals(self, names: Sequence[str], weights: Tensor | None, owns: Sequence[Size]) -> list[Tensor]:
        """The (weighted) full gradients by these parameters, each summed down to its batch."""
        sums = dict.fromkeys(range(len(names)), self.model.mean)  # in this order; each is replaced
        with self.model.arithmetic():
            each = [i for i, own in enumerate(owns) if own == self.rows.batch]  # one row each: nothing to sum
            sums |= {i: self.block(names[i]).weighted(weights) for i in each}
            rest = [i for i in sums if i not in each]
            if rest:
                summed = self._summed([names[i] for i in rest], weights, [owns[i] for i in rest])
                sums |= dict(zip(rest, summed, strict=True))
        return list(sums.values())

    def _summed(self, names: Sequence[str], weights: Tensor | None, owns: Sequence[Size]) -> list[Tensor]:
        """In chunks of rows, unless a graph is kept, a is there already, or x itself is among them."""
        if list(names) == ["mean"] and not (self.rows.has_scaled or isinstance(self.rows, IncompleteResiduals)):
            return [self._total_by_mean(weights, owns[0])]
        if self.sums_first(names, owns):
            sums = WhitenedMoments.at_once(self.rows, weights)
            if sums is not None:
                return self.totals_from(sums, names)
            return self.totals_from(
                WhitenedMoments.of(self._chunks(self.model.d, weights, self._chunk_size(names)), owns[0]), names
            )
        if self.in_one_pass(names, owns):
            both = self.rows.factor.squares_and_totals(self.rows, weights)
            if both is not None:
                return [both[1][name] for name in names]
        whole = self.rows.is_traced or self.rows.has_scaled or "x" in names
        size = self._chunk_size(names)
        if whole or self.rows.batch.numel() * self.model.d * self.model.working.itemsize <= size:
            return [self.block(name).total(weights, own) for name, own in zip(names, owns, strict=True)]
        partials: list[tuple[Tensor, ...]] = []
        for rows, some in self._chunks(self.model.d, weights, size):
            blocks = [self.block(name, rows) for name in names]
            new = [block.partial(some, own) for block, own in zip(blocks, owns, strict=True)]
            partials = [_added(old, more) for old, more in zip(partials, new, strict=True)] if partials else new
        return [block.complete(partial, own) for block, partial, own in zip(blocks, partials, owns, strict=True)]

    def _total_by_mean(self, weights: Tensor | None, param_batch: Size) -> Tensor:
        """(*param_batch, d) Σ⁻¹ Σ w r: the residuals of a mean and a covariance are summed first, and the sum alone is solved for."""
        batch = broadcast(self.model.batch, param_batch)
        size = self._chunk_size(["mean"])
        chunks = self._chunks(self.model.d, weights, size) if batch == self.model.batch else [(self.rows, weights)]
        total: Tensor | None = None
        for rows, some in chunks:
            layout = RowLayout(rows.batch, batch)
            r = layout.fold(rows.residual)
            part = r.sum(-2) if some is None else (layout.fold(some, 0).unsqueeze(-2) @ r).squeeze(-2)
            total = part if total is None else total + part
        assert total is not None
        factor, summed = self.rows.factor, layout.unfold_params(total, 1)
        inner = RowLayout(batch, factor.batch)
        r = inner.fold(summed)
        a = factor.unwhiten(factor.whiten(r, inner), inner) if factor.unwhitens else factor.solve(r, inner)
        return sum_to(inner.unfold(a), param_batch, 1)

    def in_one_pass(self, names: Sequence[str], owns: Sequence[Size]) -> bool:
        """Whether a structure may form the totals in its own way."""
        own = {"mean", *self.model.covariance.fields}
        return self.rows.everyday and not self.rows.has_scaled and not any(owns) and set(names) <= own

    def totals_from(self, sums: ForwardCache, names: Sequence[str]) -> list[Tensor]:
        """The totals by the mean and the covariance's own parameters, from what `squares_and_sums` has found."""
        if isinstance(sums, dict):
            return [sums[name].clone() for name in names]
        owner = type(self.model.covariance)
        assert issubclass(owner, DenseParametrisation)
        maps = WhitenedMaps(self.rows.mean, self.rows.factor.dense(), names, [owner])
        gradients = maps.vjp(sums.first, sums.matrix_score)
        return [gradients[name] for name in names]

    def squares_and_sums(self) -> tuple[Tensor, ForwardCache] | None:
        """‖z‖² of each row, and the sums that a total score needs, in one pass; None where that is not how totals are formed."""
        rows = self.rows
        names = ["mean", *self.model.covariance.fields]
        both = rows.factor.squares_and_totals(rows, None) if self.in_one_pass(names, []) else None
        if both is not None:
            return both
        if len(rows.batch) != 1 or not self.sums_first(names, [self.model.batch] * len(names)):
            return None
        squares = rows.mean.new_empty(rows.batch)
        by_kernel = WhitenedMoments.at_once(rows, None, squares)
        if by_kernel is not None:
            return squares, by_kernel

        def noted() -> Iterator[tuple[Residuals, None]]:
            first = 0
            for part, _ in self._chunks(self.model.d, None, self._chunk_size(names)):
                torch.linalg.vector_norm(part.whitened, dim=-1, out=squares[first : first + part.batch[0]])
                first += part.batch[0]
                yield part, None

        sums = WhitenedMoments.of(noted(), self.model.batch)
        return squares.square_(), sums

    def sums_first(self, names: Sequence[str], owns: Sequence[Size]) -> bool:
        """Whether the sums of whitened residuals are formed first: one product a row instead of two, where rows are many."""
        covariance, rows = self.model.covariance, self.rows
        return (
            self.dense_parametrisation
            and rows.factor.whitens_forward
            and set(names) <= {"mean", *covariance.fields}
            and all(own == owns[0] for own in owns)
            and owns[0] == self.model.batch
            and not (rows.is_traced or rows.has_scaled)
            and planner.sums_first(RowLayout(rows.batch, owns[0]).n_rows, rows.d)
        )

    @property
    def dense_parametrisation(self) -> bool:
        """Whether the covariance is given by d×d arrays."""
        return isinstance(self.model.covariance, DenseParametrisation)

    def gram(self, parts: Sequence[Part], weights: Tensor | None) -> Tensor:
        """(*param_batch, p, p) JᵀWJ over the columns of these parts."""
        p, own = sum(part.size for part in parts), self.model.reduced_batch
        layout = RowLayout(self.rows.batch, own)
        total = torch.zeros(*layout.group_shape, p, p, dtype=self.model.working, device=self.model.mean.device)
        with self.model.arithmetic():
            _ = self.rows.scaled  # once for all chunks
            for rows, some in self._chunks(p, weights, planner.CHUNK_BYTES):
                chunk = RowLayout(rows.batch, own)
                columns = torch.cat([self.columns(part, rows=rows) for part in parts], -1)
                folded = None if some is None else chunk.fold(some, 0)
                total = add_symmetric_product(total, chunk.fold(columns), folded)
        return layout.unfold_params(total, 2)

    def narrow(self, dim: int, index: slice | Tensor) -> Derivatives:
        """Those of some of the rows."""
        batch = self.rows.batch
        with torch.set_grad_enabled(torch.is_grad_enabled() or self.rows.requires_grad):  # rows of a graph stay in it
            model, rows = self.model.narrow(batch, dim, index), self.rows.narrow(dim, index)
        x_batch = narrow(torch.empty(self.x_batch, dtype=torch.bool, device="meta"), batch, 0, dim, _on_meta(index)).shape
        return Derivatives(model, rows, x_batch)

    def _chunk_size(self, names: Sequence[str]) -> int:
        """Bytes of a chunk of rows that a total goes through: no smaller than the largest of these totals, which it is added to."""
        return planner.total_chunk(max(math.prod(self.model.coordinates(name).shape) for name in names))

    def _chunks(self, columns: int, weights: Tensor | None, size: int) -> Iterator[tuple[Residuals, Tensor | None]]:
        """Slices of rows of about `size` bytes at so many columns, with their weights; each is gone when the next one comes.

        Along the longest dimension that reductions run over; all at once where operations are recorded for any number of rows.
        """
        batch = self.rows.batch
        rows = RowLayout(batch, self.model.reduced_batch).rows
        if not rows or recorded() or batch.numel() == 0:
            yield self.rows, weights
            return
        dim = max(rows, key=lambda i: batch[i])
        beside = batch.numel() // batch[dim]
        step = planner.rows_in(size, columns * beside, self.model.working.itemsize)
        workspace = None if self.rows.is_traced else memory.Workspace()
        for start in range(0, batch[dim], step):
            at = slice(start, start + step)
            yield self.rows.narrow(dim, at, workspace), None if weights is None else narrow(weights, batch, 0, dim, at)


def _added(total: tuple[Tensor, ...], more: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.add_(b) for a, b in zip(total, more, strict=True))


def _on_meta(index: slice | Tensor) -> slice | Tensor:
    return index if isinstance(index, slice) else index.to("meta")
