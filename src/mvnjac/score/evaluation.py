"""The results of a `Jacobian`: log-densities, the matrix, totals and the Gram matrix.

`Evaluation` is the interface, with two implementations: `GeneralEvaluation` for all arguments, and `FusedEvaluation`
(score/fused_evaluation.py) for the shapes that one kernel call handles. Sums over rows are computed in chunks of rows and never
store n×p numbers, unless an autograd graph is recorded: then all rows are evaluated at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Size, Tensor

from mvnjac.covariance.maps.whitened import WhitenedMaps
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.kernels import huge_pages, planner
from mvnjac.linalg.symmetric_products import add_symmetric_product
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.parameters.selection import Selection
from mvnjac.score import row_arguments
from mvnjac.score.row_blocks import RowBlocks
from mvnjac.tensors import memory
from mvnjac.tensors.allocation import guarded
from mvnjac.tensors.broadcasting import RowLayout, broadcast, sum_to
from mvnjac.whitening.residuals import Residuals
from mvnjac.whitening.sums import ForwardCache, WhitenedMoments

FEWER = (
    "use sum(), gram(), matvec() or rmatvec(), which never store it; select columns with wrt=, or process the rows in slices "
    "J[a:b] with out=."
)


@runtime_checkable
class Evaluation(Protocol):
    """The results that a `Jacobian` returns. `selection` is None for the default columns."""

    @property
    def general(self) -> GeneralEvaluation:
        """The general implementation, for all other results."""

    @property
    def batch(self) -> Size:
        """The leading dimensions of the rows."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the results."""

    @property
    def device(self) -> torch.device:
        """The device of the results."""

    def log_prob(self) -> Tensor:
        """The log-densities (*batch)."""

    def matrix(self, selection: Selection | None, out: Tensor | None) -> Tensor:
        """The selected columns (*batch, p), written into `out` unless it is None."""

    def sum(self, selection: Selection | None, weights: Tensor | None) -> dict[str, Tensor]:
        """The (weighted) total gradient of each selected part."""

    def gram(self, selection: Selection | None, weights: Tensor | None) -> Tensor:
        """JᵀWJ (*param_batch, p, p)."""


class GeneralEvaluation(RowBlocks):
    """Results computed from blocks, for every structure, shape, dtype and device, with or without an autograd graph."""

    @property
    def general(self) -> GeneralEvaluation:
        return self

    @property
    def batch(self) -> Size:
        return self.rows.batch

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.mean.device

    def log_prob(self) -> Tensor:
        return self.model.log_prob(self.rows)

    @guarded("matrix", FEWER)
    def matrix(self, selection: Selection | None = None, out: Tensor | None = None) -> Tensor:
        selection = selection or self.model.arguments.select(None)
        shape = (*self.batch, selection.size)
        if out is not None:
            row_arguments.check_out(out, shape, self.dtype, self.device, self.rows.is_traced)
        elif not self.rows.is_traced:
            out = fresh_matrix(shape, self.dtype, self.device)
        with self.model.arithmetic():
            if out is None:
                return torch.cat([self.columns(part) for part in selection.parts], -1).to(self.dtype)
            for part, at in selection.slices():
                self.columns(part, out[..., at])
        return out

    @guarded("sum", "process the rows in slices J[a:b].")
    def sum(self, selection: Selection | None = None, weights: Tensor | None = None) -> dict[str, Tensor]:
        parts = (selection or self.model.arguments.select(None)).parts
        names = [part.name for part in parts]
        sums = self.totals(names, self.row_weights(weights), [self.param_batch(name) for name in names])
        result: dict[str, Tensor] = {}
        for part, total in zip(parts, sums, strict=True):
            if part.index is None:
                result[part.name] = self.model.arguments.shaped(part.name, total.to(self.dtype))
            else:
                elements = part.take(part.coordinates.pack_gradient(total)).to(self.dtype)
                result.update(zip(part.labels, elements.unbind(-1), strict=True))
        return result

    @guarded("gram", "select columns with wrt=.")
    def gram(self, selection: Selection | None = None, weights: Tensor | None = None) -> Tensor:
        selection, param_batch = selection or self.model.arguments.select(None), self.model.reduced_batch
        p, working, weights = selection.size, self.model.working, self.row_weights(weights)
        memory.require("gram", (*param_batch, p, p), working, self.device, "select columns with wrt=.")
        layout = RowLayout(self.rows.batch, param_batch)
        total = torch.zeros(*layout.group_shape, p, p, dtype=working, device=self.device)
        with self.model.arithmetic():
            _ = self.rows.scaled  # computed once for all chunks
            for rows, chunk_weights in self.chunks(p, weights, planner.CHUNK_BYTES):
                chunk = RowLayout(rows.batch, param_batch)
                columns = torch.cat([self.columns(part, rows=rows) for part in selection.parts], -1)
                folded = None if chunk_weights is None else chunk.fold(chunk_weights, 0)
                total = add_symmetric_product(total, chunk.fold(columns), folded)
        return layout.unfold_params(total, 2).to(self.dtype)

    def row_weights(self, weights: Tensor | None, name: str = "weights") -> Tensor | None:
        """The weights, validated and converted to the dtype of the arithmetic."""
        return row_arguments.row_weights(weights, name, self.batch, self.model.reduced_batch, self.model.working)

    # --- totals --------------------------------------------------------------------------------------------------

    def totals(self, names: Sequence[str], weights: Tensor | None, batches: Sequence[Size]) -> list[Tensor]:
        """The (weighted) full gradients with respect to these parameters, each summed to its batch in `batches`."""
        with self.model.arithmetic():
            by_row = [i for i, batch in enumerate(batches) if batch == self.rows.batch]  # a parameter per row: nothing to sum
            totals = {i: self.block(names[i]).weighted(weights) for i in by_row}
            rest = [i for i in range(len(names)) if i not in totals]
            if rest:
                sums = self._summed([names[i] for i in rest], weights, [batches[i] for i in rest])
                totals |= dict(zip(rest, sums, strict=True))
        return [totals[i] for i in range(len(names))]

    def _summed(self, names: Sequence[str], weights: Tensor | None, batches: Sequence[Size]) -> list[Tensor]:
        """The totals in chunks of rows; of all rows at once if a graph is recorded, a = Σ⁻¹ r is cached, or x is in `names`."""
        if list(names) == ["mean"] and not (self.rows.has_scaled or isinstance(self.rows, IncompleteResiduals)):
            return [self._total_by_mean(weights, batches[0])]
        if self.sums_first(names, batches):
            sums = WhitenedMoments.at_once(self.rows, weights)
            if sums is None:
                chunks = self.chunks(self.model.d, weights, self._chunk_size(names))
                sums = WhitenedMoments.of(chunks, batches[0])
            return self.totals_from(sums, names)
        if self.in_one_pass(names, batches):
            squares_and_totals = self.rows.factor.squares_and_totals(self.rows, weights)
            if squares_and_totals is not None:
                return [squares_and_totals[1][name] for name in names]
        all_rows = self.rows.is_traced or self.rows.has_scaled or "x" in names
        size = self._chunk_size(names)
        if all_rows or self.rows.batch.numel() * self.model.d * self.model.working.itemsize <= size:
            return [self.block(name).total(weights, batch) for name, batch in zip(names, batches, strict=True)]
        partials: list[tuple[Tensor, ...]] = []
        for rows, chunk_weights in self.chunks(self.model.d, weights, size):
            blocks = [self.block(name, rows) for name in names]
            new = [block.partial(chunk_weights, batch) for block, batch in zip(blocks, batches, strict=True)]
            partials = [_added(total, more) for total, more in zip(partials, new, strict=True)] if partials else new
        return [block.complete(partial, batch) for block, partial, batch in zip(blocks, partials, batches, strict=True)]

    def _total_by_mean(self, weights: Tensor | None, param_batch: Size) -> Tensor:
        """Σ⁻¹ Σₙ wₙ rₙ (*param_batch, d): residuals are summed before the linear system is solved."""
        batch = broadcast(self.model.batch, param_batch)
        size = self._chunk_size(["mean"])
        chunks = self.chunks(self.model.d, weights, size) if batch == self.model.batch else [(self.rows, weights)]
        total: Tensor | None = None
        for rows, chunk_weights in chunks:
            layout = RowLayout(rows.batch, batch)
            r = layout.fold(rows.residual)
            chunk = r.sum(-2) if chunk_weights is None else (layout.fold(chunk_weights, 0).unsqueeze(-2) @ r).squeeze(-2)
            total = chunk if total is None else total + chunk
        assert total is not None
        factor, summed = self.rows.factor, layout.unfold_params(total, 1)
        inner = RowLayout(batch, factor.batch)
        r = inner.fold(summed)
        a = factor.unwhiten(factor.whiten(r, inner), inner) if factor.unwhitens else factor.solve(r, inner)
        return sum_to(inner.unfold(a), param_batch, 1)

    def in_one_pass(self, names: Sequence[str], batches: Sequence[Size]) -> bool:
        """Whether the factor of the structure may compute these totals in one pass over the rows."""
        supported = {"mean", *self.model.covariance.fields}
        return self.rows.unbatched and not self.rows.has_scaled and not any(batches) and set(names) <= supported

    def totals_from(self, sums: ForwardCache, names: Sequence[str]) -> list[Tensor]:
        """The totals with respect to the mean and the covariance's parameters, from the sums of `squares_and_sums`."""
        if isinstance(sums, dict):
            return [sums[name].clone() for name in names]
        parametrisation = type(self.model.covariance)
        assert issubclass(parametrisation, DenseParametrisation)
        maps = WhitenedMaps(self.rows.mean, self.rows.factor.dense(), names, [parametrisation])
        gradients = maps.vjp(sums.first, sums.matrix_score)
        return [gradients[name] for name in names]

    def squares_and_sums(self) -> tuple[Tensor, ForwardCache] | None:
        """‖z‖² of each row and the sums that `totals_from` needs, in one pass; None if totals are computed in another way."""
        rows = self.rows
        names = ["mean", *self.model.covariance.fields]
        squares_and_totals = rows.factor.squares_and_totals(rows, None) if self.in_one_pass(names, []) else None
        if squares_and_totals is not None:
            return squares_and_totals
        if len(rows.batch) != 1 or not self.sums_first(names, [self.model.batch] * len(names)):
            return None
        squares = rows.mean.new_empty(rows.batch)
        moments = WhitenedMoments.at_once(rows, None, squares)
        if moments is not None:
            return squares, moments

        def chunks_storing_norms() -> Iterator[tuple[Residuals, None]]:
            first = 0
            for chunk, _ in self.chunks(self.model.d, None, self._chunk_size(names)):
                torch.linalg.vector_norm(chunk.whitened, dim=-1, out=squares[first : first + chunk.batch[0]])
                first += chunk.batch[0]
                yield chunk, None

        moments = WhitenedMoments.of(chunks_storing_norms(), self.model.batch)
        return squares.square_(), moments

    def sums_first(self, names: Sequence[str], batches: Sequence[Size]) -> bool:
        """Whether whitened residuals are summed first, which for many rows takes one product per row instead of two."""
        covariance, rows = self.model.covariance, self.rows
        return (
            self.dense_parametrisation
            and rows.factor.whitens_forward
            and set(names) <= {"mean", *covariance.fields}
            and all(batch == batches[0] for batch in batches)
            and batches[0] == self.model.batch
            and not (rows.is_traced or rows.has_scaled)
            and planner.sums_first(RowLayout(rows.batch, batches[0]).n_rows, rows.d)
        )

    @property
    def dense_parametrisation(self) -> bool:
        """Whether the covariance is a dense parametrisation, which consists of d×d matrices."""
        return isinstance(self.model.covariance, DenseParametrisation)

    def _chunk_size(self, names: Sequence[str]) -> int:
        """The size of a chunk of rows in bytes: at least that of the largest of these totals, which each chunk is added to."""
        coordinates = self.model.arguments.coordinates
        return planner.total_chunk(max(math.prod(coordinates(name).shape) for name in names))


def fresh_matrix(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised memory for a matrix. Raises a MemoryLimitError if there is not enough."""
    memory.require("matrix", shape, dtype, device, FEWER)
    return huge_pages.fresh(shape, dtype, device)


def _added(total: tuple[Tensor, ...], more: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.add_(b) for a, b in zip(total, more, strict=True))
