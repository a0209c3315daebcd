"""Sums over the rows of a factor model, without an n×d array: given the common factors, the variables are independent.

Two passes go through x in blocks of rows and variables that stay in the cache: the first estimates the factors ŵ (n×k), the
second forms of each block what the rows add up to. Blocks of whole rows would read B (d×k) again and again. Both are compiled
kernels where these serve, else a few calls of torch a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mvnjac import memory, planner
from mvnjac.batches import RowLayout
from mvnjac.kernels import compiled
from mvnjac.residuals import Residuals

if TYPE_CHECKING:
    from mvnjac.covariance.low_rank import LowRankFactor

_BLOCK_BYTES = 2 * planner.CACHE_BYTES
_COLUMNS = 64  # at least so many variables a block, where there are: fewer would make the products slow

#: Some rows, some variables, and their numbers.
Block = tuple[slice, slice, Tensor]


class VariableBlocks:
    """Rows (n, d) of one density that nothing watches. The notation is that of `LowRankFactor`."""

    def __init__(self, rows: Residuals, factor: LowRankFactor) -> None:
        self.rows, self.factor = rows, factor
        self._workspace = memory.Workspace()

    def squares(self) -> Tensor:
        """(n) ‖e‖² + ‖ŵ‖²."""
        squares = (self._estimate * self._estimate).sum(-1)
        if compiled.leave(*self._operands, self._estimate, squares, totals=False) is None:
            for some, _, e in self._left():
                squares[some] += torch.linalg.vector_norm(e, dim=-1).square_()
        return squares

    def squares_and_totals(self, weights: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, and the (weighted) sums of the scores by the mean, W and v; the formulas are those of `LowRank`."""
        factor, w, root = self.factor, self._estimate, self.factor.root
        count = len(w) if weights is None else weights.sum()
        squares = (w * w).sum(-1)
        by_mean, by_diag, by_factor = self._sums(squares, weights)
        totals = {
            "mean": by_mean / root,
            "cov_factor": by_factor / root.unsqueeze(-1) - count * factor.precision_factor,
            "cov_diag": 0.5 * (by_diag / factor.cov_diag - count * factor.precision_diag),
        }
        return squares, totals

    def _sums(self, squares: Tensor, weights: Tensor | None) -> tuple[Tensor, ...]:
        """Σ w e (d), Σ w e² (d) and Σ w e ŵᵀ (d, k); squares (n) += ‖e‖²."""
        w = self._estimate
        sums = compiled.leave(*self._operands, w, squares, weights)
        if sums is not None:
            return sums
        first, second, by_factor = (torch.zeros_like(like) for like in (self.rows.mean, self.rows.mean, self.factor.loading))
        for some, at, e in self._left():
            squares[some] += torch.linalg.vector_norm(e, dim=-1).square_()
            other = self._take("other", e)
            weighted = e if weights is None else torch.mul(e, weights[some].unsqueeze(-1), out=other)
            first[at] += weighted.sum(0)
            by_factor[at].addmm_(weighted.mT, w[some])
            second[at] += torch.mul(weighted, e, out=other).sum(0)
        return first, second, by_factor

    @property
    def _operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.rows.x, self.rows.mean, self.factor.root, self.factor.loading

    @property
    def _estimate(self) -> Tensor:
        """(n, k) ŵ, once for value and totals."""
        return self.rows.kept("estimate", self._compute_estimate)

    def _compute_estimate(self) -> Tensor:
        loading = self.factor.loading
        projections = compiled.project(*self._operands)
        if projections is not None:
            return self.factor.estimate(projections, RowLayout(self.rows.batch, self.factor.batch))
        projections = loading.new_zeros(*self.rows.batch, loading.shape[-1])
        for some, at, u in self._scaled():
            projections[some].addmm_(u, loading[at])
        return self.factor.estimate(projections, RowLayout(self.rows.batch, self.factor.batch))

    def _left(self) -> Iterator[Block]:
        """e, which may be changed."""
        w, loading = self._estimate, self.factor.loading
        for some, at, u in self._scaled():
            yield some, at, u.addmm_(w[some], loading[at].mT, alpha=-1)

    def _scaled(self) -> Iterator[Block]:
        """u, which may be changed."""
        x, mean, root = self.rows.x, self.rows.mean, self.factor.root
        size = _BLOCK_BYTES // mean.element_size()
        for some in _slices(len(x), size // min(_COLUMNS, self.rows.d)):
            for at in _slices(self.rows.d, size // (some.stop - some.start)):
                block = x[some, at].to(mean.dtype)
                yield some, at, torch.sub(block, mean[at], out=self._take("u", block)).div_(root[at])

    def _take(self, name: str, like: Tensor) -> Tensor:
        return self._workspace.take(name, like, like.shape)


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
