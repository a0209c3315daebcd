"""The factor of Σ = A ⊗ B: the factors of A and of B."""

from __future__ import annotations

from collections.abc import Callable

from torch import Size, Tensor

from mvnjac.tensors.broadcasting import RowLayout, broadcast, refolded, stacked
from mvnjac.whitening.factor import DenseFactor, Factor


class KroneckerFactor(Factor):
    """The factors of A (m, m) and of B (q, q). For a row as a matrix R (m, q): z is L_A⁻¹ R L_B⁻ᵀ, a is A⁻¹ R B⁻¹."""

    def __init__(self, row: DenseFactor, column: DenseFactor) -> None:
        self.row, self.column = row, column
        self.batch = broadcast(row.batch, column.batch)
        self._views: dict[str, Tensor] = {}
        self._dense: DenseFactor | None = None

    def tensors(self) -> list[Tensor]:
        return [*self.row.tensors(), *self.column.tensors()]

    @property
    def log_det(self) -> Tensor:
        return self.column.d * self.row.log_det + self.row.d * self.column.log_det

    def whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return self._on_both_sides(lambda side, X, inner: side.whiten(X, inner), rows, layout)

    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return self.whiten(rows, layout)

    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        return self._on_both_sides(lambda side, X, inner: side.solve(X, inner), rows, layout)

    def matrices(self, rows: Tensor) -> Tensor:
        """Rows (..., m·q) as matrices (..., m, q)."""
        return rows.reshape((*rows.shape[:-1], self.row.d, self.column.d))

    def columns_times(self, X: Tensor, batch: Size) -> Tensor:
        """(*batch, m, q) X L_B for the matrix X of each row."""
        layout = RowLayout(batch, self.column.batch)
        return layout.unfold(_times(layout.fold(X, 2), layout.fold_params(self.column.scale_tril, 2)), 2)

    def rows_times(self, X: Tensor, batch: Size) -> Tensor:
        """(*batch, q, m) Xᵀ L_A for the matrix X of each row."""
        layout = RowLayout(batch, self.row.batch)
        return layout.unfold(_times(layout.fold(X.mT, 2), layout.fold_params(self.row.scale_tril, 2)), 2)

    def _on_both_sides(
        self, apply: Callable[[DenseFactor, Tensor, RowLayout], Tensor], rows: Tensor, layout: RowLayout
    ) -> Tensor:
        """A function of vectors applied along the columns' axis of all rows' matrices, then along the rows' axis."""
        X = self.matrices(rows)
        for side in (self.column, self.row):

            def apply_side(X: Tensor, inner: RowLayout, side: DenseFactor = side) -> Tensor:
                return apply(side, stacked(X, -3), inner).reshape(X.shape)

            X = refolded(apply_side, X, layout, side.batch, 2).mT
        return stacked(X, -2)

    def dense(self) -> DenseFactor:
        if self._dense is None:
            self._dense = DenseFactor(
                self.row.info,
                covariance_matrix=kronecker_product(self.row.covariance_matrix, self.column.covariance_matrix),
                scale_tril=kronecker_product(self.row.scale_tril, self.column.scale_tril),
            )
            self._dense.checked = self.checked
        return self._dense

    def detach(self) -> KroneckerFactor:
        other = KroneckerFactor(self.row.detach(), self.column.detach())
        other.checked = self.checked
        return other

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> KroneckerFactor:
        if dim < len(full) - len(self.batch):
            return self
        other = KroneckerFactor(self.row.narrow(full, dim, index), self.column.narrow(full, dim, index))
        other.checked = self.checked
        return other


def kronecker_product(A: Tensor, B: Tensor) -> Tensor:
    """A ⊗ B, (..., m q, m q)."""
    return stacked(stacked(A[..., :, None, :, None] * B[..., None, :, None, :], -4), -2)


def _times(X: Tensor, L: Tensor) -> Tensor:
    """X L for X (K?, N, m, q) and L (K?, q, q), as one matrix product per group."""
    return (stacked(X, -3) @ L).reshape(X.shape)
