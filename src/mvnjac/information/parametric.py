"""Second derivatives with respect to θ for any functions µ(θ) and Σ(θ), from whitened inner products of their derivatives.

With mₖ = L⁻¹ ∂ₖµ (of each row, if the means differ), Kₖ = L⁻¹ ∂ₖΣ L⁻ᵀ, a direction v, m = Σ vₖ mₖ and K = Σ vₖ Kₖ,

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
    """Second derivatives with respect to the parameters of a `Parametric` and, if it is a separate argument, the mean."""

    broadcasts = False
    _row: int | None = None  # the only row, if the means differ between rows; None: all rows

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        mean, factor = model.prepared()
        assert isinstance(factor, ParametricFactor)
        assert isinstance(model.covariance, Parametric)
        self.model, self.names, self.factor, self.covariance, self.mean = model, list(names), factor, model.covariance, mean
        if mean.ndim > 1 and not model.arguments.mean_follows:
            raise ShapeError(
                f"the mean has shape {tuple(mean.shape)} and the covariance is Parametric; expected a mean (d,). For a "
                "different mean in each row let the function return (µ, Σ)."
            )
        if model.working != model.dtype:
            self.covariance = self.covariance.map(lambda t: t.to(model.working))
        self._tangents = {
            name: (None if mean_tangent is None else factor.solve_triangular(mean_tangent), factor.whiten_matrix(sigma_tangent))
            for name, (mean_tangent, sigma_tangent) in factor.tangents.items()
        }

    def fisher(self, v: Values) -> dict[str, Tensor]:
        m, K = self.jvp(v)
        count = max(m[..., 0].numel(), 1)
        return self.vjp(m / count, 0.5 * K)

    def statistics(self, evaluation: GeneralEvaluation, weights: Tensor | None, param_batch: Size) -> ParametricStatistics:
        z = evaluation.rows.whitened
        w = torch.ones(z.shape[:-1], dtype=z.dtype, device=z.device) if weights is None else weights.expand(z.shape[:-1])
        if param_batch and param_batch != z.shape[:-1]:
            raise ShapeError(
                f"a Parametric covariance has no leading dimensions; got {tuple(param_batch)}, expected (): use one at a time."
            )
        return ParametricStatistics(self, z, w, bool(param_batch))

    def of_row(self, i: int) -> ParametricCurvature:
        """The same for one row, whose mean may differ from those of the other rows."""
        part = copy.copy(self)
        part._row = i
        part.mean = self.mean[i : i + 1] if self.mean.ndim > 1 else self.mean
        part._tangents = {
            name: (m[i : i + 1] if m is not None and m.ndim > 2 else m, K) for name, (m, K) in self._tangents.items()
        }
        return part

    def jvp(self, v: Values) -> tuple[Tensor, Tensor]:
        """m (*rows, d) and K (d, d) for the change v."""
        m, K = torch.zeros_like(self.mean), torch.zeros_like(self.factor.scale_tril)
        if "mean" in v:
            m = m + self.factor.solve_triangular(v["mean"].unsqueeze(-1)).squeeze(-1)
        for name, value in v.items():
            if name != "mean":
                mean_tangent, sigma_tangent = self._tangents[name]
                flat = value.reshape(-1)
                K = K + torch.tensordot(flat, sigma_tangent, 1)
                m = m if mean_tangent is None else m + mean_tangent @ flat
        return m, K

    def vjp(self, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """The gradients with respect to θ from g, with respect to m (of the rows or their sum), and M, with respect to K."""
        result = {}
        for name in self.names:
            if name == "mean":
                result[name] = self._unwhitened(g.reshape(-1, g.shape[-1]).sum(0))
                continue
            mean_tangent, sigma_tangent = self._tangents[name]
            flat = (sigma_tangent * M).sum((-2, -1))
            if mean_tangent is not None:
                by_row = g.sum_to_size(mean_tangent.shape[:-1]) if g.ndim >= mean_tangent.ndim - 1 else g
                flat = flat + torch.tensordot(by_row.reshape(-1), mean_tangent.reshape(-1, mean_tangent.shape[-1]), 1)
            result[name] = flat.reshape(self.covariance.parameters[name].shape)
        return result

    def second_order_vjp(self, v: Values, weighted: Tensor, n: Tensor, S: Tensor) -> dict[str, Tensor]:
        """The gradients of ⟨G, d²Σ[v, ·]⟩ + Σ w aᵀ d²µ[v, ·]; weighted: w z of each row."""
        covariance_part = {name: value for name, value in v.items() if name != "mean"}
        if not covariance_part:
            return {}
        a = self._unwhitened(weighted)
        mean_gradient = a if self.covariance.mean is None else self._in_shape_of_mean(a, self.covariance.mean.shape)
        sigma_gradient = self.factor.unwhiten_gradient(self.matrix_score(n, S))
        second_order = self.covariance.second(covariance_part, sigma_gradient, mean_gradient)
        return {name: value for name, value in second_order.items() if name in self.names}

    def _in_shape_of_mean(self, a: Tensor, shape: Size) -> Tensor:
        if len(shape) == 1:
            return a.reshape(-1, shape[-1]).sum(0)
        if self._row is None:
            return a.sum_to_size(shape)
        gradient = a.new_zeros(shape)
        gradient[self._row] = a[0]
        return gradient

    @staticmethod
    def matrix_score(n: Tensor, S: Tensor) -> Tensor:
        """½ (S − n I)."""
        return 0.5 * (S - n * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device))

    def _unwhitened(self, rows: Tensor) -> Tensor:
        """L⁻ᵀ of each row."""
        return self.factor.solve_triangular(rows.unsqueeze(-1), transpose=True).squeeze(-1)


class ParametricStatistics(RowStatistics):
    """Whitened residuals z (*batch, d) with weights w (*batch); their sum, or one result per row (`each_row`)."""

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
        return [ParametricStatistics(self._curvature.of_row(i), z[i : i + 1], w[i : i + 1], False) for i in range(len(z))]

    def _stacked(self, results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        curvature = self._curvature
        if not results:
            coordinates = curvature.model.arguments.coordinates
            return {name: curvature.mean.new_zeros((0, *coordinates(name).shape)) for name in curvature.names}
        return {name: torch.stack([result[name] for result in results]) for name in curvature.names}


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Σ a bᵀ over all rows: (d, d)."""
    d, shape = a.shape[-1], broadcast(a.shape, b.shape)
    return a.expand(shape).reshape(-1, d).mT @ b.expand(shape).reshape(-1, d)
