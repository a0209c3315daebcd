"""The factor of a block diagonal covariance, which consists of the factors of its blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor

from mvnjac.linalg.padding import pad
from mvnjac.tensors.broadcasting import RowLayout, broadcast, refolded
from mvnjac.whitening.factor import DenseFactor, Factor


class BlockDiagonalFactor(Factor):
    """The factors of the blocks, and the variables of each block as slices."""

    def __init__(self, factors: Sequence[Factor], slices: Sequence[slice]) -> None:
        self.factors, self.slices = list(factors), list(slices)
        self.batch = broadcast(*(factor.batch for factor in factors))
        self._views: dict[str, Tensor] = {}
        self._dense: DenseFactor | None = None

    def tensors(self) -> list[Tensor]:
        return [t for factor in self.factors for t in factor.tensors()]

    @property
    def log_det(self) -> Tensor:
        first, *others = [factor.log_det for factor in self.factors]
        return functools.reduce(torch.add, others, first)

    def whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return self._by_blocks(
            lambda factor, part, inner: (factor.whiten if factor.whitens_forward else factor.reverse_whiten)(part, inner),
            rows,
            layout,
        )

    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return self.whiten(rows, layout)

    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        return self._by_blocks(lambda factor, part, inner: factor.solve(part, inner), rows, layout)

    def _by_blocks(self, apply: Callable[[Factor, Tensor, RowLayout], Tensor], rows: Tensor, layout: RowLayout) -> Tensor:
        parts = [
            refolded(functools.partial(apply, factor), rows[..., at], layout, factor.batch)
            for factor, at in zip(self.factors, self.slices, strict=True)
        ]
        return torch.cat(parts, -1)

    def dense(self) -> DenseFactor:
        if self._dense is None:
            blocks = [factor.dense() for factor in self.factors]
            self._dense = DenseFactor(
                covariance_matrix=block_diagonal([block.covariance_matrix for block in blocks]),
                scale_tril=block_diagonal([block.scale_tril for block in blocks]),
            )
            self._dense.checked = self.checked
        return self._dense

    def detach(self) -> BlockDiagonalFactor:
        return self._with([factor.detach() for factor in self.factors])

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> BlockDiagonalFactor:
        if dim < len(full) - len(self.batch):
            return self
        return self._with([factor.narrow(full, dim, index) for factor in self.factors])

    def _with(self, factors: Sequence[Factor]) -> BlockDiagonalFactor:
        other = BlockDiagonalFactor(factors, self.slices)
        other.checked = self.checked
        return other


def block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    """The block diagonal matrix (*batch, d, d) of the given blocks."""
    batch, d = broadcast(*(block.shape[:-2] for block in blocks)), sum(block.shape[-1] for block in blocks)
    strips, first = [], 0
    for block in blocks:
        size = block.shape[-1]
        strips.append(pad(block.expand((*batch, size, size)), (first, d - first - size)))
        first += size
    return torch.cat(strips, -2)
