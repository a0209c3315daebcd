"""The textbook density with missing entries: each row has its marginal density, with a Cholesky factorisation per row.

Derivatives are computed by reverse-mode autodiff row by row through `dense()`, and the expected information from its
definition, pattern by pattern. None of the library's derivatives is used here; `tests/oracles/test_missing.py` compares these
functions with lavaan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import mvnjac
from mvnjac.covariance import dense_parameters
from tests.covariance import reference


def log_density(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """(*batch) for rows with NaN for missing entries; 0 for a row that is missing altogether."""
    d = x.shape[-1]
    batch = torch.broadcast_shapes(x.shape[:-1], mean.shape[:-1], covariance.shape[:-2])
    rows = zip(
        x.expand(*batch, d).reshape(-1, d),
        mean.expand(*batch, d).reshape(-1, d),
        covariance.expand(*batch, d, d).reshape(-1, d, d),
        strict=True,
    )
    densities = [_one_row(*row) for row in rows]
    nothing = 0 * (
        x.nan_to_num().sum() + mean.sum() + covariance.sum()
    )  # so that there is a gradient with respect to every argument
    return (torch.stack(densities).reshape(batch) if densities else x.new_zeros(batch)) + nothing


def _one_row(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    o = ~x.isnan()
    if not o.any():
        return x.new_zeros(())
    return reference.log_density(x[o], mean[o], covariance[o][:, o])


def own_gradients(x: Tensor, mean: Tensor, structure: mvnjac.Covariance) -> dict[str, Tensor]:
    """Each row's gradients with respect to x, mean and the structure's parameters, all expanded to the full batch."""
    return reference.own_gradients(x, mean, structure, log_density)


def dense_gradient(name: str, x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Each row's gradient with respect to a dense parameter, for any Σ."""
    return reference.dense_gradient(name, x, mean, covariance, log_density)


class Textbook:
    """The log-density as a function of the unique elements of some parameters, in the columns' order.

    Args:
        names: the parameters.
        values: the values of these parameters and of others that `moments` needs, by name.
        kinds: the coordinates of each parameter, by name.
        moments: the function from the parameters to µ and Σ.
    """

    def __init__(
        self,
        names: Sequence[str],
        values: Mapping[str, Tensor],
        kinds: Mapping[str, Any],
        moments: Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]],
    ) -> None:
        self.names, self.values, self.kinds, self._moments = list(names), values, kinds, moments
        self.point = self.pack(values)

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """The unique elements of all parameters as one vector."""
        return torch.cat([self.kinds[name].pack(values[name]).reshape(-1) for name in self.names])

    def moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """µ(θ) and Σ(θ)."""
        parameters, first = dict(self.values), 0
        for name in self.names:
            kind = self.kinds[name]
            change = theta[first : first + kind.size] - kind.pack(self.values[name]).reshape(-1)
            parameters[name] = self.values[name] + kind.unpack(change)
            first += kind.size
        return self._moments(parameters)

    def score(self, x: Tensor) -> Tensor:
        """(p,) the total score."""
        theta = self.point.clone().requires_grad_()
        return torch.autograd.grad(log_density(x, *self.moments(theta)).sum(), theta)[0]

    def scores(self, x: Tensor) -> Tensor:
        """(n, p) the scores of the rows."""
        return torch.stack([self.score(row) for row in x])

    def hessian_times(self, x: Tensor, v: Tensor) -> Tensor:
        """(..., p) H v for v (..., p), by reverse mode over reverse mode."""
        theta = self.point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(log_density(x, *self.moments(theta)).sum(), theta, create_graph=True)
        products = [_gradient(gradient @ one, theta) for one in v.reshape(-1, len(theta))]
        return torch.stack(products).reshape(v.shape)

    def hessian(self, x: Tensor) -> Tensor:
        """(p, p) the Hessian of the total log-density."""
        return self.hessian_times(x, torch.eye(len(self.point), dtype=torch.float64))

    def fisher(self, observed: Tensor) -> Tensor:
        """(p, p) the average over the rows of observed (n, d) of ∂µᵀ P ∂µ + ½ tr(P ∂Σ P ∂Σ), P the inverse of the marginal.

        ∂µ and ∂Σ are computed in reverse mode, which is correct through every factorisation in every version of torch.
        """
        mean, sigma = self.moments(self.point)
        by_mean, by_sigma = torch.autograd.functional.jacobian(self.moments, self.point)  # (d, p), (d, d, p)
        patterns, counts = observed.unique(dim=0, return_counts=True)
        total = torch.zeros(len(self.point), len(self.point), dtype=torch.float64)
        for o, count in zip(patterns, counts, strict=True):
            P = torch.linalg.inv(sigma[o][:, o])
            mean_change, sigma_change = by_mean[o], by_sigma[o][:, o].movedim(-1, 0)
            covariance_part = 0.5 * (P @ sigma_change @ P).flatten(1) @ sigma_change.mT.flatten(1).mT
            total = total + count * (mean_change.mT @ P @ mean_change + covariance_part)
        return total / max(len(observed), 1)


def _gradient(value: Tensor, theta: Tensor) -> Tensor:
    if not value.requires_grad:  # rows without an observed entry are constants
        return torch.zeros_like(theta)
    return torch.autograd.grad(value, theta, retain_graph=True, allow_unused=True, materialize_grads=True)[0]


def own_textbook(mean: Tensor, structure: mvnjac.Covariance) -> Textbook:
    """The textbook density as a function of the mean and the structure's parameters."""
    d = mean.shape[-1]
    kinds = {"mean": _vector(d), **{name: structure.coordinates_of(name, d) for name in structure.parameters}}

    def moments(values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return values["mean"], structure.at([values[name] for name in structure.parameters]).dense(d)

    return Textbook(list(kinds), {"mean": mean, **structure.parameters}, kinds, moments)


def dense_textbook(owner: type, mean: Tensor, sigma: Tensor) -> Textbook:
    """The textbook density as a function of the parameters of a dense parametrisation, for any Σ."""
    d = mean.shape[-1]
    kinds = {"mean": _vector(d), **{name: cls.fields[name](d) for name, cls in dense_parameters().items()}}
    names = list(owner.fields) if owner.canonical else ["mean", *owner.fields]

    def moments(values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        if owner.canonical:
            dense = torch.linalg.inv(-2 * values["natural_matrix"])
            return dense @ values["natural_location"], dense
        return values["mean"], owner(**{name: values[name] for name in owner.fields}).dense()

    return Textbook(names, {**reference.views(mean, sigma), "mean": mean}, kinds, moments)


def _vector(d: int) -> Any:
    return dense_parameters()["scale"].fields["scale"](d)


def gaps(x: Tensor, seed: int = 0) -> Tensor:
    """x with missing entries: alternating in the first row, none in the second, all in the third, random in the others."""
    n, d = x.shape[:-1].numel(), x.shape[-1]
    observed = torch.rand(n, d, generator=torch.Generator().manual_seed(seed)) < 0.6
    first = torch.stack([torch.arange(d) % 2 == 0, torch.ones(d, dtype=torch.bool), torch.zeros(d, dtype=torch.bool)])
    observed[: min(n, 3)] = first[: min(n, 3)]
    return x.masked_fill(~observed.reshape(x.shape), torch.nan)
