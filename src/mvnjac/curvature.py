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

from mvnjac.batches import RowLayout, batch_shape
from mvnjac.covariance import dense_parameters
from mvnjac.covariance.factor import DenseFactor
from mvnjac.covariance.natural import Natural
from mvnjac.covariance.parametrisation import DenseParametrisation, Values
from mvnjac.derivatives import Derivatives
from mvnjac.errors import ArgumentError
from mvnjac.log_prob import gradient_of_directional
from mvnjac.model import Model
from mvnjac.products import add_symmetric_product
from mvnjac.solvers import require_regular


class Curvature(ABC):
    """Second order by the mean and some parameters: linear maps from changes to full gradients, name by name.

    Attributes:
        redundant: whether different parameters mean the same density, whichever they are.
        broadcasts: whether changes may have more leading dimensions than the batch; else they come one at a time.
    """

    broadcasts: bool
    redundant: bool = False

    @abstractmethod
    def fisher(self, v: Values) -> dict[str, Tensor]:
        """F v, per observation."""

    @abstractmethod
    def fisher_solve(self, gradients: Values) -> dict[str, Tensor] | None:
        """F⁻¹ g where it is closed form; None where it is not."""

    @abstractmethod
    def statistics(self, derivatives: Derivatives, weights: Tensor | None, own: Size) -> object:
        """What of the rows, summed down to the batch `own`, the Hessian needs."""

    @abstractmethod
    def hessian(self, statistics: object, v: Values) -> dict[str, Tensor]:
        """H v, summed."""

    @abstractmethod
    def score(self, statistics: object) -> dict[str, Tensor]:
        """The full gradients, summed."""

    @abstractmethod
    def count(self, statistics: object) -> Tensor:
        """(*own) the sum of the weights."""

    def hessian_solve(self, statistics: object, gradients: Values) -> dict[str, Tensor] | None:
        """H⁻¹ g where it is closed form; None where it is not."""
        return None

    def minimum_norm(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """A change of the parameters without what leaves the density as it is."""
        return v


def curvature(model: Model, names: Sequence[str]) -> Curvature:
    """Second order by these parameters, the way that suits them."""
    covariance = model.covariance
    own = set(names) <= {"mean", *covariance.fields}
    if own and not isinstance(covariance, DenseParametrisation):
        return StructuredCurvature(model, names)
    owners = dict.fromkeys(dense_parameters()[name] for name in names if name != "mean")
    return DenseCurvature(model, names, list(owners))


@dataclass
class Sums:
    """n = Σ w (*own), s = Σ w z (*own, d) and S = Σ w z zᵀ (*own, d, d) of whitened residuals."""

    count: Tensor
    first: Tensor
    second: Tensor


class DenseCurvature(Curvature):
    """In whitened coordinates, by any dense parametrisation: O(d³) a product, whatever the number of rows."""

    broadcasts = True

    def __init__(self, model: Model, names: Sequence[str], owners: Sequence[type[DenseParametrisation]]) -> None:
        self.names, self.owners = list(names), list(owners)
        rows = model.prepared()
        self.mean, self.factor = rows
        if not isinstance(self.factor, DenseFactor):
            self.factor = self.factor.dense()

    # --- to and from whitened coordinates ------------------------------------------------------------------------

    def _whiten(self, v: Values) -> tuple[Tensor, Tensor]:
        """(m, K) of a change of the parameters."""
        L = self.factor.scale_tril
        m, K = torch.zeros_like(self.mean), torch.zeros_like(L)
        if "mean" in v:
            m = m + self.factor.down(v["mean"].unsqueeze(-1)).squeeze(-1)
        for owner in self.owners:
            own = {name: value for name, value in v.items() if name in owner.fields}
            K = K + owner.differential(self.factor, own)
            if issubclass(owner, Natural):
                m = m + owner.mean_differential(self.factor, self.mean, own)
        return m, K

    def _gradients(self, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """The full gradients that (g, M) stands for."""
        M, result = 0.5 * (M + M.mT), {}
        if "mean" in self.names:
            result["mean"] = self.factor.up(g.unsqueeze(-1)).squeeze(-1)
        for owner in self.owners:
            gradients = owner.adjoint(self.factor, M)
            if issubclass(owner, Natural):
                gradients = _sum(gradients, owner.mean_adjoint(self.factor, self.mean, g))
            result |= {name: value for name, value in gradients.items() if name in self.names}
        return {name: _kind(name, value) for name, value in result.items()}

    def _unwhiten(self, m: Tensor, K: Tensor) -> dict[str, Tensor]:
        """The change of all parameters that (m, K) is; of one owner that is complete."""
        result = {"mean": (self.factor.scale_tril @ m.unsqueeze(-1)).squeeze(-1)} if "mean" in self.names else {}
        for owner in self.owners:
            change = owner.inverse_differential(self.factor, 0.5 * (K + K.mT))
            if issubclass(owner, Natural):
                moved = self.factor.up(m.unsqueeze(-1)) - 2 * change["natural_matrix"] @ self.mean.unsqueeze(-1)
                change["natural_location"] = moved.squeeze(-1)
            result |= change
        return result

    @property
    def complete(self) -> bool:
        """Whether the parameters asked for are all of one parametrisation, so that the maps can be inverted."""
        asked = set(self.names) - {"mean"}
        if len(self.owners) > 1 or any(asked != set(owner.fields) for owner in self.owners):
            return False
        return not ("mean" in self.names and any(owner.canonical for owner in self.owners))

    # --- the contract --------------------------------------------------------------------------------------------

    def fisher(self, v: Values) -> dict[str, Tensor]:
        m, K = self._whiten(v)
        return self._gradients(m, 0.5 * K)

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor] | None:
        return self._unwhiten(*self._solved(gradients)) if self.complete else None

    def _solved(self, gradients: Values) -> tuple[Tensor, Tensor]:
        g, M = self._whiten_gradients(gradients)
        return g, M + M.mT

    def _whiten_gradients(self, gradients: Values) -> tuple[Tensor, Tensor]:
        """(g, M) of full gradients, M up to its symmetric part."""
        L = self.factor.scale_tril
        g, M = torch.zeros_like(self.mean), torch.zeros_like(L)
        if "mean" in gradients:
            g = (L.mT @ gradients["mean"].unsqueeze(-1)).squeeze(-1)
        for owner in self.owners:
            M = owner.inverse_adjoint(self.factor, gradients)
            if issubclass(owner, Natural):
                g = self.factor.down(gradients["natural_location"].unsqueeze(-1)).squeeze(-1)
                M = M - g.unsqueeze(-1) @ self.factor.down(self.mean.unsqueeze(-1)).mT
        return g, M

    def statistics(self, derivatives: Derivatives, weights: Tensor | None, own: Size) -> Sums:
        rows = derivatives.rows.densely()
        layout = RowLayout(rows.batch, own)
        z, w = layout.fold(rows.whitened), None if weights is None else layout.fold(weights, 0)
        count = z.new_full(layout.group_shape, layout.n_rows) if w is None else w.sum(-1)
        first = (z if w is None else z * w.unsqueeze(-1)).sum(-2)
        zero = torch.zeros(*layout.group_shape, rows.d, rows.d, dtype=z.dtype, device=z.device)
        second = add_symmetric_product(zero, z, w)
        return Sums(layout.unfold_own(count, 0), layout.unfold_own(first, 1), layout.unfold_own(second, 2))

    def hessian(self, statistics: object, v: Values) -> dict[str, Tensor]:
        assert isinstance(statistics, Sums)
        self._require_one_parametrisation()
        n, s, S = statistics.count[..., None], statistics.first, statistics.second
        m, K = self._whiten(v)
        if any(owner.canonical for owner in self.owners):
            return self._gradients(-n * m, -0.5 * n[..., None] * K)
        g = -n * m - (K @ s.unsqueeze(-1)).squeeze(-1)
        cross = m.unsqueeze(-1) * s.unsqueeze(-2)
        M = 0.5 * n[..., None] * K - K @ S - cross  # its symmetric part is what is meant
        result = self._gradients(g, M)
        for owner in self.owners:
            own = {name: value for name, value in v.items() if name in owner.fields}
            bent = owner.second_differential(self.factor, own, self._matrix_score(statistics)) if own else {}
            result = _sum(result, {name: _kind(name, t) for name, t in bent.items() if name in self.names})
        return result

    def hessian_solve(self, statistics: object, gradients: Values) -> dict[str, Tensor] | None:
        """For Σ itself, which has no curvature of its own: K N + N K = −2 W + (u sᵀ + s uᵀ)/n, N = S − s sᵀ/n − n/2 I."""
        assert isinstance(statistics, Sums)
        if not self.complete or set(self.names) != {"mean", "covariance_matrix"}:
            return None
        n, s, S = statistics.count[..., None], statistics.first, statistics.second
        u, W = self._whiten_gradients(gradients)
        outer = s.unsqueeze(-1) * s.unsqueeze(-2)
        N = S - outer / n[..., None] - 0.5 * n[..., None] * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
        cross = u.unsqueeze(-1) * s.unsqueeze(-2)
        right = -(W + W.mT) + (cross + cross.mT) / n[..., None]
        values, Q = torch.linalg.eigh(N)
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        require_regular("hessian", sums.abs().amin((-2, -1)), sums.abs().amax((-2, -1)), S.shape[-1])
        K = Q @ ((Q.mT @ right @ Q) / sums) @ Q.mT
        m = -(u + (K @ s.unsqueeze(-1)).squeeze(-1)) / n
        return self._unwhiten(m, K)

    def score(self, statistics: object) -> dict[str, Tensor]:
        assert isinstance(statistics, Sums)
        return self._gradients(statistics.first, self._matrix_score(statistics))

    def count(self, statistics: object) -> Tensor:
        assert isinstance(statistics, Sums)
        return statistics.count

    @staticmethod
    def _matrix_score(sums: Sums) -> Tensor:
        identity = torch.eye(sums.second.shape[-1], dtype=sums.second.dtype, device=sums.second.device)
        return 0.5 * (sums.second - sums.count[..., None, None] * identity)

    def _require_one_parametrisation(self) -> None:
        clash = "mean" in self.names and any(owner.canonical for owner in self.owners)
        if len(self.owners) > 1 or clash:
            raise ArgumentError(
                f"hessian: {', '.join(self.names)} are parameters of more than one parametrisation; a second derivative needs "
                "to know what stays fixed: ask for those of one."
            )


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
            result["mean"] = self._precision_times(v["mean"])
        zeros = {name: torch.zeros(self.model.coordinates(name).shape, dtype=self.mean.dtype) for name in self.names}
        return {name: result.get(name, zeros[name]) for name in self.names}

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor] | None:
        solved = self.model.covariance.fisher_solve(self.factor, gradients) if set(gradients) != {"mean"} else {}
        if solved is None or set(gradients) - {"mean"} != set(solved):
            return None
        if "mean" in gradients:
            solved["mean"] = self.model.covariance.times(self.factor, gradients["mean"])
        return solved

    def _precision_times(self, v: Tensor) -> Tensor:
        layout = RowLayout(torch.broadcast_shapes(batch_shape(v, 1), self.factor.batch), self.factor.batch)
        return layout.unfold(self.factor.solve(layout.fold(v), layout))

    @property
    def redundant(self) -> bool:
        """Whether these parameters move along directions that leave the density as it is."""
        covariance = self.model.covariance
        return covariance.redundant and set(covariance.fields) <= set(self.names)

    def units(self) -> dict[str, Tensor]:
        """A scale for each entry of each parameter."""
        units = self.model.covariance.units(self.factor)
        return {name: units[name] if name in units else units["cov_diag"].sqrt() for name in self.names}

    def minimum_norm(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model.covariance.minimum_norm(self.factor, v)

    def statistics(self, derivatives: Derivatives, weights: Tensor | None, own: Size) -> object:
        rows = derivatives.rows
        given = torch.ones(rows.batch, dtype=self.mean.dtype, device=self.mean.device) if weights is None else weights
        return derivatives, given.expand(rows.batch), own

    def hessian(self, statistics: object, v: Values) -> dict[str, Tensor]:
        derivatives, weights, own = statistics  # type: ignore[misc]
        return gradient_of_directional(self.model, derivatives.rows.x, weights, v, self.names, own)

    def score(self, statistics: object) -> dict[str, Tensor]:
        derivatives, weights, own = statistics  # type: ignore[misc]
        return dict(zip(self.names, derivatives.totals(self.names, weights, [own] * len(self.names)), strict=True))

    def count(self, statistics: object) -> Tensor:
        _, weights, own = statistics  # type: ignore[misc]
        return RowLayout(weights.shape, own).fold(weights, 0).sum(-1).reshape(own)


def _sum(a: Values, b: Values) -> dict[str, Tensor]:
    return {name: a[name] + b[name] if name in a and name in b else a[name] if name in a else b[name] for name in {**a, **b}}


def _kind(name: str, value: Tensor) -> Tensor:
    """Symmetric gradients symmetric to the last bit, and 0 where there is no freedom."""
    if name == "mean":
        return value
    kind = dense_parameters()[name].fields[name](value.shape[-1])
    return kind.project(0.5 * (value + value.mT) if kind.mirrored else value)
