"""Rows with missing entries under a structure that keeps its form when variables are left out: one a pattern, at its own cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from mvnjac.blocks.base import Block
from mvnjac.covariance.base import Covariance
from mvnjac.parameters.coordinates import Coordinates, vector
from mvnjac.statistics.patterns import rows_of_patterns
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, over_event, sum_to
from mvnjac.whitening.residuals import Residuals


@dataclass(frozen=True)
class Marginal:
    """The rows of one pattern: which ones (N_p,), the variables they observe (d_o,), and their residuals, (N_p, *own, d_o)."""

    rows: Tensor
    observed: Tensor
    covariance: Covariance
    residuals: Residuals


class Marginals:
    """All patterns of some rows.

    Args:
        covariance: keeps its form.
        residual: (G?, N, d) r, 0 where missing; mask: (N, d); both as `layout` folds them.
    """

    def __init__(self, covariance: Covariance, residual: Tensor, mask: Tensor, layout: RowLayout) -> None:
        self.covariance, self.layout, self.d = covariance, layout, residual.shape[-1]
        self.kind = residual.dtype, residual.device
        own = residual.reshape((*layout.param_batch, layout.n_rows, self.d)).movedim(-2, 0)  # rows first
        self.patterns = [self._marginal(own, rows, observed) for rows, observed in rows_of_patterns(mask)]

    def _marginal(self, residual: Tensor, rows: Tensor, observed: Tensor) -> Marginal:
        structure = self.covariance.marginal(observed)
        some = residual.index_select(0, rows).index_select(-1, observed)
        return Marginal(
            rows, observed, structure, Residuals(some, some.new_zeros(len(observed)), structure.factor(len(observed)))
        )

    def log_prob(self) -> Tensor:
        """(*batch); 0 where nothing is observed."""
        return self.gathered([part.residuals.log_prob for part in self.patterns], 0)

    def scaled(self) -> Tensor:
        """(*batch, d) a, 0 where missing."""
        a = [self.embedded(part.residuals.scaled, part.observed, [-1], (self.d,)) for part in self.patterns]
        return self.gathered(a, 1, (self.d,))

    def block(self, name: str, coordinates: Coordinates) -> Block:
        """The derivative by one parameter of the structure."""
        return PatternwiseBlock(self, name, coordinates)

    def gathered(self, of_patterns: Sequence[Tensor], event: int, shape: Sequence[int] = ()) -> Tensor:
        """(N_p, *own, *event), pattern by pattern → (*batch, *event); 0 for rows without any entry."""
        dtype, device = self.kind
        own = self.layout.param_batch
        flat = torch.zeros((self.layout.n_rows, *own, *shape), dtype=dtype, device=device)
        if of_patterns:
            rows = torch.cat([part.rows for part in self.patterns])
            flat = flat.index_copy(
                0, rows, torch.cat([t.expand((t.shape[0], *own, *t.shape[t.ndim - event :])) for t in of_patterns])
            )
        folded = flat.movedim(0, len(own)).reshape((*self.layout.group_shape, self.layout.n_rows, *flat.shape[1 + len(own) :]))
        return self.layout.unfold(folded, event)

    def weights(self, weights: Tensor) -> list[Tensor]:
        """(*batch) → (N_p, *own), pattern by pattern."""
        rows = self.layout.fold(weights, 0).reshape((*self.layout.param_batch, self.layout.n_rows)).movedim(-1, 0)
        return [rows.index_select(0, part.rows) for part in self.patterns]

    def axes(self, name: str, coordinates: Coordinates) -> list[int]:
        """The axes, from the last, of a parameter that run over the variables."""
        return [axis - len(coordinates.shape) for axis in self.covariance.local.get(name, ())]

    def restricted(self, t: Tensor, observed: Tensor, axes: Sequence[int]) -> Tensor:
        """The part of a parameter that is about these variables."""
        for axis in axes:
            t = t.index_select(axis, observed)
        return t

    def embedded(self, t: Tensor, observed: Tensor, axes: Sequence[int], shape: Sequence[int]) -> Tensor:
        """The inverse: 0 in all other places."""
        for axis in axes:
            size = list(t.shape)
            size[axis] = shape[axis]
            t = t.new_zeros(size).index_add(axis, observed, t)
        return t

    def fisher(self, v: dict[str, Tensor], d: int, weights: Tensor | None = None) -> dict[str, Tensor]:
        """The information of the (weighted) average row times the change v of some of the structure's parameters, and of the mean."""
        total: dict[str, Tensor] = {}
        for part, share in zip(self.patterns, self._shares(weights), strict=True):
            kinds = {"mean": vector(d), **{name: self.covariance.coordinates_of(name, d) for name in self.covariance.fields}}
            axes = {name: [-1] if name == "mean" else self.axes(name, kind) for name, kind in kinds.items()}
            own = {name: self.restricted(value, part.observed, axes[name]) for name, value in v.items()}
            by_mean = own.pop("mean", None)
            result = part.covariance.fisher(part.residuals.factor, own) if own else {}
            if by_mean is not None:
                batch = Size(torch.broadcast_shapes(batch_shape(by_mean, 1), part.covariance.batch))
                layout = RowLayout(batch, part.covariance.batch)
                result["mean"] = layout.unfold(part.residuals.factor.solve(layout.fold(by_mean), layout))
            for name, value in result.items():
                each = share.reshape((*share.shape, *(1,) * len(kinds[name].shape)))
                term = each * self.embedded(value, part.observed, axes[name], kinds[name].shape)
                total[name] = total[name] + term if name in total else term
        return total

    def _shares(self, weights: Tensor | None) -> list[Tensor]:
        """(*param_batch) the share that each pattern has in the sum of the weights."""
        dtype, device = self.kind
        if weights is None:
            return [torch.full((), len(part.rows) / self.layout.n_rows, dtype=dtype, device=device) for part in self.patterns]
        every = (
            self.layout.fold(weights.expand(self.layout.full), 0)
            .reshape((*self.layout.param_batch, self.layout.n_rows))
            .sum(-1)
        )
        return [own.sum(0) / every for own in self.weights(weights.expand(self.layout.full))]


class PatternwiseBlock(Block):
    """The derivative by a structure's parameter, pattern by pattern, each in the coordinates of all variables."""

    def __init__(self, marginals: Marginals, name: str, coordinates: Coordinates) -> None:
        self.coordinates, self._marginals, self._name = coordinates, marginals, name
        self._axes = marginals.axes(name, coordinates)
        self.batch = marginals.layout.full
        self._blocks = [part.covariance.pullback(name, part.residuals) for part in marginals.patterns]

    def full(self) -> Tensor:
        parts = [
            self._marginals.embedded(block.full(), part.observed, self._axes, self.coordinates.shape)
            for block, part in zip(self._blocks, self._marginals.patterns, strict=True)
        ]
        return self._marginals.gathered(parts, len(self.coordinates.shape), self.coordinates.shape)

    def unique(self, out: Tensor | None = None) -> Tensor:
        packed = self.coordinates.pack_gradient(self.full())
        return packed if out is None else out.copy_(packed)

    def entries(self, positions: Tensor) -> Tensor:
        return self.coordinates.all_entries().pack(self.full())[..., positions]

    def partial(self, weights: Tensor | None, param_batch: Size) -> tuple[Tensor, ...]:
        return (self.total(weights, param_batch),)

    def complete(self, partial: tuple[Tensor, ...], param_batch: Size) -> Tensor:
        return partial[0]

    def total(self, weights: Tensor | None, param_batch: Size) -> Tensor:
        event, within = len(self.coordinates.shape), self._marginals.layout.param_batch
        if not self._fits(param_batch) or not self._blocks:
            full = self.full()
            return sum_to(full if weights is None else full * over_event(weights.expand(self.batch), event), param_batch, event)
        each = [None] * len(self._blocks) if weights is None else self._marginals.weights(weights.expand(self.batch))
        total: Tensor | None = None
        for block, part, w in zip(self._blocks, self._marginals.patterns, each, strict=True):
            term = self._marginals.embedded(block.total(w, within), part.observed, self._axes, self.coordinates.shape)
            total = term if total is None else total + term
        assert total is not None
        return sum_to(total.reshape((*within, *self.coordinates.shape)), param_batch, event)

    def _fits(self, param_batch: Size) -> bool:
        """Whether the sum over all rows of each covariance comes before that down to `param_batch`."""
        within = self._marginals.layout.param_batch
        return len(param_batch) <= len(within) and all(
            a in (1, b) for a, b in zip(reversed(param_batch), reversed(within), strict=False)
        )

    def matvec(self, direction: Tensor) -> Tensor:
        batch = batch_shape(direction, len(self.coordinates.shape))
        if not self._fits(batch):
            event = len(self.coordinates.shape)
            product = self.full() * direction
            return product.sum(tuple(range(-event, 0))) if event else product
        products = [
            block.matvec(self._marginals.restricted(direction, part.observed, self._axes))
            for block, part in zip(self._blocks, self._marginals.patterns, strict=True)
        ]
        return self._marginals.gathered(products, 0)
