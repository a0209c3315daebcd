"""Second derivatives with respect to dense parametrisations, in whitened coordinates Σ = L (I + K) Lᵀ, µ + L m.

The rows enter only through the moments n = Σ w, s = Σ w z and S = Σ w z zᵀ of the whitened residuals:

    score     (s, ½ (S − n I))
    Fisher    (m, K) → (m, ½ K)                                  per observation
    Hessian   (m, K) → (−n m − K s, −½ (K S + S K − n K) − ½ (m sᵀ + s mᵀ))

Each parametrisation supplies the maps to and from K (`covariance/parametrisation.py`).

Source: Magnus & Neudecker, *Matrix Differential Calculus*, ch. 15, in whitened coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Size, Tensor

from mvnjac.covariance.maps.whitened import WhitenedMaps, added
from mvnjac.covariance.parametrisation import DenseParametrisation, Values
from mvnjac.information.curvature import Curvature, DirectMatrix, RowStatistics
from mvnjac.information.entries import fisher_inverse_diagonal, fisher_matrix, hessian_matrix
from mvnjac.linalg.solvers import require_regular
from mvnjac.linalg.symmetric_products import add_symmetric_product
from mvnjac.model.model import Model
from mvnjac.parameters.selection import Selection
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.tensors.broadcasting import RowLayout
from mvnjac.whitening.residuals import Residuals
from mvnjac.whitening.sums import WhitenedMoments


class DenseCurvature(Curvature):
    """Second derivatives with respect to any dense parametrisation; a product costs O(d³) for any number of rows."""

    broadcasts = True

    def __init__(self, model: Model, names: Sequence[str], owners: Sequence[type[DenseParametrisation]]) -> None:
        mean, factor = model.prepared()
        self.model, self.factor = model, factor.dense()
        self.names, self.maps = list(names), WhitenedMaps(mean, self.factor, names, owners)

    @property
    def work(self) -> int:
        return self.model.d * self.model.d

    @property
    def mean_and_covariance(self) -> bool:
        """Whether the parameters are the mean and Σ, for which the matrices are written entry by entry."""
        return self.names == ["mean", "covariance_matrix"]

    def fisher(self, v: Values) -> dict[str, Tensor]:
        m, K = self.maps.jvp(v)
        return self.maps.vjp(m, 0.5 * K)

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor]:
        if not self.maps.complete:
            return {}
        g, M = self.maps.inverse_vjp(gradients)
        return self.maps.inverse_jvp(g, M + M.mT)

    def fisher_matrix(self, selection: Selection) -> DirectMatrix | None:
        return partial(fisher_matrix, self.factor, self.model.batch) if self.mean_and_covariance else None

    def fisher_inverse_diagonal(self) -> DirectMatrix | None:
        return partial(fisher_inverse_diagonal, self.factor, self.model.batch) if self.mean_and_covariance else None

    def statistics(self, evaluation: GeneralEvaluation, weights: Tensor | None, param_batch: Size) -> DenseStatistics:
        rows = evaluation.rows.densely()
        moments = None if param_batch else WhitenedMoments.at_once(rows, weights)
        return DenseStatistics(self, WhitenedMoments.of([(rows, weights)], param_batch) if moments is None else moments)

    def natural(self, rows: Residuals, weights: Tensor | None, param_batch: Size) -> dict[str, Tensor] | None:
        """The average of r, and of r rᵀ − Σ."""
        if not set(self.names) <= {"mean", "covariance_matrix"}:
            return None
        layout = RowLayout(rows.batch, param_batch)
        r, w = layout.fold(rows.residual), None if weights is None else layout.fold(weights, 0)
        count = r.new_full(layout.group_shape, layout.n_rows) if w is None else w.sum(-1)
        result = {}
        if "mean" in self.names:
            weighted = r if w is None else r * w.unsqueeze(-1)
            result["mean"] = layout.unfold_params(weighted.sum(-2) / count.unsqueeze(-1), 1)
        if "covariance_matrix" in self.names:
            second = add_symmetric_product(r.new_zeros(*layout.group_shape, rows.d, rows.d), r, w)
            second = layout.unfold_params(second / count[..., None, None], 2)
            result["covariance_matrix"] = second - self.factor.covariance_matrix
        return {name: result[name] for name in self.names}


class DenseStatistics(RowStatistics):
    """The moments n, s and S of the whitened residuals."""

    def __init__(self, curvature: DenseCurvature, moments: WhitenedMoments) -> None:
        self._curvature, self._maps, self._moments = curvature, curvature.maps, moments

    @property
    def count(self) -> Tensor:
        return self._moments.count

    def score(self) -> dict[str, Tensor]:
        return self._maps.vjp(self._moments.first, self._moments.matrix_score)

    def hessian(self, v: Values) -> dict[str, Tensor]:
        self._maps.require_one_parametrisation()
        n, s, S = self._moments.count[..., None], self._moments.first, self._moments.second
        m, K = self._maps.jvp(v)
        if self._maps.canonical:  # the second derivative of log p does not depend on x
            return self._maps.vjp(-n * m, -0.5 * n[..., None] * K)
        g = -n * m - (K @ s.unsqueeze(-1)).squeeze(-1)
        cross = m.unsqueeze(-1) * s.unsqueeze(-2)
        result = self._maps.vjp(g, 0.5 * n[..., None] * K - K @ S - cross)
        return added(result, self._maps.second_order_vjp(v, m, K, s, self._moments.matrix_score))

    def hessian_solve(self, gradients: Values) -> dict[str, Tensor]:
        """For the mean and Σ and a whitened gradient (u, W): K N + N K = −2 W + (u sᵀ + s uᵀ)/n with N = S − s sᵀ/n − n/2 I."""
        if set(self._curvature.names) != {"mean", "covariance_matrix"}:
            return {}
        n, s, S = self._moments.count[..., None], self._moments.first, self._moments.second
        u, W = self._maps.inverse_vjp(gradients)
        empty = n == 0
        n = torch.where(empty, 1, n)
        outer = s.unsqueeze(-1) * s.unsqueeze(-2)
        N = S - outer / n[..., None] - 0.5 * n[..., None] * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
        cross = u.unsqueeze(-1) * s.unsqueeze(-2)
        right = -(W + W.mT) + (cross + cross.mT) / n[..., None]
        values, Q = torch.linalg.eigh(N)
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        smallest = torch.where(empty.squeeze(-1), 0, sums.abs().amin((-2, -1)))
        require_regular("hessian", smallest, sums.abs().amax((-2, -1)), S.shape[-1])
        K = Q @ ((Q.mT @ right @ Q) / sums) @ Q.mT
        m = -(u + (K @ s.unsqueeze(-1)).squeeze(-1)) / n
        return self._maps.inverse_jvp(m, K)

    def hessian_matrix(self, selection: Selection) -> DirectMatrix | None:
        curvature = self._curvature
        return partial(hessian_matrix, curvature.factor, self._moments) if curvature.mean_and_covariance else None
