"""Second order by θ where µ(θ) and Σ(θ) are any functions: whitened inner products of their derivatives.

With mₖ = L⁻¹ ∂ₖµ (of each row, where the mean is a row's own), Kₖ = L⁻¹ ∂ₖΣ L⁻ᵀ and the direction v: m = Σ vₖ mₖ, K = Σ vₖ Kₖ,

    (F v)ₖ = mₖᵀ m + ½ ⟨Kₖ, K⟩                                        averaged over the rows
    (H v)ₖ = Σ w [−mₖᵀ (m + K z) − ⟨Kₖ, m zᵀ + K z zᵀ − ½ K⟩] + ⟨G, d²Σ[v, k]⟩ + Σ w aᵀ d²µ[v, k]

(Magnus & Neudecker, *Matrix Differential Calculus*, ch. 15; Kₖ symmetric).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from mvnjac.covariance.parametrisation import Values
from mvnjac.covariance.structured.parametric import Parametric, ParametricFactor
from mvnjac.errors import ShapeError
from mvnjac.information.curvature import Curvature
from mvnjac.model.model import Model
from mvnjac.score.evaluation import Derivatives
from mvnjac.tensors.broadcasting import broadcast


@dataclass
class WhitenedRows:
    """z (*batch, d) and w (*batch) of the rows; the batch that sums over them keep."""

    z: Tensor
    weights: Tensor
    param_batch: Size


class ParametricCurvature(Curvature):
    """By the parameters of a `Parametric`, and by the mean where that is given apart."""

    broadcasts = False
    _row: int | None = None  # of the rows' means, the one that is meant; None: all

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        mean, factor = model.prepared()
        assert isinstance(factor, ParametricFactor)
        assert isinstance(model.covariance, Parametric)
        self.model, self.names, self.factor, self.covariance, self.mean = model, list(names), factor, model.covariance, mean
        if mean.ndim > 1 and not model.mean_follows:
            raise ShapeError(
                f"the mean has shape {tuple(mean.shape)}, and the covariance is Parametric: for means of each row's own let the "
                "function return (µ, Σ)."
            )
        if model.working != model.dtype:
            self.covariance = self.covariance.map(lambda t: t.to(model.working))
        self._whitened = {
            name: (None if by_mean is None else self._down_rows(by_mean), factor.whiten_matrix(by_sigma))
            for name, (by_mean, by_sigma) in factor.tangents.items()
        }

    def fisher(self, v: Values) -> dict[str, Tensor]:
        m, K = self._change(v)
        count = max(m[..., 0].numel(), 1)
        return self._gradients(m / count, 0.5 * K)

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor]:
        return {}

    def statistics(self, derivatives: Derivatives, weights: Tensor | None, param_batch: Size) -> WhitenedRows:
        z = derivatives.rows.whitened
        w = torch.ones(z.shape[:-1], dtype=z.dtype, device=z.device) if weights is None else weights.expand(z.shape[:-1])
        if param_batch and param_batch != z.shape[:-1]:
            raise ShapeError(f"a Parametric covariance has no leading dimensions; cannot keep {tuple(param_batch)}.")
        return WhitenedRows(z, w, param_batch)

    def hessian(self, statistics: object, v: Values) -> dict[str, Tensor]:
        assert isinstance(statistics, WhitenedRows)
        if statistics.param_batch:
            return self._row_by_row(statistics, lambda part, row: part.hessian(row, v))
        z, w = statistics.z, statistics.weights
        m, K = self._change(v)
        weighted = z * w.unsqueeze(-1)
        n, S = w.sum(), _inner(weighted, z)
        g = -(w.unsqueeze(-1) * m + weighted @ K)
        M = 0.5 * n * K - K @ S - _inner(m.expand(z.shape), weighted)
        result = self._gradients(g, M)
        for name, second_order in self._second_order(v, weighted, n, S).items():
            result[name] = result[name] + second_order
        return result

    def score(self, statistics: object) -> dict[str, Tensor]:
        assert isinstance(statistics, WhitenedRows)
        if statistics.param_batch:
            return self._row_by_row(statistics, lambda part, row: part.score(row))
        weighted = statistics.z * statistics.weights.unsqueeze(-1)
        return self._gradients(weighted, self._matrix_score(weighted, statistics.weights.sum(), _inner(weighted, statistics.z)))

    def count(self, statistics: object) -> Tensor:
        assert isinstance(statistics, WhitenedRows)
        return statistics.weights if statistics.param_batch else statistics.weights.sum()

    def _row_by_row(
        self, rows: WhitenedRows, f: Callable[[ParametricCurvature, WhitenedRows], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        each = []
        for i in range(len(rows.z)):
            part = copy.copy(self)
            part._row = i
            part.mean = self.mean[i : i + 1] if self.mean.ndim > 1 else self.mean
            part._whitened = {
                name: (by_mean[i : i + 1] if by_mean is not None and by_mean.ndim > 2 else by_mean, by_sigma)
                for name, (by_mean, by_sigma) in self._whitened.items()
            }
            each.append(f(part, WhitenedRows(rows.z[i : i + 1], rows.weights[i : i + 1], Size())))
        if not each:
            return {name: self.mean.new_zeros((0, *self.model.coordinates(name).shape)) for name in self.names}
        return {name: torch.stack([result[name] for result in each]) for name in self.names}

    # --- to and from whitened coordinates ------------------------------------------------------------------------

    def _change(self, v: Values) -> tuple[Tensor, Tensor]:
        """m (*rows, d) and K (d, d) along v."""
        m, K = torch.zeros_like(self.mean), torch.zeros_like(self.factor.scale_tril)
        if "mean" in v:
            m = m + self.factor.solve_triangular(v["mean"].unsqueeze(-1)).squeeze(-1)
        for name, value in v.items():
            if name != "mean":
                by_mean, by_sigma = self._whitened[name]
                flat = value.reshape(-1)
                K = K + torch.tensordot(flat, by_sigma, 1)
                m = m if by_mean is None else m + by_mean @ flat
        return m, K

    def _gradients(self, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """By θ, of a gradient g by the rows' m (or by their sum) and M by K."""
        result = {}
        for name in self.names:
            if name == "mean":
                total = g.reshape(-1, g.shape[-1]).sum(0)
                result[name] = self.factor.solve_triangular(total.unsqueeze(-1), transpose=True).squeeze(-1)
                continue
            by_mean, by_sigma = self._whitened[name]
            flat = (by_sigma * M).sum((-2, -1))
            if by_mean is not None:
                own = g.sum_to_size(by_mean.shape[:-1]) if g.ndim >= by_mean.ndim - 1 else g
                flat = flat + torch.tensordot(own.reshape(-1), by_mean.reshape(-1, by_mean.shape[-1]), 1)
            result[name] = flat.reshape(self.covariance.parameters[name].shape)
        return result

    def _second_order(self, v: Values, weighted: Tensor, n: Tensor, S: Tensor) -> dict[str, Tensor]:
        own = {name: value for name, value in v.items() if name != "mean"}
        if not own:
            return {}
        a = self._up_rows(weighted)
        mean_gradient = a if self.covariance.mean is None else self._by_mean_of_all_rows(a, self.covariance.mean.shape)
        sigma_gradient = self.factor.unwhiten_gradient(self._matrix_score(weighted, n, S))
        second_order = self.covariance.second(own, sigma_gradient, mean_gradient)
        return {name: value for name, value in second_order.items() if name in self.names}

    def _by_mean_of_all_rows(self, a: Tensor, shape: Size) -> Tensor:
        if len(shape) == 1:
            return a.reshape(-1, shape[-1]).sum(0)
        if self._row is None:
            return a.sum_to_size(shape)
        every = a.new_zeros(shape)
        every[self._row] = a[0]
        return every

    def _matrix_score(self, weighted: Tensor, n: Tensor, S: Tensor) -> Tensor:
        return 0.5 * (S - n * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device))

    def _down_rows(self, columns: Tensor) -> Tensor:
        """L⁻¹ of each row's (d, k)."""
        return self.factor.solve_triangular(columns)

    def _up_rows(self, rows: Tensor) -> Tensor:
        return self.factor.solve_triangular(rows.unsqueeze(-1), transpose=True).squeeze(-1)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Σ a bᵀ over all rows: (d, d)."""
    d = a.shape[-1]
    return a.expand(broadcast(a.shape, b.shape)).reshape(-1, d).mT @ b.expand(broadcast(a.shape, b.shape)).reshape(-1, d)
