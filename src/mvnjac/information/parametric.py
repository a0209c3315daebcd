"""Second order by θ where µ(θ) and Σ(θ) are any functions: whitened inner products of their derivatives.

With mₖ = L⁻¹ ∂ₖµ (of each row, where the mean is a row's own), Kₖ = L⁻¹ ∂ₖΣ L⁻ᵀ and the direction v: m = Σ vₖ mₖ, K = Σ vₖ Kₖ,

    (F v)ₖ = mₖᵀ m + ½ ⟨Kₖ, K⟩                                        averaged over the rows
    (H v)ₖ = Σ w [−mₖᵀ (m + K z) − ⟨Kₖ, m zᵀ + K z zᵀ − ½ K⟩] + ⟨G, d²Σ[v, k]⟩ + Σ w aᵀ d²µ[v, k]

(Magnus & Neudecker, *Matrix Differential Calculus*, ch. 15; Kₖ symmetric).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Size, Tensor

from mvnjac.covariance.maps.whitened import added
from mvnjac.covariance.parametrisation import Values
from mvnjac.covariance.structured.parametric import Parametric, ParametricFactor
from mvnjac.errors import ShapeError
from mvnjac.information.curvature import Curvature, RowStatistics
from mvnjac.model.model import Model
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.tensors.broadcasting import broadcast


class ParametricCurvature(Curvature):
    """By the parameters of a `Parametric`, and by the mean where that is given apart."""

    broadcasts = False
    _row: int | None = None  # of the rows' means, the one that is meant; None: all

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        mean, factor = model.prepared()
        assert isinstance(factor, ParametricFactor)
        assert isinstance(model.covariance, Parametric)
        self.model, self.names, self.factor, self.covariance, self.mean = model, list(names), factor, model.covariance, mean
        if mean.ndim > 1 and not model.arguments.mean_follows:
            raise ShapeError(
                f"the mean has shape {tuple(mean.shape)}, and the covariance is Parametric: for means of each row's own let the "
                "function return (µ, Σ)."
            )
        if model.working != model.dtype:
            self.covariance = self.covariance.map(lambda t: t.to(model.working))
        self._tangents = {
            name: (None if by_mean is None else self._solve_columns(by_mean), factor.whiten_matrix(by_sigma))
            for name, (by_mean, by_sigma) in factor.tangents.items()
        }

    def fisher(self, v: Values) -> dict[str, Tensor]:
        m, K = self.jvp(v)
        count = max(m[..., 0].numel(), 1)
        return self.vjp(m / count, 0.5 * K)

    def statistics(self, evaluation: GeneralEvaluation, weights: Tensor | None, param_batch: Size) -> ParametricStatistics:
        z = evaluation.rows.whitened
        w = torch.ones(z.shape[:-1], dtype=z.dtype, device=z.device) if weights is None else weights.expand(z.shape[:-1])
        if param_batch and param_batch != z.shape[:-1]:
            raise ShapeError(f"a Parametric covariance has no leading dimensions; cannot keep {tuple(param_batch)}.")
        return ParametricStatistics(self, z, w, bool(param_batch))

    def of_row(self, i: int) -> ParametricCurvature:
        """The same of one row, which may have a mean of its own."""
        part = copy.copy(self)
        part._row = i
        part.mean = self.mean[i : i + 1] if self.mean.ndim > 1 else self.mean
        part._tangents = {
            name: (by_mean[i : i + 1] if by_mean is not None and by_mean.ndim > 2 else by_mean, by_sigma)
            for name, (by_mean, by_sigma) in self._tangents.items()
        }
        return part

    # --- to and from whitened coordinates ------------------------------------------------------------------------

    def jvp(self, v: Values) -> tuple[Tensor, Tensor]:
        """m (*rows, d) and K (d, d) for the change v."""
        m, K = torch.zeros_like(self.mean), torch.zeros_like(self.factor.scale_tril)
        if "mean" in v:
            m = m + self.factor.solve_triangular(v["mean"].unsqueeze(-1)).squeeze(-1)
        for name, value in v.items():
            if name != "mean":
                by_mean, by_sigma = self._tangents[name]
                flat = value.reshape(-1)
                K = K + torch.tensordot(flat, by_sigma, 1)
                m = m if by_mean is None else m + by_mean @ flat
        return m, K

    def vjp(self, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """The gradients with respect to θ of a gradient g with respect to m of the rows (or their sum) and M with respect to K."""
        result = {}
        for name in self.names:
            if name == "mean":
                total = g.reshape(-1, g.shape[-1]).sum(0)
                result[name] = self.factor.solve_triangular(total.unsqueeze(-1), transpose=True).squeeze(-1)
                continue
            by_mean, by_sigma = self._tangents[name]
            flat = (by_sigma * M).sum((-2, -1))
            if by_mean is not None:
                by_row = g.sum_to_size(by_mean.shape[:-1]) if g.ndim >= by_mean.ndim - 1 else g
                flat = flat + torch.tensordot(by_row.reshape(-1), by_mean.reshape(-1, by_mean.shape[-1]), 1)
            result[name] = flat.reshape(self.covariance.parameters[name].shape)
        return result

    def second_order_vjp(self, v: Values, weighted: Tensor, n: Tensor, S: Tensor) -> dict[str, Tensor]:
        of_covariance = {name: value for name, value in v.items() if name != "mean"}
        if not of_covariance:
            return {}
        a = self.solve_rows(weighted)
        mean_gradient = a if self.covariance.mean is None else self._by_mean_of_all_rows(a, self.covariance.mean.shape)
        sigma_gradient = self.factor.unwhiten_gradient(self.matrix_score(n, S))
        second_order = self.covariance.second(of_covariance, sigma_gradient, mean_gradient)
        return {name: value for name, value in second_order.items() if name in self.names}

    def _by_mean_of_all_rows(self, a: Tensor, shape: Size) -> Tensor:
        if len(shape) == 1:
            return a.reshape(-1, shape[-1]).sum(0)
        if self._row is None:
            return a.sum_to_size(shape)
        every = a.new_zeros(shape)
        every[self._row] = a[0]
        return every

    @staticmethod
    def matrix_score(n: Tensor, S: Tensor) -> Tensor:
        """½ (S − n I)."""
        return 0.5 * (S - n * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device))

    def _solve_columns(self, columns: Tensor) -> Tensor:
        """L⁻¹ of each row's (d, k)."""
        return self.factor.solve_triangular(columns)

    def solve_rows(self, rows: Tensor) -> Tensor:
        return self.factor.solve_triangular(rows.unsqueeze(-1), transpose=True).squeeze(-1)


class ParametricStatistics(RowStatistics):
    """Whitened residuals z (*batch, d) with weights w (*batch); their sum, or one result a row (`each_row`)."""

    def __init__(self, curvature: ParametricCurvature, z: Tensor, weights: Tensor, each_row: bool) -> None:
        self._curvature, self._z, self._weights, self._each_row = curvature, z, weights, each_row

    @property
    def count(self) -> Tensor:
        return self._weights if self._each_row else self._weights.sum()

    def score(self) -> dict[str, Tensor]:
        if self._each_row:
            return self._stacked([row.score() for row in self._rows()])
        weighted = self._z * self._weights.unsqueeze(-1)
        M = self._curvature.matrix_score(self._weights.sum(), _inner(weighted, self._z))
        return self._curvature.vjp(weighted, M)

    def hessian(self, v: Values) -> dict[str, Tensor]:
        if self._each_row:
            return self._stacked([row.hessian(v) for row in self._rows()])
        z, w = self._z, self._weights
        m, K = self._curvature.jvp(v)
        weighted = z * w.unsqueeze(-1)
        n, S = w.sum(), _inner(weighted, z)
        g = -(w.unsqueeze(-1) * m + weighted @ K)
        M = 0.5 * n * K - K @ S - _inner(m.expand(z.shape), weighted)
        return added(self._curvature.vjp(g, M), self._curvature.second_order_vjp(v, weighted, n, S))

    def _rows(self) -> list[ParametricStatistics]:
        z, w = self._z, self._weights
        at = [slice(i, i + 1) for i in range(len(z))]
        return [ParametricStatistics(self._curvature.of_row(i), z[row], w[row], False) for i, row in enumerate(at)]

    def _stacked(self, results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        curvature = self._curvature
        if not results:
            coordinates = curvature.model.arguments.coordinates
            return {name: curvature.mean.new_zeros((0, *coordinates(name).shape)) for name in curvature.names}
        return {name: torch.stack([result[name] for result in results]) for name in curvature.names}


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Σ a bᵀ over all rows: (d, d)."""
    d = a.shape[-1]
    return a.expand(broadcast(a.shape, b.shape)).reshape(-1, d).mT @ b.expand(broadcast(a.shape, b.shape)).reshape(-1, d)
