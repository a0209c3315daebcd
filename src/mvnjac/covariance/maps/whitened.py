"""Whitened coordinates of the dense parametrisations: Σ = L (I + K) Lᵀ and mean µ + L m, at K = 0 and m = 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.covariance.parametrisation import DenseParametrisation, Values
from mvnjac.errors import ArgumentError
from mvnjac.whitening.factor import DenseFactor


class WhitenedMaps:
    """The linear maps between some parameters and whitened coordinates.

    Attributes:
        names: the parameters, which may include "mean".
        owners: the parametrisations to which the others belong.
    """

    def __init__(
        self, mean: Tensor, factor: DenseFactor, names: Sequence[str], owners: Sequence[type[DenseParametrisation]]
    ) -> None:
        self.mean, self.factor = mean, factor
        self.names, self.owners = list(names), list(owners)

    @property
    def canonical(self) -> bool:
        """Whether the parameters include natural parameters."""
        return any(owner.canonical for owner in self.owners)

    @property
    def complete(self) -> bool:
        """Whether these are all parameters of a single parametrisation, so that the maps are invertible."""
        names = set(self.names) - {"mean"}
        if len(self.owners) > 1 or any(names != set(owner.fields) for owner in self.owners):
            return False
        return not ("mean" in self.names and self.canonical)

    def jvp(self, v: Values) -> tuple[Tensor, Tensor]:
        """(m, K) of a change v of the parameters."""
        m, K = torch.zeros_like(self.mean), torch.zeros_like(self.factor.scale_tril)
        if "mean" in v:
            m = m + self.factor.solve_triangular(v["mean"].unsqueeze(-1)).squeeze(-1)
        for owner in self.owners:
            change = {name: value for name, value in v.items() if name in owner.fields}
            if not change:
                continue
            K = K + owner.differential(self.factor, change)
            mean_change = owner.mean_differential(self.factor, self.mean, change)
            m = m if mean_change is None else m + mean_change
        return m, K

    def vjp(self, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """The full gradients that correspond to g and the symmetric part of M."""
        M, result = 0.5 * (M + M.mT), {}
        if "mean" in self.names:
            result["mean"] = self.factor.solve_triangular(g.unsqueeze(-1), transpose=True).squeeze(-1)
        for owner in self.owners:
            mean_part = owner.mean_adjoint(self.factor, self.mean, g)
            result |= self.projected(owner, added(owner.adjoint(self.factor, M), mean_part))
        return result

    def projected(self, owner: type[DenseParametrisation], gradients: Values) -> dict[str, Tensor]:
        """The gradients with respect to the requested parameters: exactly symmetric, and 0 where an entry is fixed."""
        return owner.projected(self.factor, {name: value for name, value in gradients.items() if name in self.names})

    def second_order_vjp(self, v: Values, m: Tensor, K: Tensor, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """The gradients of ⟨G, d²Σ[v, ·]⟩ + ⟨a, d²µ[v, ·]⟩ for fixed G and a, which correspond to M and g.

        (m, K) is `jvp(v)`.
        """
        # For n = 0, s = g and S = 2 M the Hessian with respect to natural parameters is 0: this term is the negative of the
        # other term, that of the Hessian with respect to (µ, Σ).
        if self.canonical:
            cross = m.unsqueeze(-1) * g.unsqueeze(-2)
            return self.vjp((K @ g.unsqueeze(-1)).squeeze(-1), 2 * K @ M + cross)
        result: dict[str, Tensor] = {}
        for owner in self.owners:
            change = {name: value for name, value in v.items() if name in owner.fields}
            if change:
                result = added(result, self.projected(owner, owner.second_differential(self.factor, change, M)))
        return result

    def require_one_parametrisation(self) -> None:
        """Raise if the parameters belong to several parametrisations: their second derivatives are not defined."""
        if len(self.owners) > 1 or ("mean" in self.names and self.canonical):
            raise ArgumentError(
                f"hessian: {', '.join(self.names)} are parameters of more than one parametrisation; a second derivative needs "
                "to know what stays fixed: ask for the parameters of a single one."
            )

    def inverse_jvp(self, m: Tensor, K: Tensor) -> dict[str, Tensor]:
        """The change of the parameters that corresponds to (m, K), if the parameters are `complete`."""
        result = {"mean": (self.factor.scale_tril @ m.unsqueeze(-1)).squeeze(-1)} if "mean" in self.names else {}
        for owner in self.owners:
            change = owner.inverse_differential(self.factor, 0.5 * (K + K.mT))
            result |= change | owner.inverse_mean_differential(self.factor, self.mean, m, change)
        return result

    def inverse_vjp(self, gradients: Values) -> tuple[Tensor, Tensor]:
        """g, and a matrix whose symmetric part is M, of full gradients, if the parameters are `complete`."""
        g, M = torch.zeros_like(self.mean), torch.zeros_like(self.factor.scale_tril)
        if "mean" in gradients:
            g = (self.factor.scale_tril.mT @ gradients["mean"].unsqueeze(-1)).squeeze(-1)
        for owner in self.owners:
            M = owner.inverse_adjoint(self.factor, gradients)
            mean_part = owner.inverse_mean_adjoint(self.factor, self.mean, gradients)
            if mean_part is not None:
                g, M = mean_part[0], M + mean_part[1]
        return g, M


def added(a: Values, b: Values) -> dict[str, Tensor]:
    """The tensors of both, summed for the names that are in both."""
    return {**a, **{name: a[name] + value if name in a else value for name, value in b.items()}}
