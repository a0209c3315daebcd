"""Second order at one (µ, Σ): products with the Fisher information and the Hessian, by parameters in their own shapes.

Two ways. `DenseCurvature` serves every dense parametrisation in whitened coordinates Σ = L (I + K) Lᵀ, µ + L m: with the sums
n = Σ w, s = Σ w z and S = Σ w z zᵀ of the whitened residuals (no more is ever needed of the rows),

    score     (s, ½ (S − n I))
    Fisher    (m, K) → (m, ½ K)                                  per observation
    Hessian   (m, K) → (−n m − K s, −½ (K S + S K − n K) − ½ (m sᵀ + s mᵀ))

and each parametrisation supplies the maps to and from K (`covariance/parametrisation.py`). `StructuredCurvature` serves the
others at their own cost: the structure supplies its information, and H v is the gradient of the directional derivative.

Source: Magnus & Neudecker, *Matrix Differential Calculus*, ch. 15, whitened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from mvnjac.autodiff.directional import gradient_of_directional
from mvnjac.covariance.maps.whitened import WhitenedMaps, added
from mvnjac.covariance.parametrisation import DenseParametrisation, Values
from mvnjac.linalg.solvers import require_regular
from mvnjac.linalg.symmetric_products import add_symmetric_product
from mvnjac.model.model import Model
from mvnjac.score.evaluation import Derivatives
from mvnjac.tensors.broadcasting import RowLayout, batch_shape
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals
from mvnjac.whitening.sums import WhitenedMoments


class Curvature(ABC):
    """Second order by the mean and some parameters: linear maps from changes to full gradients, name by name.

    Attributes:
        model: the mean and the covariance.
        redundant: whether different parameters mean the same density, whichever they are.
        broadcasts: whether changes may have more leading dimensions than the batch; else they come one at a time.
        solves: whether F⁻¹ g or H⁻¹ g may be closed form for some parameters.
    """

    model: Model
    broadcasts: bool
    solves = True

    @abstractmethod
    def fisher(self, v: Values) -> dict[str, Tensor]:
        """F v, per observation."""

    @abstractmethod
    def fisher_solve(self, gradients: Values) -> dict[str, Tensor]:
        """F⁻¹ g by those parameters where it is closed form; they share no information with the others, which are left out."""

    @abstractmethod
    def statistics(self, derivatives: Derivatives, weights: Tensor | None, param_batch: Size) -> object:
        """What of the rows, summed down to the batch `param_batch`, the Hessian needs."""

    @abstractmethod
    def hessian(self, statistics: object, v: Values) -> dict[str, Tensor]:
        """H v, summed."""

    @abstractmethod
    def score(self, statistics: object) -> dict[str, Tensor]:
        """The full gradients, summed."""

    @abstractmethod
    def count(self, statistics: object) -> Tensor:
        """(*param_batch) the sum of the weights."""

    @property
    def redundant(self) -> bool:
        return False

    @property
    def work(self) -> int:
        """About how many numbers a product holds for the time being."""
        return 8 * max(self.model.d, *(value.numel() for value in self.model.covariance.parameters.values()))

    def units(self) -> dict[str, Tensor] | None:
        """A scale for each entry of each parameter, where there may be too many of them for the matrix; else None."""
        return None

    def hessian_solve(self, statistics: object, gradients: Values) -> dict[str, Tensor]:
        """H⁻¹ g where it is closed form; nothing where it is not."""
        return {}

    def minimum_norm(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """A change of the parameters without what leaves the density as it is."""
        return v

    def natural(self, rows: Residuals, weights: Tensor | None, param_batch: Size) -> dict[str, Tensor] | None:
        """(n F)⁻¹ times the total score, where that is simpler than either of them."""
        return None


class DenseCurvature(Curvature):
    """In whitened coordinates, by any dense parametrisation: O(d³) a product, whatever the number of rows."""

    broadcasts = True

    def __init__(self, model: Model, names: Sequence[str], owners: Sequence[type[DenseParametrisation]]) -> None:
        mean, factor = model.prepared()
        self.model, self.factor = model, factor.dense()
        self.names, self.whitening = list(names), WhitenedMaps(mean, self.factor, names, owners)

    @property
    def work(self) -> int:
        return self.model.d * self.model.d

    def fisher(self, v: Values) -> dict[str, Tensor]:
        m, K = self.whitening.jvp(v)
        return self.whitening.vjp(m, 0.5 * K)

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor]:
        if not self.whitening.complete:
            return {}
        g, M = self.whitening.inverse_vjp(gradients)
        return self.whitening.inverse_jvp(g, M + M.mT)

    def statistics(self, derivatives: Derivatives, weights: Tensor | None, param_batch: Size) -> WhitenedMoments:
        rows = derivatives.rows.densely()
        at_once = None if param_batch else WhitenedMoments.at_once(rows, weights)
        return WhitenedMoments.of([(rows, weights)], param_batch) if at_once is None else at_once

    def hessian(self, statistics: object, v: Values) -> dict[str, Tensor]:
        assert isinstance(statistics, WhitenedMoments)
        self.whitening.require_one_parametrisation()
        n, s, S = statistics.count[..., None], statistics.first, statistics.second
        m, K = self.whitening.jvp(v)
        if self.whitening.canonical:  # the second derivative of log p does not depend on x
            return self.whitening.vjp(-n * m, -0.5 * n[..., None] * K)
        g = -n * m - (K @ s.unsqueeze(-1)).squeeze(-1)
        cross = m.unsqueeze(-1) * s.unsqueeze(-2)
        result = self.whitening.vjp(g, 0.5 * n[..., None] * K - K @ S - cross)
        return added(result, self.whitening.second_order_vjp(v, m, K, s, statistics.matrix_score))

    def hessian_solve(self, statistics: object, gradients: Values) -> dict[str, Tensor]:
        """For Σ itself, which has no curvature of its own: K N + N K = −2 W + (u sᵀ + s uᵀ)/n, N = S − s sᵀ/n − n/2 I."""
        assert isinstance(statistics, WhitenedMoments)
        if set(self.names) != {"mean", "covariance_matrix"}:
            return {}
        n, s, S = statistics.count[..., None], statistics.first, statistics.second
        u, W = self.whitening.inverse_vjp(gradients)
        none = n == 0
        n = torch.where(none, 1, n)
        outer = s.unsqueeze(-1) * s.unsqueeze(-2)
        N = S - outer / n[..., None] - 0.5 * n[..., None] * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
        cross = u.unsqueeze(-1) * s.unsqueeze(-2)
        right = -(W + W.mT) + (cross + cross.mT) / n[..., None]
        values, Q = torch.linalg.eigh(N)
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        smallest = torch.where(none.squeeze(-1), 0, sums.abs().amin((-2, -1)))
        require_regular("hessian", smallest, sums.abs().amax((-2, -1)), S.shape[-1])
        K = Q @ ((Q.mT @ right @ Q) / sums) @ Q.mT
        m = -(u + (K @ s.unsqueeze(-1)).squeeze(-1)) / n
        return self.whitening.inverse_jvp(m, K)

    def natural(self, rows: Residuals, weights: Tensor | None, param_batch: Size) -> dict[str, Tensor] | None:
        """The mean of r, and of r rᵀ − Σ: nothing is solved."""
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
            result["covariance_matrix"] = (
                layout.unfold_params(second / count[..., None, None], 2) - self.factor.covariance_matrix
            )
        return {name: result[name] for name in self.names}

    def score(self, statistics: object) -> dict[str, Tensor]:
        assert isinstance(statistics, WhitenedMoments)
        return self.whitening.vjp(statistics.first, statistics.matrix_score)

    def count(self, statistics: object) -> Tensor:
        assert isinstance(statistics, WhitenedMoments)
        return statistics.count


@dataclass
class WeightedRows:
    """Rows, a weight each, and the batch that sums over them keep."""

    derivatives: Derivatives
    weights: Tensor
    param_batch: Size


class StructuredCurvature(Curvature):
    """By a structure's own parameters, at the structure's cost: nothing d×d is formed."""

    broadcasts = False

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        self.model, self.names = model, list(names)
        self.mean, self.factor = model.prepared()

    def fisher(self, v: Values) -> dict[str, Tensor]:
        own = {name: value for name, value in v.items() if name != "mean"}
        result = self.model.covariance.fisher(self.factor, own) if own else {}
        if "mean" in v:
            result["mean"] = solved(self.factor, v["mean"])
        zeros = {name: self.mean.new_zeros(self.model.coordinates(name).shape) for name in self.names}
        return {name: result.get(name, zeros[name]) for name in self.names}

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor]:
        """The mean and the covariance's parameters share no information: each is solved for by itself."""
        covariance = self.model.covariance
        own = {name: gradient for name, gradient in gradients.items() if name != "mean"}
        solved = (covariance.fisher_solve(self.factor, own) or {}) if own else {}
        if "mean" in gradients:
            solved["mean"] = covariance.times(self.factor, gradients["mean"])
        return solved

    @property
    def redundant(self) -> bool:
        """Whether these parameters move along directions that leave the density as it is."""
        return self.model.covariance.redundant_among(self.names)

    def units(self) -> dict[str, Tensor] | None:
        return self.model.covariance.units(self.factor)

    def minimum_norm(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model.covariance.minimum_norm(self.factor, v)

    def statistics(self, derivatives: Derivatives, weights: Tensor | None, param_batch: Size) -> WeightedRows:
        batch = derivatives.rows.batch
        given = torch.ones(batch, dtype=self.mean.dtype, device=self.mean.device) if weights is None else weights
        return WeightedRows(derivatives, given.expand(batch), param_batch)

    def hessian(self, statistics: object, v: Values) -> dict[str, Tensor]:
        assert isinstance(statistics, WeightedRows)
        x = statistics.derivatives.rows.x
        return gradient_of_directional(self.model, x, statistics.weights, v, self.names, statistics.param_batch)

    def score(self, statistics: object) -> dict[str, Tensor]:
        assert isinstance(statistics, WeightedRows)
        owns = [statistics.param_batch] * len(self.names)
        return dict(zip(self.names, statistics.derivatives.totals(self.names, statistics.weights, owns), strict=True))

    def count(self, statistics: object) -> Tensor:
        assert isinstance(statistics, WeightedRows)
        layout = RowLayout(statistics.weights.shape, statistics.param_batch)
        return layout.unfold_params(layout.fold(statistics.weights, 0).sum(-1), 0)


def solved(factor: Factor, v: Tensor) -> Tensor:
    """Σ⁻¹ v, for v (..., d)."""
    layout = RowLayout(torch.broadcast_shapes(batch_shape(v, 1), factor.batch), factor.batch)
    return layout.unfold(factor.solve(layout.fold(v), layout))
