"""mvnjac, called as by its users."""

from __future__ import annotations

import torch
from torch.func import grad, vmap

import mvnjac
from benchmarks.implementations.operands import leaves, tensors
from benchmarks.workload import Data, Result
from mvnjac import Jacobian


def _columns(data: Data) -> int:
    d = data["x"].shape[-1]
    return d + d * (d + 1) // 2


def matrix(data: Data):
    operands = tensors(data)
    return lambda: {"matrix": mvnjac.jacobian(*operands).matrix()}


def matrix_out(data: Data):
    operands = tensors(data)
    out = torch.zeros(len(operands[0]), _columns(data), dtype=operands[0].dtype)
    return lambda: {"matrix": mvnjac.jacobian(*operands).matrix(out=out)}


def rows_by_vmap(data: Data):
    """vmap(grad(...)) of mvnjac.log_prob."""
    operands = tensors(data)
    per_row = vmap(grad(mvnjac.log_prob, argnums=(1, 2)), (0, None, None))
    return lambda: dict(zip(("mean", "covariance"), per_row(*operands), strict=True))


def _gradients(J: Jacobian) -> Result:
    total = J.sum()
    return {"mean": total["mean"], "covariance": total["covariance_matrix"]}


def total(data: Data):
    operands = tensors(data)
    return lambda: _gradients(mvnjac.jacobian(*operands))


def value_and_total(data: Data):
    operands = tensors(data)

    def call() -> Result:
        J = mvnjac.jacobian(*operands)
        return {"value": J.log_prob.sum(), **_gradients(J)}

    return call


def one_per_row(data: Data):
    """One Gaussian per row: values and gradients."""
    operands = tensors(data)

    def call() -> Result:
        J = mvnjac.jacobian(*operands)
        return {"value": J.log_prob, **_gradients(J)}

    return call


def prepared_total(data: Data):
    x, *parameters = tensors(data)
    gaussian = mvnjac.Gaussian(*parameters)

    def call() -> Result:
        J = gaussian.jacobian(x)
        return {"value": J.log_prob.sum(), **_gradients(J)}

    return call


def training_step(data: Data):
    x, *parameters = tensors(data)

    def call() -> Result:
        mean, covariance = leaves(*parameters)
        value = mvnjac.log_prob(x, mean, covariance).sum()
        value.backward()
        return {"value": value, "mean": mean.grad, "covariance": covariance.grad}

    return call


def log_prob(data: Data):
    operands = tensors(data)
    return lambda: {"value": mvnjac.log_prob(*operands)}


def prepared_log_prob(data: Data):
    x, *parameters = tensors(data)
    gaussian = mvnjac.Gaussian(*parameters)
    return lambda: {"value": gaussian.log_prob(x)}


def gram(data: Data):
    operands = tensors(data)
    return lambda: {"gram": mvnjac.jacobian(*operands).gram()}


def hessian(data: Data):
    operands = tensors(data)
    return lambda: {"hessian": mvnjac.hessian(*operands).matrix()}


def natural_gradient(data: Data):
    operands = tensors(data)

    def call() -> Result:
        step = mvnjac.natural_gradient(*operands)
        return {"mean": step["mean"], "covariance": step["covariance_matrix"]}

    return call


def low_rank(data: Data):
    x, mean, W, v = tensors(data)

    def call() -> Result:
        J = mvnjac.jacobian(x, mean, mvnjac.LowRank(W, v))
        return {"value": J.log_prob.sum(), **J.sum()}

    return call


def low_rank_step(data: Data):
    x, *parameters = tensors(data)

    def call() -> Result:
        mean, W, v = leaves(*parameters)
        value = mvnjac.log_prob(x, mean, mvnjac.LowRank(W, v)).sum()
        value.backward()
        return {"value": value, "mean": mean.grad, "cov_factor": W.grad, "cov_diag": v.grad}

    return call


def missing(data: Data):
    operands = tensors(data, "holes", "mean", "covariance")

    def call() -> Result:
        J = mvnjac.jacobian(*operands, missing="marginalise")
        return {"value": J.log_prob.sum(), **_gradients(J)}

    return call


def without_gaps(data: Data):
    """The same rows, complete."""
    return value_and_total({name: data[name] for name in ("x", "mean", "covariance")})


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A mean and a covariance for rows with gaps: each column's own, and correlations of 0.3."""
    deviation = (x - x.nanmean(0)).square().nanmean(0).sqrt()
    correlation = 0.7 * torch.eye(x.shape[1], dtype=x.dtype) + 0.3
    return x.nanmean(0), deviation.unsqueeze(-1) * correlation * deviation


def hessian_with_gaps(data: Data):
    (x,) = tensors(data, "x")
    at = _moments(x)
    return lambda: {"matrix": mvnjac.hessian(x, *at, missing="marginalise").matrix()}


def information_with_gaps(data: Data):
    (x,) = tensors(data, "x")
    at, observed = _moments(x), ~x.isnan()
    return lambda: {"matrix": mvnjac.fisher_information(*at, observed=observed).matrix()}
