"""Each row's directional derivative Dₙ(v), by the closed forms; and φ = Σ wₙ Dₙ(v), whose gradients are second derivatives.

∂φ/∂w = D(v)        ∂φ/∂(x, µ, θ) = H v, the Hessian of Σ w log p times v
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence

import torch
from torch import Size, Tensor

from mvnjac.autodiff.higher_order import combine, partition
from mvnjac.model.model import Model
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.tensors.broadcasting import batch_shape, broadcast
from mvnjac.tensors.tracing import require_no_jit_trace


def param_batches(model: Model, tensors: Sequence[Tensor]) -> tuple[Size, ...]:
    """The leading dimensions of x, µ, θ…"""
    return tuple(batch_shape(t, event) for t, event in zip(tensors, event_dimensions(model), strict=True))


def directional(model: Model, tensors: Sequence[Tensor], direction: Sequence[Tensor | None]) -> Tensor:
    """(*batch) each row's derivative along a direction (by x, µ, θ…; None where it does not move)."""
    x, *given = tensors
    model = model.at(given[0], given[1:])
    evaluation = GeneralEvaluation(model, model.unchecked_rows(x), batch_shape(x, 1))
    with model.arithmetic():
        products = [
            evaluation.block(name).matvec(v.to(model.working))
            for name, v in zip(argument_names(model), direction, strict=True)
            if v is not None
        ]
        total = functools.reduce(operator.add, products)
        return total.expand(broadcast(total.shape, evaluation.rows.batch)).to(model.dtype)


def gradient_of_phi(
    model: Model, needed: Sequence[bool], direction: Sequence[Tensor | None], arguments: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The gradient of φ(w, x, µ, θ…; direction) by those of its arguments that are needed."""

    require_no_jit_trace(model.arguments.function)

    def phi(*some: Tensor) -> Tensor:
        values = combine(some, needed)
        weights, *tensors = [given if value is None else value for value, given in zip(values, arguments, strict=True)]
        return (weights * directional(model, tensors, direction)).sum()

    free = partition(arguments, needed)
    return torch.func.grad(phi, tuple(range(len(free))))(*free)


def gradient_of_directional(
    model: Model, x: Tensor, weights: Tensor, v: Mapping[str, Tensor], names: Sequence[str], param_batch: Size
) -> dict[str, Tensor]:
    """Σ wₙ Hₙ v by these parameters, each for every entry of the batch `param_batch`; v names what moves."""
    model = model.at_working_precision()
    every = argument_names(model)
    needed = [name in names for name in every]
    tensors = [x.to(model.dtype), *model.arguments.given]
    owns = [param_batch if need else size for need, size in zip(needed, param_batches(model, tensors), strict=True)]
    arguments = (weights, *repeated(model, tensors, owns))
    gradients = gradient_of_phi(model, (False, *needed), [v.get(name) for name in every], arguments)
    return dict(zip(partition(every, needed), gradients, strict=True))


def repeated(model: Model, tensors: Sequence[Tensor], owns: Sequence[Size]) -> list[Tensor]:
    """Each argument as so many of its own: each of these has a gradient."""
    events = event_dimensions(model)
    return [t.expand((*own, *t.shape[t.ndim - event :])) for t, own, event in zip(tensors, owns, events, strict=True)]


def argument_names(model: Model) -> list[str]:
    return ["x", "mean", *model.covariance.parameters]


def event_dimensions(model: Model) -> list[int]:
    """The number of dimensions of one of x, µ, θ…, without leading ones."""
    return [len(model.arguments.coordinates(name).shape) for name in argument_names(model)]
