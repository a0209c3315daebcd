"""Whitened coordinates of the dense parametrisations: Σ = L (I + K) Lᵀ and µ + L m, at K = 0 and m = 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.covariance.parametrisation import DenseParametrisation, Values
from mvnjac.errors import ArgumentError
from mvnjac.whitening.factor import DenseFactor


class WhitenedMaps:
    """The maps between some parameters and whitened coordinates.

    Attributes:
        names: the parameters, "mean" among them or not.
        owners: the parametrisations that the others belong to.
    """

    def __init__(
        self, mean: Tensor, factor: DenseFactor, names: Sequence[str], owners: Sequence[type[DenseParametrisation]]
    ) -> None:
        self.mean, self.factor = mean, factor
        self.names, self.owners = list(names), list(owners)

    @property
    def canonical(self) -> bool:
        """Whether natural parameters are among them."""
        return any(owner.canonical for owner in self.owners)

    @property
    def complete(self) -> bool:
        """Whether these are all parameters of one parametrisation, so that the maps can be inverted."""
        asked = set(self.names) - {"mean"}
        if len(self.owners) > 1 or any(asked != set(owner.fields) for owner in self.owners):
            return False
        return not ("mean" in self.names and self.canonical)

    def jvp(self, v: Values) -> tuple[Tensor, Tensor]:
        """(m, K) of a change of the parameters."""
        m, K = torch.zeros_like(self.mean), torch.zeros_like(self.factor.scale_tril)
        if "mean" in v:
            m = m + self.factor.solve_triangular(v["mean"].unsqueeze(-1)).squeeze(-1)
        for owner in self.owners:
            own = self.own(owner, v)
            if not own:
                continue
            K = K + owner.differential(self.factor, own)
            moved = owner.mean_differential(self.factor, self.mean, own)
            m = m if moved is None else m + moved
        return m, K

    def vjp(self, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """The full gradients that (g, M) stands for; of M its symmetric part is meant."""
        M, result = 0.5 * (M + M.mT), {}
        if "mean" in self.names:
            result["mean"] = self.factor.solve_triangular(g.unsqueeze(-1), transpose=True).squeeze(-1)
        for owner in self.owners:
            by_mean = owner.mean_adjoint(self.factor, self.mean, g)
            result |= self.projected(owner, added(owner.adjoint(self.factor, M), by_mean))
        return result

    def projected(self, owner: type[DenseParametrisation], gradients: Values) -> dict[str, Tensor]:
        """Those that were asked for: symmetric to the last bit, and 0 where there is no freedom."""
        return owner.projected(self.factor, {name: value for name, value in gradients.items() if name in self.names})

    def second_order_vjp(self, v: Values, m: Tensor, K: Tensor, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """The gradients of ⟨G, d²Σ[v, ·]⟩ + ⟨a, d²µ[v, ·]⟩, with G and a, for which M and g stand, fixed; (m, K) is the change v."""
        if self.canonical:  # of complete rows with n = 0, s = g and S = 2 M, these and the Hessian by (µ, Σ) cancel
            cross = m.unsqueeze(-1) * g.unsqueeze(-2)
            return self.vjp((K @ g.unsqueeze(-1)).squeeze(-1), 2 * K @ M + cross)
        result: dict[str, Tensor] = {}
        for owner in self.owners:
            own = self.own(owner, v)
            result = added(result, self.projected(owner, owner.second_differential(self.factor, own, M) if own else {}))
        return result

    def require_one_parametrisation(self) -> None:
        """What stays fixed must be known for a second derivative."""
        if len(self.owners) > 1 or ("mean" in self.names and self.canonical):
            raise ArgumentError(
                f"hessian: {', '.join(self.names)} are parameters of more than one parametrisation; a second derivative needs "
                "to know what stays fixed: ask for those of one."
            )

    def inverse_jvp(self, m: Tensor, K: Tensor) -> dict[str, Tensor]:
        """The change of the parameters that (m, K) is, where they are complete."""
        result = {"mean": (self.factor.scale_tril @ m.unsqueeze(-1)).squeeze(-1)} if "mean" in self.names else {}
        for owner in self.owners:
            change = owner.inverse_differential(self.factor, 0.5 * (K + K.mT))
            result |= change | owner.inverse_mean_differential(self.factor, self.mean, m, change)
        return result

    def inverse_vjp(self, gradients: Values) -> tuple[Tensor, Tensor]:
        """(g, M) of full gradients, where they are complete; M up to its symmetric part."""
        g, M = torch.zeros_like(self.mean), torch.zeros_like(self.factor.scale_tril)
        if "mean" in gradients:
            g = (self.factor.scale_tril.mT @ gradients["mean"].unsqueeze(-1)).squeeze(-1)
        for owner in self.owners:
            M = owner.inverse_adjoint(self.factor, gradients)
            by_mean = owner.inverse_mean_adjoint(self.factor, self.mean, gradients)
            if by_mean is not None:
                g, M = by_mean[0], M + by_mean[1]
        return g, M

    @staticmethod
    def own(owner: type[DenseParametrisation], v: Values) -> dict[str, Tensor]:
        """What of these belongs to one parametrisation."""
        return {name: value for name, value in v.items() if name in owner.fields}


def added(a: Values, b: Values) -> dict[str, Tensor]:
    """The sums, where a name is in both."""
    return {**a, **{name: a[name] + value if name in a else value for name, value in b.items()}}
