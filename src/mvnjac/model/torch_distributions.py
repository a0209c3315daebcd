"""A distribution in place of a mean and a covariance: ours, torch's, Pyro's or GPyTorch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from mvnjac.covariance.base import Covariance
from mvnjac.errors import ArgumentError, DtypeError
from mvnjac.parameters import checks
from mvnjac.tensors.broadcasting import batch_shape, broadcast

#: what a distribution may have been given, each with the structure that takes it
STRUCTURES = {
    "covariance_matrix": ("Dense", ("covariance_matrix",)),
    "precision_matrix": ("Precision", ("precision_matrix",)),
    "scale_tril": ("Cholesky", ("scale_tril",)),
    "cov_factor": ("LowRank", ("cov_factor", "cov_diag")),
}


def mean_and_covariance(
    function: str,
    mean: Tensor | Distribution | Covariance | None,
    covariance: Tensor | Covariance | None,
    mean_name: str = "mean",
) -> tuple[Tensor | None, Tensor | Covariance]:
    """Both as given, or those of a distribution given instead; no mean where one covariance stands for both.

    Raises:
        ArgumentError: a covariance is missing, or there are two.
    """
    if isinstance(mean, Covariance) and covariance is None:
        return None, mean
    if isinstance(mean, Tensor) or not is_multivariate_normal(mean):
        if covariance is not None:
            if mean is not None and not isinstance(mean, Tensor):
                checks.floating(function, mean_name, mean)
                raise AssertionError("what is no tensor is refused")
            return mean, covariance
        raise ArgumentError(
            f"{function}: there is no covariance, and {_described(mean)} is no multivariate normal distribution; "
            "pass mean and covariance, or a MultivariateNormal or LowRankMultivariateNormal in place of both."
        )
    if covariance is not None:
        raise ArgumentError(
            f"{function}: a covariance besides {_described(mean)}, which has its own; "
            "pass the distribution alone, or its mean and the covariance."
        )
    loc, own = parameters(mean)
    if loc.dtype != own.dtype:
        raise DtypeError(
            f"{function}: {_described(mean)} has a loc of {loc.dtype} and a covariance of {own.dtype}; "
            f"build it of one dtype, for example with loc.to({own.dtype})."
        )
    return loc, own


def is_multivariate_normal(dist: object) -> bool:
    """Whether it is one of those classes, or looks as GPyTorch's does."""
    known = (torch.distributions.MultivariateNormal, torch.distributions.LowRankMultivariateNormal)
    ours = getattr(dist, "is_multivariate_normal", False)
    return isinstance(dist, known) or ours or hasattr(dist, "lazy_covariance_matrix")


def parameters(dist: Any) -> tuple[Tensor, Covariance]:
    """The mean and the covariance of a distribution, in the parametrisation that it was given.

    Leading dimensions that only repeat what is there (those that the constructor or `expand` made) are left out, so that a
    shared covariance stays shared; together, mean and covariance have the batch of the distribution.

    Args:
        dist: a MultivariateNormal or LowRankMultivariateNormal of mvnjac.distributions or torch.distributions, or of a class
            derived from these, as Pyro's; or GPyTorch's MultivariateNormal.

    Returns:
        The mean, and `Dense`, `Precision`, `Cholesky` or `LowRank`: views of the distribution's own tensors.

    Example:
        >>> import torch
        >>> dist = torch.distributions.MultivariateNormal(torch.zeros(5, 2), scale_tril=torch.eye(2))
        >>> parameters(dist)[1]
        Cholesky(scale_tril=(2, 2), dtype=torch.float32)
    """
    from mvnjac.covariance import structures

    shown = {**vars(dist), **getattr(dist, "_shown", {})}  # ours have them in a dict of their own
    name = next((key for key in shown if key in STRUCTURES), None)  # what was given comes before what was derived
    if name is None:
        covariance = structures()["Dense"](covariance_matrix=unexpanded(_covariance_matrix(dist), 2))
    else:
        structure, keys = STRUCTURES[name]
        covariance = structures()[structure](
            **{key: unexpanded(getattr(dist, key), 1 if key == "cov_diag" else 2) for key in keys}
        )
    full = dist.loc if hasattr(dist, "loc") else dist.mean
    mean = unexpanded(full, 1)
    kept = broadcast(batch_shape(mean, 1), covariance.batch) == broadcast(batch_shape(full, 1), covariance.batch)
    return (mean if kept else full), covariance


def unexpanded(t: Tensor, event: int) -> Tensor:
    """A view without repetition: leading dimensions of stride 0 are of size 1 again, or absent where nothing precedes them."""
    for dim in range(t.ndim - event):
        if t.stride(dim) == 0 and t.shape[dim] > 1:
            t = t.narrow(dim, 0, 1)
    while t.ndim > event and t.shape[0] == 1 and t.stride(0) == 0:
        t = t.squeeze(0)
    return t


def _covariance_matrix(dist: Any) -> Tensor:
    """Σ where it is computed on demand, as GPyTorch's linear operators are."""
    if hasattr(dist, "covariance_matrix"):
        return dist.covariance_matrix
    return dist.lazy_covariance_matrix.to_dense()


def _described(value: object) -> str:
    return f"a mean of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"the {type(value).__name__}"
