"""Maps between a structure's parameters and whitened coordinates, by the structure's own definition θ → Σ(θ).

For what a structure has no closed form of its own: rows with missing entries, whose marginals are dense. The interface is that of
`whitened.WhitenedMaps`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import Values
from mvnjac.tensors.broadcasting import batch_shape, broadcast
from mvnjac.tensors.tracing import require_no_jit_trace
from mvnjac.whitening.factor import DenseFactor


class AutodiffMaps:
    """The derivative of θ → (µ, Σ) and its adjoint, at one θ.

    Attributes:
        names: the parameters asked for, "mean" among them or not.
    """

    def __init__(self, covariance: Covariance, mean: Tensor, factor: DenseFactor, names: Sequence[str]) -> None:
        self.covariance, self.mean, self.factor, self.names = covariance, mean, factor, list(names)
        self._own = [name for name in covariance.parameters if name in self.names]

    def jvp(self, v: Values) -> tuple[Tensor, Tensor]:
        """(m, K) of a change of the parameters."""
        m, K = torch.zeros_like(self.mean), torch.zeros_like(self.factor.scale_tril)
        if "mean" in v:
            m = m + self.factor.solve_triangular(v["mean"].unsqueeze(-1)).squeeze(-1)
        moving = [name for name in self._own if name in v]
        if moving:
            tangents = self._pushed(moving, v)
            K = K + self.factor.whiten_matrix(tangents[0])
            m = m + self.factor.solve_triangular(tangents[1].unsqueeze(-1)).squeeze(-1) if len(tangents) > 1 else m
        return m, K

    def vjp(self, g: Tensor | None, M: Tensor) -> dict[str, Tensor]:
        """The full gradients that (g, M) stands for, for each of the leading dimensions that M has beyond Σ's."""
        result = {}
        up = None if g is None else self.factor.solve_triangular(g.unsqueeze(-1), transpose=True).squeeze(-1)
        if "mean" in self.names and up is not None:
            result["mean"] = up
        if self._own:
            G = self.factor.unwhiten_gradient(0.5 * (M + M.mT))
            result |= dict(zip(self._own, self._pulled(G, up), strict=True))
        return result

    def second_order_vjp(self, v: Values, m: Tensor, K: Tensor, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """The gradients of ⟨G, d²Σ[v, ·]⟩ + ⟨a, d²µ[v, ·]⟩, with G and a, for which M and g stand, fixed; (m, K) is the change v."""
        moving = [name for name in self._own if name in v]
        if not moving:
            return {}
        G, up = self.factor.unwhiten_gradient(M), self.factor.solve_triangular(g.unsqueeze(-1), transpose=True).squeeze(-1)
        own = self.covariance.batch
        batch = broadcast(own, batch_shape(G, 2), *[batch_shape(v[name], self._event(name)) for name in moving])
        more = len(batch) - len(own) if batch[len(batch) - len(own) :] == own else 0
        f, values = self._function(self._own, batch[more:])
        every = tuple(range(len(values)))

        def one(G: Tensor, up: Tensor, *direction: Tensor) -> tuple[Tensor, ...]:
            def along(*some: Tensor) -> Tensor:
                outputs, pull = _vjp(f, *some)
                gradients = dict(zip(self._own, pull((G, up)[: len(outputs)]), strict=True))
                return torch.stack([(gradients[name] * u).sum() for name, u in zip(moving, direction, strict=True)]).sum()

            gradients: tuple[Tensor, ...] = torch.func.grad(along, every)(*values)
            return gradients

        kinds = [2, 1, *(self._event(name) for name in moving)]
        given = [
            t.expand((*batch, *t.shape[t.ndim - event :]))
            for t, event in zip([G, up, *(v[name] for name in moving)], kinds, strict=True)
        ]
        if not more:
            return dict(zip(self._own, one(*given), strict=True))
        each = torch.func.vmap(one)(*(t.flatten(0, more - 1) for t in given))
        return {name: t.unflatten(0, batch[:more]) for name, t in zip(self._own, each, strict=True)}

    def _function(self, names: Sequence[str], param_batch: Size) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
        """(some parameters) → (Σ,), or (Σ, µ) where the mean is a function of them; and their values with a batch of their own."""
        values = {name: self._wide(name, value, param_batch) for name, value in self.covariance.parameters.items()}

        def f(*some: Tensor) -> tuple[Tensor, ...]:
            changed = self.covariance.at(list({**values, **dict(zip(names, some, strict=True))}.values()))
            mean = changed.mean
            sigma = changed.dense(self.mean.shape[-1])
            return (sigma,) if mean is None else (sigma, mean)

        return f, [values[name] for name in names]

    def _wide(self, name: str, value: Tensor, param_batch: Size) -> Tensor:
        return value.expand((*param_batch, *value.shape[value.ndim - self._event(name) :]))

    def _event(self, name: str) -> int:
        return len(self.covariance.coordinates_of(name, self.mean.shape[-1]).shape)

    def _pushed(self, names: Sequence[str], v: Values) -> Sequence[Tensor]:
        """The tangent of Σ, or of (Σ, µ), for each of the leading dimensions that v has beyond Σ's."""
        own = self.covariance.batch
        batch = broadcast(own, *[batch_shape(v[name], self._event(name)) for name in names])
        more = len(batch) - len(own) if batch[len(batch) - len(own) :] == own else 0
        f, values = self._function(names, batch[more:])
        outputs, pull = _vjp(f, *values)
        push = _vjp(lambda *c: pull(c), *(torch.zeros_like(o) for o in outputs))[1]  # twice in reverse: under every transform
        directions = tuple(v[name].expand((*batch[:more], *value.shape)) for name, value in zip(names, values, strict=True))
        if not more:
            return push(directions)
        each = torch.func.vmap(lambda *one: push(one))(*(t.flatten(0, more - 1) for t in directions))
        return [t.unflatten(0, batch[:more]) for t in each]

    def _pulled(self, G: Tensor, up: Tensor | None) -> Sequence[Tensor]:
        own, batch = self.covariance.batch, batch_shape(G, 2)
        ends = batch[len(batch) - len(own) :] == own
        f, values = self._function(self._own, own if ends else batch)
        outputs, pull = _vjp(f, *values)
        more = G.ndim - outputs[0].ndim
        given = [G]
        if len(outputs) > 1:
            given.append((G.new_zeros(()) if up is None else up).expand((*batch[:more], *outputs[1].shape)))
        if more == 0:
            return pull(tuple(given))
        each = torch.func.vmap(lambda *one: pull(one))(*(t.flatten(0, more - 1) for t in given))
        return [t.unflatten(0, batch[:more]) for t in each]


def _vjp(f: Callable[..., Any], *values: Tensor) -> tuple[Any, Any]:
    require_no_jit_trace("second derivatives of this structure")
    result: Any = torch.func.vjp(f, *values)
    return result
