"""Rows with missing entries under a structure whose marginals are of the same structure: one marginal structure per pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from mvnjac.blocks.base import Block
from mvnjac.covariance.base import Covariance
from mvnjac.missing.unchunked import UnchunkedBlock, reduces_to
from mvnjac.parameters.coordinates import Coordinates, vector
from mvnjac.statistics.patterns import rows_of_patterns
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, over_event, sum_to
from mvnjac.whitening.residuals import Residuals


@dataclass(frozen=True)
class Marginal:
    """The rows of one pattern.

    Attributes:
        rows: (N_p,) the indices of the rows.
        observed: (d_o,) the indices of the observed variables.
        covariance: the marginal structure.
        residuals: (N_p, *param_batch, d_o).
    """

    rows: Tensor
    observed: Tensor
    covariance: Covariance
    residuals: Residuals


class Marginals:
    """The marginal densities of rows with missing entries, one `Marginal` per pattern.

    Args:
        covariance: a structure whose marginals are of the same structure.
        residual: (G?, N, d) r, 0 where missing, folded by `layout`.
        mask: (N, d) the observed entries.
        layout: the division of the batch into rows and covariances.
    """

    def __init__(self, covariance: Covariance, residual: Tensor, mask: Tensor, layout: RowLayout) -> None:
        self.covariance, self.layout, self.d = covariance, layout, residual.shape[-1]
        self.dtype, self.device = residual.dtype, residual.device
        by_row = residual.reshape((*layout.param_batch, layout.n_rows, self.d)).movedim(-2, 0)
        self.patterns = [self._marginal(by_row, rows, observed) for rows, observed in rows_of_patterns(mask)]

    def _marginal(self, by_row: Tensor, rows: Tensor, observed: Tensor) -> Marginal:
        structure = self.covariance.marginal(observed)
        residual = by_row.index_select(0, rows).index_select(-1, observed)
        factor = structure.factor(len(observed))
        return Marginal(rows, observed, structure, Residuals(residual, residual.new_zeros(len(observed)), factor))

    def log_prob(self) -> Tensor:
        """(*batch) the log-density, 0 if nothing is observed."""
        return self.to_rows([part.residuals.log_prob for part in self.patterns], 0)

    def scaled(self) -> Tensor:
        """(*batch, d) a, 0 where missing."""
        a = [self.embedded(part.residuals.scaled, part.observed, [-1], (self.d,)) for part in self.patterns]
        return self.to_rows(a, 1, (self.d,))

    def block(self, name: str, coordinates: Coordinates) -> Block:
        """The derivative with respect to one parameter of the structure."""
        return PatternwiseBlock(self, name, coordinates)

    def to_rows(self, by_pattern: Sequence[Tensor], event: int, shape: Sequence[int] = ()) -> Tensor:
        """One array (N_p, *param_batch, *event) per pattern → (*batch, *event); 0 for rows without observed entries."""
        layout, dims = self.layout, self.layout.param_batch
        flat = torch.zeros((layout.n_rows, *dims, *shape), dtype=self.dtype, device=self.device)
        if by_pattern:
            rows = torch.cat([part.rows for part in self.patterns])
            values = [t.expand((t.shape[0], *dims, *t.shape[t.ndim - event :])) for t in by_pattern]
            flat = flat.index_copy(0, rows, torch.cat(values))
        folded = flat.movedim(0, len(dims)).reshape((*layout.group_shape, layout.n_rows, *flat.shape[1 + len(dims) :]))
        return layout.unfold(folded, event)

    def row_weights(self, weights: Tensor) -> list[Tensor]:
        """Weights (*batch) → (N_p, *param_batch) for each pattern."""
        by_row = self._by_covariance(weights).movedim(-1, 0)
        return [by_row.index_select(0, part.rows) for part in self.patterns]

    def axes(self, name: str, coordinates: Coordinates) -> list[int]:
        """The axes of a parameter that run over the variables, as negative numbers."""
        return [axis - len(coordinates.shape) for axis in self.covariance.local.get(name, ())]

    def restricted(self, t: Tensor, observed: Tensor, axes: Sequence[int]) -> Tensor:
        """The entries of a parameter that belong to the observed variables."""
        for axis in axes:
            t = t.index_select(axis, observed)
        return t

    def embedded(self, t: Tensor, observed: Tensor, axes: Sequence[int], shape: Sequence[int]) -> Tensor:
        """The inverse of `restricted`, with 0 in all other entries."""
        for axis in axes:
            size = list(t.shape)
            size[axis] = shape[axis]
            t = t.new_zeros(size).index_add(axis, observed, t)
        return t

    def fisher(self, v: dict[str, Tensor], weights: Tensor | None = None) -> dict[str, Tensor]:
        """F v of the (weighted) average row, for a change v of some parameters of the structure and of the mean."""
        total: dict[str, Tensor] = {}
        kinds = {name: self.covariance.coordinates_of(name, self.d) for name in self.covariance.fields} | {
            "mean": vector(self.d)
        }
        axes = {name: [-1] if name == "mean" else self.axes(name, kind) for name, kind in kinds.items()}
        for part, share in zip(self.patterns, self._shares(weights), strict=True):
            change = {name: self.restricted(value, part.observed, axes[name]) for name, value in v.items()}
            mean_change = change.pop("mean", None)
            result = part.covariance.fisher(part.residuals.factor, change) if change else {}
            if mean_change is not None:
                batch = Size(torch.broadcast_shapes(batch_shape(mean_change, 1), part.covariance.batch))
                layout = RowLayout(batch, part.covariance.batch)
                result["mean"] = layout.unfold(part.residuals.factor.solve(layout.fold(mean_change), layout))
            for name, value in result.items():
                shape = kinds[name].shape
                term = over_event(share, len(shape)) * self.embedded(value, part.observed, axes[name], shape)
                total[name] = total[name] + term if name in total else term
        return total

    def _shares(self, weights: Tensor | None) -> list[Tensor]:
        """(*param_batch) the share of each pattern in the sum of the weights."""
        if weights is None:
            shares = [len(part.rows) / self.layout.n_rows for part in self.patterns]
            return [torch.full((), share, dtype=self.dtype, device=self.device) for share in shares]
        weights = weights.expand(self.layout.full)
        total = self._by_covariance(weights).sum(-1)
        return [by_row.sum(0) / total for by_row in self.row_weights(weights)]

    def _by_covariance(self, weights: Tensor) -> Tensor:
        """Weights (*batch) → (*param_batch, N)."""
        return self.layout.fold(weights, 0).reshape((*self.layout.param_batch, self.layout.n_rows))


class PatternwiseBlock(UnchunkedBlock):
    """The derivative with respect to a parameter of the structure, from the blocks of the marginal structures."""

    def __init__(self, marginals: Marginals, name: str, coordinates: Coordinates) -> None:
        self.coordinates, self.batch = coordinates, marginals.layout.full
        self._marginals, self._axes = marginals, marginals.axes(name, coordinates)
        self._blocks = [part.covariance.pullback(name, part.residuals) for part in marginals.patterns]

    def full(self) -> Tensor:
        parts = [self._embedded(block.full(), part) for block, part in self._pairs()]
        return self._marginals.to_rows(parts, len(self.coordinates.shape), self.coordinates.shape)

    def unique(self, out: Tensor | None = None) -> Tensor:
        packed = self.coordinates.pack_gradient(self.full())
        return packed if out is None else out.copy_(packed)

    def entries(self, positions: Tensor) -> Tensor:
        return self.coordinates.all_entries().pack(self.full())[..., positions]

    def total(self, weights: Tensor | None, param_batch: Size) -> Tensor:
        dims, weights = self._marginals.layout.param_batch, None if weights is None else weights.expand(self.batch)
        if not self._blocks or not reduces_to(dims, param_batch):
            return self._total_of_full(weights, param_batch)
        by_pattern = [None] * len(self._blocks) if weights is None else self._marginals.row_weights(weights)
        total: Tensor | None = None
        for (block, part), w in zip(self._pairs(), by_pattern, strict=True):
            term = self._embedded(block.total(w, dims), part)
            total = term if total is None else total + term
        assert total is not None
        return sum_to(total.reshape((*dims, *self.coordinates.shape)), param_batch, len(self.coordinates.shape))

    def matvec(self, direction: Tensor) -> Tensor:
        if not reduces_to(self._marginals.layout.param_batch, batch_shape(direction, len(self.coordinates.shape))):
            return self._matvec_of_full(direction)
        products = [
            block.matvec(self._marginals.restricted(direction, part.observed, self._axes)) for block, part in self._pairs()
        ]
        return self._marginals.to_rows(products, 0)

    def _pairs(self) -> list[tuple[Block, Marginal]]:
        return list(zip(self._blocks, self._marginals.patterns, strict=True))

    def _embedded(self, t: Tensor, part: Marginal) -> Tensor:
        return self._marginals.embedded(t, part.observed, self._axes, self.coordinates.shape)
