"""torch.func with the density by its textbook formula."""

from __future__ import annotations

import torch
from torch.func import grad, grad_and_value, jacrev, vmap

from benchmarks.implementations.operands import tensors
from benchmarks.implementations.torch_autograd import density, total_density, unique, vech_density
from benchmarks.workload import Data, Result


def matrix(data: Data):
    operands = tensors(data)
    per_row = vmap(grad(density, argnums=(1, 2)), (0, None, None))
    return lambda: dict(zip(("mean", "covariance"), per_row(*operands), strict=True))


def total(data: Data):
    operands = tensors(data)
    both = grad_and_value(total_density, argnums=(1, 2))

    def call() -> Result:
        (mean, covariance), value = both(*operands)
        return {"value": value, "mean": mean, "covariance": covariance}

    return call


def one_per_row(data: Data):
    operands = tensors(data)
    both = vmap(grad_and_value(density, argnums=(1, 2)))

    def call() -> Result:
        (mean, covariance), value = both(*operands)
        return {"value": value, "mean": mean, "covariance": covariance}

    return call


def gram(data: Data):
    """The n×p matrix over the unique elements from vmap(grad), times its transpose."""
    operands = tensors(data)
    d = operands[0].shape[-1]
    columns, rows = torch.triu_indices(d, d)
    twice = torch.where(rows == columns, 1.0, 2.0).to(operands[0].dtype)
    per_row = vmap(grad(density, argnums=(1, 2)), (0, None, None))

    def call() -> Result:
        mean, covariance = per_row(*operands)
        J = torch.cat([mean, covariance[:, rows, columns] * twice], -1)
        return {"gram": J.mT @ J}

    return call


def hessian(data: Data):
    x, *parameters = tensors(data)
    at = unique(*parameters)
    second = torch.func.hessian(lambda p: vech_density(x, p))
    return lambda: {"hessian": second(at)}


def hessian_reverse(data: Data):
    x, *parameters = tensors(data)
    at = unique(*parameters)
    second = jacrev(jacrev(lambda p: vech_density(x, p)))
    return lambda: {"hessian": second(at)}
