"""Maps between a structure's parameters and whitened coordinates, by the structure's own definition θ → Σ(θ).

For what a structure has no closed form of its own: rows with missing entries, whose marginals are dense. The interface is that of
`whitened.Whitening`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor

from mvnjac.batches import batch_shape, broadcast
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.factor import DenseFactor
from mvnjac.covariance.parametrisation import Values


class Definition:
    """The derivative of θ → (µ, Σ) and its adjoint, at one θ.

    Attributes:
        names: the parameters asked for, "mean" among them or not.
    """

    def __init__(self, covariance: Covariance, mean: Tensor, factor: DenseFactor, names: Sequence[str]) -> None:
        self.covariance, self.mean, self.factor, self.names = covariance, mean, factor, list(names)
        self._own = [name for name in covariance.parameters if name in self.names]

    def change(self, v: Values) -> tuple[Tensor, Tensor]:
        """(m, K) of a change of the parameters."""
        m, K = torch.zeros_like(self.mean), torch.zeros_like(self.factor.scale_tril)
        if "mean" in v:
            m = m + self.factor.down(v["mean"].unsqueeze(-1)).squeeze(-1)
        moving = [name for name in self._own if name in v]
        if moving:
            batches = (batch_shape(v[name], self._event(name)) for name in moving)
            f, values = self._function(moving, broadcast(self.covariance.batch, *batches))
            outputs, pull = _vjp(f, *values)
            directions = tuple(v[name].expand(value.shape) for name, value in zip(moving, values, strict=True))
            tangents = _vjp(lambda *c: pull(c), *(torch.zeros_like(o) for o in outputs))[1](directions)
            K = K + self.factor.whiten_matrix(tangents[0])
            m = m + self.factor.down(tangents[1].unsqueeze(-1)).squeeze(-1) if len(tangents) > 1 else m
        return m, K

    def gradients(self, g: Tensor | None, M: Tensor) -> dict[str, Tensor]:
        """The full gradients that (g, M) stands for, for each of the leading dimensions that M has beyond Σ's."""
        result = {}
        up = None if g is None else self.factor.up(g.unsqueeze(-1)).squeeze(-1)
        if "mean" in self.names and up is not None:
            result["mean"] = up
        if self._own:
            G = self.factor.unwhiten_gradient(0.5 * (M + M.mT))
            result |= dict(zip(self._own, self._pulled(G, up), strict=True))
        return result

    def bent(self, v: Values, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """The gradients of ⟨G, d²Σ[v, ·]⟩ + ⟨a, d²µ[v, ·]⟩, with G and a, for which M and g stand, fixed."""
        moving = [name for name in self._own if name in v]
        if not moving:
            return {}
        f, values = self._function(self._own, self.covariance.batch)
        cotangents = (self.factor.unwhiten_gradient(M), self.factor.up(g.unsqueeze(-1)).squeeze(-1))

        def along(*some: Tensor) -> Tensor:
            outputs, pull = _vjp(f, *some)
            gradients = dict(zip(self._own, pull(cotangents[: len(outputs)]), strict=True))
            return torch.stack([(gradients[name] * v[name]).sum() for name in moving]).sum()

        return dict(zip(self._own, torch.func.grad(along, tuple(range(len(values))))(*values), strict=True))

    def _function(self, names: Sequence[str], own: Size) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
        """(some parameters) → (Σ,), or (Σ, µ) where the mean is a function of them; and their values with a batch of their own."""
        values = {name: self._wide(name, value, own) for name, value in self.covariance.parameters.items()}

        def f(*some: Tensor) -> tuple[Tensor, ...]:
            changed = self.covariance.at(list({**values, **dict(zip(names, some, strict=True))}.values()))
            mean = changed.mean
            sigma = changed.dense(self.mean.shape[-1])
            return (sigma,) if mean is None else (sigma, mean)

        return f, [values[name] for name in names]

    def _wide(self, name: str, value: Tensor, own: Size) -> Tensor:
        return value.expand((*own, *value.shape[value.ndim - self._event(name) :]))

    def _event(self, name: str) -> int:
        return len(self.covariance.coordinates_of(name, self.mean.shape[-1]).shape)

    def _pulled(self, G: Tensor, up: Tensor | None) -> Sequence[Tensor]:
        own, batch = self.covariance.batch, batch_shape(G, 2)
        ends = batch[len(batch) - len(own) :] == own
        f, values = self._function(self._own, own if ends else batch)
        outputs, pull = _vjp(f, *values)
        if len(outputs) > 1:
            mean_cotangent = torch.zeros_like(outputs[1]) if up is None else up.sum_to_size(outputs[1].shape)
            return pull((G, mean_cotangent))
        more = G.ndim - outputs[0].ndim
        if more == 0:
            return pull((G,))
        each = torch.func.vmap(lambda one: pull((one,)))(G.flatten(0, more - 1))
        return [t.unflatten(0, batch[:more]) for t in each]


def _vjp(f: Callable[..., Any], *values: Tensor) -> tuple[Any, Any]:
    result: Any = torch.func.vjp(f, *values)
    return result
