"""The reference of the contract test: reverse-mode autodiff of a textbook log-density through `dense()`.

First-order reverse mode through `cholesky` and `solve_triangular` is correct in every supported version of torch. None of the
library's derivatives is used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import mvnjac
from mvnjac.covariance import dense_parameters

Density = Callable[[Tensor, Tensor, Tensor], Tensor]


def log_density(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """(*batch) by the definition."""
    lower = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(lower, (x - mean).unsqueeze(-1), upper=False).squeeze(-1)
    return -0.5 * (x.shape[-1] * math.log(2 * math.pi) + (z * z).sum(-1)) - lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def views(mean: Tensor, covariance: Tensor) -> dict[str, Tensor]:
    """The values of all dense parameters, by explicit inversion in float64."""
    lower = torch.linalg.cholesky(covariance)
    precision = torch.linalg.inv(covariance)
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    return {
        "covariance_matrix": covariance,
        "scale_tril": lower,
        "log_scale_tril": lower.tril(-1) + torch.diag_embed(lower.diagonal(dim1=-2, dim2=-1).log()),
        "precision_matrix": precision,
        "precision_tril": torch.linalg.cholesky(precision),
        "inverse_scale_tril": torch.linalg.inv(lower),
        "scale": scale,
        "correlation_matrix": covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2)),
        "natural_location": (precision @ mean.unsqueeze(-1)).squeeze(-1),
        "natural_matrix": -0.5 * precision,
    }


#: the parameters that determine Σ (or Σ and the mean) jointly with each parameter
GROUPS = {
    "covariance_matrix": ["covariance_matrix"],
    "scale_tril": ["scale_tril"],
    "log_scale_tril": ["log_scale_tril"],
    "precision_matrix": ["precision_matrix"],
    "precision_tril": ["precision_tril"],
    "inverse_scale_tril": ["inverse_scale_tril"],
    "scale": ["scale", "correlation_matrix"],
    "correlation_matrix": ["scale", "correlation_matrix"],
    "natural_location": ["natural_location", "natural_matrix"],
    "natural_matrix": ["natural_location", "natural_matrix"],
}


def own_gradients(
    x: Tensor, mean: Tensor, structure: mvnjac.Covariance, log_density: Density = log_density
) -> dict[str, Tensor]:
    """Each row's gradients with respect to x, mean and the structure's parameters, all expanded to the full batch."""
    d = mean.shape[-1]
    full = torch.broadcast_shapes(x.shape[:-1], mean.shape[:-1], structure.batch)
    if isinstance(structure, mvnjac.Parametric):
        return _row_by_row(x.expand(*full, d), mean.expand(*full, d), structure, log_density)
    leaves = {"x": _leaf(x, full, 1), "mean": _leaf(mean, full, 1)}
    for name, value in structure.parameters.items():
        leaves[name] = _leaf(value, full, len(structure.coordinates_of(name, d).shape))
    twin = structure.at([leaves[name] for name in structure.parameters])
    total = log_density(leaves["x"], leaves["mean"], twin.dense(d)).sum()
    gradients = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    return {name: _project(structure, name, gradient, d) for name, gradient in gradients.items()}


def _row_by_row(x: Tensor, mean: Tensor, structure: mvnjac.Covariance, log_density: Density) -> dict[str, Tensor]:
    """The gradients if the parameters cannot have leading dimensions: one reverse pass per row."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ("x", "mean", *structure.parameters)}
    for row, centre in zip(x.reshape(-1, x.shape[-1]), mean.reshape(-1, x.shape[-1]), strict=True):
        leaves = [_leaf(t, torch.Size(), t.ndim) for t in (row, centre, *structure.parameters.values())]
        density = log_density(leaves[0], leaves[1], structure.at(leaves[2:]).dense())
        for name, gradient in zip(rows, torch.autograd.grad(density, leaves), strict=True):
            rows[name].append(gradient)
    shapes = {"x": x.shape[-1:], "mean": x.shape[-1:], **{n: v.shape for n, v in structure.parameters.items()}}
    empty = {n: torch.zeros(0, *shape, dtype=torch.float64) for n, shape in shapes.items()}
    stacked = {n: torch.stack(gradients) if gradients else empty[n] for n, gradients in rows.items()}
    return {n: t.reshape((*x.shape[:-1], *shapes[n])) for n, t in stacked.items()}


def dense_gradient(name: str, x: Tensor, mean: Tensor, covariance: Tensor, log_density: Density = log_density) -> Tensor:
    """Each row's gradient with respect to a dense parameter, for any Σ."""
    full = torch.broadcast_shapes(x.shape[:-1], mean.shape[:-1], covariance.shape[:-2])
    mean, covariance = mean.expand((*full, mean.shape[-1])), covariance.expand((*full, *covariance.shape[-2:]))
    values = views(mean, covariance)
    leaves = {key: values[key].clone().requires_grad_() for key in GROUPS[name]}
    owner = dense_parameters()[name]
    if name.startswith("natural"):
        sigma = torch.linalg.inv(-2 * leaves["natural_matrix"])
        location = (sigma @ leaves["natural_location"].unsqueeze(-1)).squeeze(-1)
    else:
        sigma, location = owner(**leaves).dense(), mean
    gradient = torch.autograd.grad(log_density(x, location, sigma).sum(), leaves[name])[0]
    coordinates = owner.fields[name](mean.shape[-1])
    return _project_to(coordinates, gradient)


def _leaf(value: Tensor, full: torch.Size, event: int) -> Tensor:
    shape = value.shape[value.ndim - event :]
    return value.detach().double().expand((*full, *shape)).clone().requires_grad_()


def _project(structure: mvnjac.Covariance, name: str, gradient: Tensor, d: int) -> Tensor:
    if name in ("x", "mean"):
        return gradient
    return _project_to(structure.coordinates_of(name, d), gradient)


def _project_to(coordinates: object, gradient: Tensor) -> Tensor:
    """Symmetric gradients of symmetric matrices, and zeros for fixed entries, written independently of the library."""
    if getattr(coordinates, "mirrored", False):
        gradient = 0.5 * (gradient + gradient.mT)
        if not coordinates.diagonal:
            gradient = gradient * (1 - torch.eye(gradient.shape[-1], dtype=gradient.dtype))
    elif hasattr(coordinates, "diagonal"):
        gradient = gradient.tril()
    return gradient


def unique(full: Tensor, kind: str) -> Tensor:
    """The unique elements of a gradient, one by one: in vech order, off-diagonals of symmetric matrices doubled."""
    if kind == "entrywise":
        return full
    if kind == "rows":
        return full.flatten(-2)
    if kind == "bands":
        return torch.cat([full[..., k, : full.shape[-1] - k] for k in range(full.shape[-2])], -1)
    columns, d = [], full.shape[-1]
    for j in range(d):
        for i in range(j if kind != "correlation" else j + 1, d):
            columns.append(full[..., i, j] * (2 if kind != "lower" and i != j else 1))
    return torch.stack(columns, -1) if columns else full.new_zeros((*full.shape[:-2], 0))


KINDS = {
    "size": "entrywise",
    "length": "entrywise",
    "noise": "entrywise",
    "x": "entrywise",
    "mean": "entrywise",
    "covariance_matrix": "symmetric",
    "row_covariance": "symmetric",
    "column_covariance": "symmetric",
    "precision_matrix": "symmetric",
    "natural_matrix": "symmetric",
    "scale_tril": "lower",
    "log_scale_tril": "lower",
    "precision_tril": "lower",
    "inverse_scale_tril": "lower",
    "correlation_matrix": "correlation",
    "scale": "entrywise",
    "natural_location": "entrywise",
    "cov_diag": "entrywise",
    "cov_factor": "rows",
    "precision_bands": "bands",
}
