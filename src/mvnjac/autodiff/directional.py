"""The directional derivative Dₙ(v) of each row in closed form, and φ = Σ wₙ Dₙ(v), whose gradients are second derivatives.

∂φ/∂w = D(v)        ∂φ/∂(x, µ, θ) = H v, the product of the Hessian of Σ w log p and v
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
    """The derivative of each row (*batch) along a direction in x, µ, θ…; a component None is 0."""
    x, *parameters = tensors
    model = model.at(parameters[0], parameters[1:])
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
    """The gradient of φ(w, x, µ, θ…; direction) with respect to the arguments that are needed."""
    require_no_jit_trace(model.arguments.function)

    def phi(*variables: Tensor) -> Tensor:
        values = combine(variables, needed)
        weights, *tensors = [constant if value is None else value for value, constant in zip(values, arguments, strict=True)]
        return (weights * directional(model, tensors, direction)).sum()

    variables = partition(arguments, needed)
    return torch.func.grad(phi, tuple(range(len(variables))))(*variables)


def gradient_of_directional(
    model: Model, x: Tensor, weights: Tensor, v: Mapping[str, Tensor], names: Sequence[str], param_batch: Size
) -> dict[str, Tensor]:
    """The products Σ wₙ Hₙ v for the parameters `names`, one per entry of the batch `param_batch`.

    v: the components of the direction by name; the others are 0.
    """
    model = model.at_working_precision()
    all_names = argument_names(model)
    needed = [name in names for name in all_names]
    tensors = [x.to(model.dtype), *model.arguments.given]
    batches = [param_batch if need else batch for need, batch in zip(needed, param_batches(model, tensors), strict=True)]
    arguments = (weights, *repeated(model, tensors, batches))
    gradients = gradient_of_phi(model, (False, *needed), [v.get(name) for name in all_names], arguments)
    return dict(zip(partition(all_names, needed), gradients, strict=True))


def repeated(model: Model, tensors: Sequence[Tensor], batches: Sequence[Size]) -> list[Tensor]:
    """x, µ, θ… expanded to these batches, so that every entry of a batch has a gradient."""
    events = event_dimensions(model)
    return [t.expand((*batch, *t.shape[t.ndim - event :])) for t, batch, event in zip(tensors, batches, events, strict=True)]


def argument_names(model: Model) -> list[str]:
    return ["x", "mean", *model.covariance.parameters]


def event_dimensions(model: Model) -> list[int]:
    """The numbers of dimensions of x, µ, θ… without leading dimensions."""
    return [len(model.arguments.coordinates(name).shape) for name in argument_names(model)]
