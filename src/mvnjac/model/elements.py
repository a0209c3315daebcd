"""Elements of any parametrisation as functions of a model's parameters, with their derivatives by reverse-mode autodiff."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import ArgumentError
from mvnjac.model.model import Model
from mvnjac.parameters.selection import Part


def leaves(model: Model, names: Sequence[str]) -> tuple[list[Tensor], Model]:
    """Changes of the parameters `names`, all 0 and leaves of an autograd graph; and the model at the changed parameters."""
    values, changes = {name: model.parameter(name) for name in ("mean", *model.covariance.fields)}, []
    for name in names:
        coordinates = model.arguments.coordinates(name)
        changes.append(torch.zeros(coordinates.size, dtype=torch.float64, device=model.mean.device, requires_grad=True))
        values[name] = values[name] + coordinates.unpack(changes[-1])
    return changes, model.at(values["mean"], [values[name] for name in model.covariance.fields])


def gradients(values: Tensor, changes: Sequence[Tensor]) -> Tensor:
    """The derivatives (k, p) of the values (k,) with respect to all changes."""
    rows = [torch.autograd.grad(value, changes, retain_graph=True, materialize_grads=True) for value in values]
    return torch.stack([torch.cat(row) for row in rows])


def derived(model: Model, names: Sequence[str]) -> bool:
    """Whether some of these parameters are functions of the model's, and the covariance is not a dense parametrisation."""
    wanted, dense = set(names), isinstance(model.covariance, DenseParametrisation)
    return not dense and wanted <= set(model.arguments.parameter_names()) and not wanted <= set(model.arguments.default_names())


def elements(model: Model, names: Sequence[str], parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    """Unique elements of parameters of any parametrisation.

    Args:
        model: one density, in float64.
        names: the model's parameters that vary.
        parts: the elements that are requested.

    Returns:
        The elements (k,), and their derivatives (k, p) with respect to the unique elements of the parameters `names`.

    Raises:
        ArgumentError: the mean differs between rows.
    """
    with torch.enable_grad():
        changes, changed_model = leaves(model, names)
        values = torch.cat([_elements_of(changed_model, part) for part in parts])
        if not values.requires_grad:
            return values, values.new_zeros(len(values), sum(len(change) for change in changes))
        return values.detach(), gradients(values, changes).detach()  # gradients stacked in grad mode may have a graph


def _elements_of(model: Model, part: Part) -> Tensor:
    value = model.prepared()[0] if part.name == "mean" and model.arguments.mean_follows else model.parameter(part.name)
    if value.ndim > len(part.coordinates.shape):
        raise ArgumentError(
            f"{part.name} differs between rows; leave it out of wrt and name the parameters that it is a function of."
        )
    return part.take(part.coordinates.pack(value))
