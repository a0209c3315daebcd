"""Maps between a structure's parameters and whitened coordinates, by automatic differentiation of its definition θ → Σ(θ).

They are used if a structure has no closed form: for rows with missing entries, whose marginals are dense. The interface is
that of `whitened.WhitenedMaps`.
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
    """The derivative of θ → (µ, Σ) and its adjoint at one θ.

    Attributes:
        names: the requested parameters, which may include "mean".
    """

    def __init__(self, covariance: Covariance, mean: Tensor, factor: DenseFactor, names: Sequence[str]) -> None:
        self.covariance, self.mean, self.factor, self.names = covariance, mean, factor, list(names)
        self._param_names = [name for name in covariance.parameters if name in self.names]

    def jvp(self, v: Values) -> tuple[Tensor, Tensor]:
        """(m, K) of a change v of the parameters."""
        m, K = torch.zeros_like(self.mean), torch.zeros_like(self.factor.scale_tril)
        if "mean" in v:
            m = m + self._whiten(v["mean"])
        moving = [name for name in self._param_names if name in v]
        if moving:
            tangents = self._tangents(moving, v)
            K = K + self.factor.whiten_matrix(tangents[0])
            m = m + self._whiten(tangents[1]) if len(tangents) > 1 else m
        return m, K

    def vjp(self, g: Tensor | None, M: Tensor) -> dict[str, Tensor]:
        """The full gradients that correspond to (g, M), for each of M's leading dimensions beyond those of Σ."""
        result = {}
        mean_gradient = None if g is None else self._whiten(g, transpose=True)
        if "mean" in self.names and mean_gradient is not None:
            result["mean"] = mean_gradient
        if self._param_names:
            G = self.factor.unwhiten_gradient(0.5 * (M + M.mT))
            result |= dict(zip(self._param_names, self._cotangents(G, mean_gradient), strict=True))
        return result

    def second_order_vjp(self, v: Values, m: Tensor, K: Tensor, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """The gradients of ⟨G, d²Σ[v, ·]⟩ + ⟨a, d²µ[v, ·]⟩ for fixed G and a, which correspond to M and g.

        (m, K) is `jvp(v)`.
        """
        moving = [name for name in self._param_names if name in v]
        if not moving:
            return {}
        G, mean_gradient = self.factor.unwhiten_gradient(M), self._whiten(g, transpose=True)
        batch = broadcast(
            self.covariance.batch,
            batch_shape(G, 2),
            *[batch_shape(v[name], self.covariance.event_dims(name)) for name in moving],
        )
        extra = self._extra_dims(batch)
        f, values = self._function(self._param_names, batch[extra:])
        argnums = tuple(range(len(values)))

        def one(G: Tensor, mean_gradient: Tensor, *direction: Tensor) -> tuple[Tensor, ...]:
            def directional(*values: Tensor) -> Tensor:
                outputs, pull = _vjp(f, *values)
                gradients = dict(zip(self._param_names, pull((G, mean_gradient)[: len(outputs)]), strict=True))
                return torch.stack([(gradients[name] * u).sum() for name, u in zip(moving, direction, strict=True)]).sum()

            gradients: tuple[Tensor, ...] = torch.func.grad(directional, argnums)(*values)
            return gradients

        events = [2, 1, *(self.covariance.event_dims(name) for name in moving)]
        arguments = [
            t.expand((*batch, *t.shape[t.ndim - event :]))
            for t, event in zip([G, mean_gradient, *(v[name] for name in moving)], events, strict=True)
        ]
        return dict(zip(self._param_names, _over_leading(one, arguments, batch[:extra]), strict=True))

    def _function(self, names: Sequence[str], param_batch: Size) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
        """The function (parameters `names`) → (Σ,), or (Σ, µ) if the mean depends on them; and their values.

        param_batch: the leading dimensions of the values.
        """
        parameters = {
            name: value.expand((*param_batch, *value.shape[value.ndim - self.covariance.event_dims(name) :]))
            for name, value in self.covariance.parameters.items()
        }

        def f(*values: Tensor) -> tuple[Tensor, ...]:
            changed = self.covariance.at(list({**parameters, **dict(zip(names, values, strict=True))}.values()))
            mean = changed.mean
            sigma = changed.dense(self.mean.shape[-1])
            return (sigma,) if mean is None else (sigma, mean)

        return f, [parameters[name] for name in names]

    def _extra_dims(self, batch: Size) -> int:
        """The number of dimensions of `batch` before those of Σ; 0 if it does not end with the batch shape of Σ."""
        param_batch = self.covariance.batch
        extra = len(batch) - len(param_batch)
        return extra if batch[extra:] == param_batch else 0

    def _whiten(self, v: Tensor, *, transpose: bool = False) -> Tensor:
        """L⁻¹ v, or L⁻ᵀ v, for vectors v (..., d)."""
        return self.factor.solve_triangular(v.unsqueeze(-1), transpose=transpose).squeeze(-1)

    def _tangents(self, names: Sequence[str], v: Values) -> Sequence[Tensor]:
        """The tangent of Σ, or those of (Σ, µ), for each of v's leading dimensions beyond those of Σ."""
        batch = broadcast(self.covariance.batch, *[batch_shape(v[name], self.covariance.event_dims(name)) for name in names])
        extra = self._extra_dims(batch)
        f, values = self._function(names, batch[extra:])
        outputs, pull = _vjp(f, *values)
        # the transpose of the transpose, in reverse mode: this works under every functorch transform
        push = _vjp(lambda *c: pull(c), *(torch.zeros_like(o) for o in outputs))[1]
        directions = [v[name].expand((*batch[:extra], *value.shape)) for name, value in zip(names, values, strict=True)]
        return _over_leading(lambda *direction: push(direction), directions, batch[:extra])

    def _cotangents(self, G: Tensor, mean_gradient: Tensor | None) -> Sequence[Tensor]:
        """The gradients with respect to the parameters, given those with respect to Σ and µ."""
        param_batch, batch = self.covariance.batch, batch_shape(G, 2)
        broadcasts = batch[len(batch) - len(param_batch) :] == param_batch
        f, values = self._function(self._param_names, param_batch if broadcasts else batch)
        outputs, pull = _vjp(f, *values)
        leading = batch[: G.ndim - outputs[0].ndim]
        cotangents = [G]
        if len(outputs) > 1:
            shape = (*leading, *outputs[1].shape)
            cotangents.append((G.new_zeros(()) if mean_gradient is None else mean_gradient).expand(shape))
        return _over_leading(lambda *cotangent: pull(cotangent), cotangents, leading)


def _over_leading(function: Callable[..., Sequence[Tensor]], arguments: Sequence[Tensor], leading: Size) -> Sequence[Tensor]:
    """A function mapped over the leading dimensions of its arguments."""
    if not leading:
        return function(*arguments)
    results = torch.func.vmap(function)(*(t.flatten(0, len(leading) - 1) for t in arguments))
    return [t.unflatten(0, leading) for t in results]


def _vjp(f: Callable[..., Any], *values: Tensor) -> tuple[Any, Any]:
    require_no_jit_trace("second derivatives of this structure")
    result: Any = torch.func.vjp(f, *values)
    return result
