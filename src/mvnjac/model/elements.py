"""The elements of any parametrisation as functions of a model's own parameters, and their derivatives (by reverse-mode autodiff)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import ArgumentError
from mvnjac.model.model import Model
from mvnjac.parameters.selection import Part


def leaves(model: Model, names: Sequence[str]) -> tuple[list[Tensor], Model]:
    """Changes of the model's own parameters of these names, all 0, the leaves of a graph; and the model that follows from them."""
    values, changes = {name: model.parameter(name) for name in ("mean", *model.covariance.fields)}, []
    for name in names:
        kind = model.arguments.coordinates(name)
        changes.append(torch.zeros(kind.size, dtype=torch.float64, device=model.mean.device, requires_grad=True))
        values[name] = values[name] + kind.unpack(changes[-1])
    return changes, model.at(values["mean"], [values[name] for name in model.covariance.fields])


def gradients(values: Tensor, changes: Sequence[Tensor]) -> Tensor:
    """(k, p) the derivatives of values (k,) by all changes."""
    rows = [torch.autograd.grad(value, changes, retain_graph=True, materialize_grads=True) for value in values]
    return torch.stack([torch.cat(row) for row in rows])


def derived(model: Model, names: Sequence[str]) -> bool:
    """Whether some of these parameters are functions of the model's own, which are no complete dense parametrisation."""
    own = set(model.arguments.default_names())
    known = set(names) <= set(model.arguments.parameter_names())
    return known and not isinstance(model.covariance, DenseParametrisation) and not set(names) <= own


def elements(model: Model, names: Sequence[str], parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    """The unique elements of parameters of any parametrisation.

    Args:
        model: float64, one density. names: its own parameters that vary. parts: the elements that are asked for.

    Returns:
        (k,) the elements, and (k, p) their derivatives by the unique elements of the parameters `names`.

    Raises:
        ArgumentError: the mean differs from row to row.
    """
    with torch.enable_grad():
        changes, moved = leaves(model, names)
        picked = [_picked(moved, part) for part in parts]
        values = torch.cat(picked)
        if not values.requires_grad:
            return values, values.new_zeros(len(values), sum(len(change) for change in changes))
        return values.detach(), gradients(values, changes).detach()  # stacked in grad mode, they may have a graph


def _picked(model: Model, part: Part) -> Tensor:
    value = model.prepared()[0] if part.name == "mean" and model.arguments.mean_follows else model.parameter(part.name)
    if value.ndim > len(part.coordinates.shape):
        raise ArgumentError(
            f"{part.name} differs from row to row; leave it out of wrt, and ask for the parameters it follows from."
        )
    return part.take(part.coordinates.pack(value))
