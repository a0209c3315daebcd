"""A distribution as an argument in place of mean and covariance: of mvnjac.distributions, torch, Pyro or GPyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from mvnjac.covariance.base import Covariance
from mvnjac.errors import ArgumentError, DtypeError
from mvnjac.parameters import checks
from mvnjac.tensors.broadcasting import batch_shape, broadcast

#: parameter that a distribution was constructed with → the structure, and all parameters of the structure
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
    """The two arguments, or the mean and covariance of a distribution passed as `mean`.

    A covariance passed alone, as `mean`, must define the mean as well: the mean that is returned is then None.

    Raises:
        ArgumentError: the covariance is missing, or was passed in addition to a distribution.
        DtypeError: the dtypes of the distribution's parameters differ.
    """
    if isinstance(mean, Covariance) and covariance is None:
        return None, mean
    if isinstance(mean, Tensor) or not is_multivariate_normal(mean):
        if covariance is not None:
            if mean is not None and not isinstance(mean, Tensor):
                checks.floating(function, mean_name, mean)
                raise AssertionError("unreachable: checks.floating raises unless its argument is a tensor")
            return mean, covariance
        raise ArgumentError(
            f"{function}: the covariance is missing, and {_described(mean)} is not a multivariate normal distribution; "
            "pass mean and covariance, or a MultivariateNormal or LowRankMultivariateNormal in place of both."
        )
    if covariance is not None:
        raise ArgumentError(
            f"{function}: got a covariance in addition to {_described(mean)}, which defines one; "
            "pass the distribution alone, or its mean and the covariance."
        )
    loc, covariance = parameters(mean)
    if loc.dtype != covariance.dtype:
        raise DtypeError(
            f"{function}: {_described(mean)} has a loc of {loc.dtype} and a covariance of {covariance.dtype}; "
            f"construct it with one dtype, for example with loc.to({covariance.dtype})."
        )
    return loc, covariance


def is_multivariate_normal(dist: object) -> bool:
    """Whether it is a multivariate normal distribution of mvnjac, torch, Pyro (which derives from torch's) or GPyTorch."""
    of_torch = (torch.distributions.MultivariateNormal, torch.distributions.LowRankMultivariateNormal)
    of_mvnjac = getattr(dist, "is_multivariate_normal", False)
    return isinstance(dist, of_torch) or of_mvnjac or hasattr(dist, "lazy_covariance_matrix")


def parameters(dist: Any) -> tuple[Tensor, Covariance]:
    """The mean and the covariance of a distribution, in the parametrisation that it was constructed with.

    Leading dimensions that only repeat values (made by the constructor or by `expand`) are removed, so that a shared covariance
    stays shared. Mean and covariance broadcast to the batch of the distribution.

    Args:
        dist: a MultivariateNormal or LowRankMultivariateNormal of mvnjac.distributions or torch.distributions, or of a derived
            class such as Pyro's; or GPyTorch's MultivariateNormal.

    Returns:
        The mean, and a `Dense`, `Precision`, `Cholesky` or `LowRank`. Their tensors are views of the distribution's tensors.

    Example:
        >>> import torch
        >>> dist = torch.distributions.MultivariateNormal(torch.zeros(5, 2), scale_tril=torch.eye(2))
        >>> parameters(dist)[1]
        Cholesky(scale_tril=(2, 2), dtype=torch.float32)
    """
    from mvnjac.covariance import structures

    attributes = {**vars(dist), **getattr(dist, "_shown", {})}  # mvnjac.distributions keep them in `_shown`
    name = next((key for key in attributes if key in STRUCTURES), None)  # constructor arguments precede derived attributes
    if name is None:
        covariance = structures()["Dense"](covariance_matrix=unexpanded(_covariance_matrix(dist), 2))
    else:
        structure, keys = STRUCTURES[name]
        covariance = structures()[structure](
            **{key: unexpanded(getattr(dist, key), 1 if key == "cov_diag" else 2) for key in keys}
        )
    full = dist.loc if hasattr(dist, "loc") else dist.mean
    mean = unexpanded(full, 1)
    same_batch = broadcast(batch_shape(mean, 1), covariance.batch) == broadcast(batch_shape(full, 1), covariance.batch)
    return (mean if same_batch else full), covariance


def unexpanded(t: Tensor, event: int) -> Tensor:
    """A view that undoes `expand`: leading dimensions of stride 0 get size 1, or are removed if they are the first ones."""
    for dim in range(t.ndim - event):
        if t.stride(dim) == 0 and t.shape[dim] > 1:
            t = t.narrow(dim, 0, 1)
    while t.ndim > event and t.shape[0] == 1 and t.stride(0) == 0:
        t = t.squeeze(0)
    return t


def _covariance_matrix(dist: Any) -> Tensor:
    """Σ of a distribution that computes it on demand, such as GPyTorch's, which stores a linear operator."""
    if hasattr(dist, "covariance_matrix"):
        return dist.covariance_matrix
    return dist.lazy_covariance_matrix.to_dense()


def _described(value: object) -> str:
    return f"a mean of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"the {type(value).__name__}"
