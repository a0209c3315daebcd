"""The directions in which a model's own parameters move those of a larger one."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.inference.delta import Parameters
from mvnjac.inference.estimating_functions import EstimatingFunctions
from mvnjac.model.elements import gradients, leaves


def tangents(estimating: EstimatingFunctions) -> Tensor:
    """(p, q) the derivatives of the p columns by the q parameters that the model has itself."""
    model = estimating.model
    with torch.enable_grad():
        changes, moved = leaves(model, model.arguments.default_names())
        theta = Parameters(moved)
        packed = torch.cat([model.arguments.coordinates(name).pack(theta[name].reshape(-1) if name == "mean" else theta[name])
                            for name in estimating.names])  # fmt: skip
        return gradients(packed, changes)
