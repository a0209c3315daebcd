"""The factor of Σ = W Wᵀ + diag(v), by Woodbury's identity."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from mvnjac.covariance.parametrisations.dense import dense_factor
from mvnjac.linalg import factor_model
from mvnjac.linalg.triangular import cholesky, solve_rows
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, broadcast, narrow
from mvnjac.tensors.tracing import is_traced
from mvnjac.whitening.factor import DenseFactor, Factor, FactorRows


class LowRankFactor(Factor):
    """Woodbury's identity in units of the idiosyncratic standard deviations: B = diag(v)^-½ W, C = I + BᵀB = M Mᵀ (k×k).

    With u = diag(v)^-½ r, the estimates of the k common factors are ŵ = C⁻¹ Bᵀ u, the remaining residual is e = u − B ŵ, and

        Σ⁻¹ r = diag(v)^-½ e,        rᵀ Σ⁻¹ r = ‖e‖² + ‖ŵ‖²

    The quadratic form is a sum of squares, so that float32 does not lose digits.
    """

    def __init__(self, cov_factor: Tensor, cov_diag: Tensor) -> None:
        self.cov_factor, self.cov_diag = cov_factor, cov_diag
        self.batch = broadcast(batch_shape(cov_factor, 2), batch_shape(cov_diag, 1))
        self._views: dict[str, Tensor] = {}
        self._dense: DenseFactor | None = None

    def tensors(self) -> list[Tensor]:
        return [self.cov_factor, self.cov_diag]

    @property
    def root(self) -> Tensor:
        """(*batch, d) √v."""
        return self.view("root", self.cov_diag.sqrt)

    @property
    def loading(self) -> Tensor:
        """(*batch, d, k) B, the loadings W in units of the idiosyncratic standard deviations."""
        return self.view("loading", lambda: self.cov_factor / self.root.unsqueeze(-1))

    @property
    def capacitance_tril(self) -> Tensor:
        """(*batch, k, k) M, lower triangular, M Mᵀ = I + Bᵀ B."""
        return self.view("capacitance_tril", lambda: cholesky(_identity(self.loading) + self.loading.mT @ self.loading)[0])

    @property
    def reduced(self) -> Tensor:
        """(*batch, d, k) B M⁻ᵀ: the squared norms of its rows are the leverages of the variables."""
        return self.view("reduced", lambda: solve_rows(self.loading, self.capacitance_tril))

    @property
    def precision_factor(self) -> Tensor:
        """(*batch, d, k) R = Σ⁻¹ W = diag(v)^-½ B C⁻¹."""

        def compute() -> Tensor:
            return solve_rows(self.reduced, self.capacitance_tril, transposed=True) / self.root.unsqueeze(-1)

        return self.view("precision_factor", compute)

    @property
    def precision_diag(self) -> Tensor:
        """(*batch, d) the diagonal of Σ⁻¹."""
        return self.view("precision_diag", lambda: (1 - (self.reduced * self.reduced).sum(-1)) / self.cov_diag)

    def precision_times(self, X: Tensor) -> Tensor:
        """Σ⁻¹ X for X (..., d, m), by the capacitance matrix C."""
        u = X / self.root.unsqueeze(-1)
        return (u - self.reduced @ (self.reduced.mT @ u)) / self.root.unsqueeze(-1)

    @property
    def log_det(self) -> Tensor:
        pivots = self.capacitance_tril.diagonal(dim1=-2, dim2=-1)
        return self.cov_diag.log().sum(-1) + 2 * pivots.log().sum(-1)

    def whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        """(..., d + k) e and ŵ, whose squared norm is that of L⁻¹ r."""
        B, d = layout.fold_params(self.loading, 2), rows.shape[-1]
        z = None if is_traced(rows, *self.tensors()) else rows.new_empty((*rows.shape[:-1], d + B.shape[-1]))
        u = torch.div(rows, layout.fold_params(self.root, 1).unsqueeze(-2), out=None if z is None else z[..., :d])
        estimate = self.estimate(u @ B, layout)
        subtract = torch.addmm if u.ndim == 2 else torch.baddbmm
        if z is None:
            return torch.cat([subtract(u, estimate, B.mT, alpha=-1), estimate], -1)
        subtract(u, estimate, B.mT, alpha=-1, out=u)  # e overwrites u
        z[..., d:] = estimate
        return z

    def estimate(self, projections: Tensor, layout: RowLayout) -> Tensor:
        """ŵ = C⁻¹ Bᵀ u for each row's Bᵀ u (..., k)."""
        M = layout.fold_params(self.capacitance_tril, 2)
        return solve_rows(solve_rows(projections, M), M, transposed=True)

    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return self.whiten(rows, layout)

    unwhitens = True

    def unwhiten(self, z: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        root = layout.fold_params(self.root, 1)
        return torch.div(z[..., : root.shape[-1]], root.unsqueeze(-2), out=out)

    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        return self.unwhiten(self.whiten(rows, layout), layout, out)

    def squares(self, rows: FactorRows) -> Tensor:
        estimate = self._estimate_of(rows)
        squares = (estimate * estimate).sum(-1)
        factor_model.add_squares(rows.x, rows.mean, self.root, self.loading, estimate, squares)
        return squares

    def squares_and_totals(self, rows: FactorRows, weights: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        estimate = self._estimate_of(rows)
        squares, count = (estimate * estimate).sum(-1), len(estimate) if weights is None else weights.sum()
        by_mean, by_diag, by_factor = factor_model.residual_sums(
            rows.x, rows.mean, self.root, self.loading, estimate, squares, weights
        )
        totals = {
            "mean": by_mean / self.root,
            "cov_factor": by_factor / self.root.unsqueeze(-1) - count * self.precision_factor,
            "cov_diag": 0.5 * (by_diag / self.cov_diag - count * self.precision_diag),
        }
        return squares, totals

    def _estimate_of(self, rows: FactorRows) -> Tensor:
        """(n, k) ŵ, computed once for value and totals."""

        def compute() -> Tensor:
            projections = factor_model.projections(rows.x, rows.mean, self.root, self.loading)
            return self.estimate(projections, RowLayout(rows.batch, self.batch))

        return rows.cached("estimate", compute)

    def dense(self) -> DenseFactor:
        if self._dense is None:
            W = self.cov_factor
            covariance_matrix = W @ W.mT + torch.diag_embed(self.cov_diag)
            self._dense = dense_factor(0.5 * (covariance_matrix + covariance_matrix.mT))
        return self._dense

    def detach(self) -> LowRankFactor:
        _ = self.capacitance_tril  # computed before detaching, so that both factors share it
        other = LowRankFactor(self.cov_factor.detach(), self.cov_diag.detach())
        other.checked, other._views = self.checked, {name: view.detach() for name, view in self._views.items()}
        return other

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> LowRankFactor:
        if dim < len(full) - len(self.batch):
            return self
        part = LowRankFactor(narrow(self.cov_factor, full, 2, dim, index), narrow(self.cov_diag, full, 1, dim, index))
        part.checked = self.checked
        return part


def _identity(B: Tensor) -> Tensor:
    return torch.eye(B.shape[-1], dtype=B.dtype, device=B.device)
