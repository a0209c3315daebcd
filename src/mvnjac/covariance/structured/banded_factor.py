"""A covariance factorised by the bands of its precision: P = Λ Λᵀ by cyclic reduction, in O(d b²)."""

from __future__ import annotations

from torch import Size, Tensor

from mvnjac.linalg.banded import banded_product, dense_matrix
from mvnjac.linalg.cyclic_reduction import CyclicReduction
from mvnjac.linalg.triangular import flipped_cholesky
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, narrow
from mvnjac.whitening.factor import DenseFactor, Factor


class BandedFactor(Factor):
    """P = Λ Λᵀ by cyclic reduction (`CyclicReduction`)."""

    def __init__(self, bands: Tensor, reduction: CyclicReduction, views: dict[str, Tensor] | None = None) -> None:
        self.bands, self.reduction = bands, reduction
        self.batch = batch_shape(bands, 2)
        self._views = views or {}
        self._dense: DenseFactor | None = None

    @property
    def covariance_bands(self) -> Tensor:
        """(*batch, b + 1, d) the bands of Σ, 0 in the padding."""
        return self.view("covariance_bands", self.reduction.inverse_bands)

    def tensors(self) -> list[Tensor]:
        return [self.bands]

    @property
    def log_det(self) -> Tensor:
        return -self.reduction.log_det()

    def whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        """Λᵀ r in the order of elimination, whose squared norm is that of L⁻¹ r; it needs no recursion."""
        return self._folded(layout).root_times(rows)

    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return self.whiten(rows, layout)

    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        return banded_product(layout.fold_params(self.bands, 2), rows)

    def times(self, rows: Tensor, layout: RowLayout) -> Tensor:
        """Σ r for each row."""
        return self._folded(layout).solve(rows)

    def _folded(self, layout: RowLayout) -> CyclicReduction:
        return self.reduction.map(lambda t: layout.fold_params(t, 3))

    def dense(self) -> DenseFactor:
        if self._dense is None:
            precision_matrix = dense_matrix(self.bands)
            upper, info = flipped_cholesky(precision_matrix)
            self._dense = DenseFactor(info, precision_matrix=precision_matrix, inverse_scale_tril=upper.mT)
        return self._dense

    def detach(self) -> BandedFactor:
        views = {name: view.detach() for name, view in self._views.items()}
        other = BandedFactor(self.bands.detach(), self.reduction.map(Tensor.detach), views)
        other.checked = self.checked
        return other

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> BandedFactor:
        if dim < len(full) - len(self.batch):
            return self
        views = {name: narrow(view, full, 2, dim, index) for name, view in self._views.items()}
        reduction = self.reduction.map(lambda t: narrow(t, full, 3, dim, index))
        part = BandedFactor(narrow(self.bands, full, 2, dim, index), reduction, views)
        part.checked = self.checked
        return part
