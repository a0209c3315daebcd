"""Statistics of cumulated scores at some dates, of data and of simulated processes alike, and the covariances that they need."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mvnjac.errors import NotIdentifiedError, SingularError


@dataclass(frozen=True)
class Joint:
    """The covariance of the scores of b columns.

    Attributes:
        information: (G, b, b) up to each date; noise: the same, if rows depend on each other.
        roots: (G, b, b) lower triangles L with L Lᵀ the increments of `noise`.
    """

    information: Tensor
    noise: Tensor
    roots: Tensor


@dataclass(frozen=True)
class Group:
    """Some columns at the dates.

    Attributes:
        own: (k,) their places in the basis, the columns that are taken as estimated.
        up_to: (G,) how many rows are up to each date.
        drift: (G, k, b) C_g·(t) C⁻¹, the part of the total that the estimate takes away.
        roots: of the basis, as in `Joint`.
        covariance: (G, k, k) of the cumulated scores; total: (k, k) of the sum of the scores, were the parameters known.
        sums: (G, k) the cumulated scores.
        clock: (G, k) of each column, from 0 to 1.
        simulated: (G, k, B) cumulated scores, where these are few.
    """

    own: list[int]
    up_to: Tensor
    drift: Tensor
    roots: Tensor
    covariance: Tensor
    total: Tensor
    sums: Tensor
    clock: Tensor
    simulated: list[Tensor] = field(default_factory=list)


def inside(clock: Tensor, trim: tuple[float, float]) -> Tensor:
    return (clock > 0) & (clock < 1) & (clock >= trim[0]) & (clock <= trim[1])


def dates_inside(group: Group, trim: tuple[float, float]) -> list[int]:
    """The numbers of the dates at which some column has the fractions of its information on both sides."""
    found: list[int] = inside(group.clock, trim)[:-1].any(-1).nonzero().squeeze(-1).tolist()
    if not found:
        raise NotIdentifiedError(
            f"sup_lm: there are too few rows with information: no date lies between the fractions {trim[0]} and {trim[1]} of it."
        )
    return found


def factor(C: Tensor) -> Tensor:
    """Cholesky's, refusing what is singular: each in its own units."""
    scale = C.diagonal(dim1=-2, dim2=-1).sqrt().unsqueeze(-1)
    factor, info = torch.linalg.cholesky_ex(C / (scale * scale.mT))
    smallest = float(factor.diagonal(dim1=-2, dim2=-1).square().min())
    if bool(info.any()) or not smallest > C.shape[-1] * torch.finfo(C.dtype).eps:
        raise SingularError(
            f"score_process: the covariance of the scores of {C.shape[-1]} columns is singular; there must be more rows than "
            "parameters, and no direction in which the density does not change: select other columns."
        )
    return factor * scale


def times_inverse(total: Tensor, right: Tensor) -> Tensor:
    """right C⁻¹, for right (G, k, b)."""
    return torch.cholesky_solve(right.flatten(0, 1).mT, factor(total)).mT.unflatten(0, right.shape[:2])


def whitened(C: Tensor, process: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(factor(C).to(process.dtype), process, upper=False)


def triangles(between: Tensor) -> Tensor:
    """(G, b, b) triangles; 0 for a column without information between two dates."""
    unknown = torch.diag_embed((between.diagonal(dim1=-2, dim2=-1) == 0).to(between.dtype))
    return torch.linalg.cholesky(between + unknown) - unknown


def mean_square(group: Group, process: Tensor) -> Tensor:
    """(B,) of processes (G, k, B): the mean of the squared length, in the units of the total."""
    clock = group.clock.mean(-1).to(process.dtype)
    weights = clock.diff(prepend=clock.new_zeros(1))
    return weights @ whitened(group.total, process).square().sum(1)


def lm_statistics(group: Group, process: Tensor, dates: list[int], trim: tuple[float, float]) -> Tensor:
    """(G′, B) of processes (G, k, B): the Lagrange multiplier statistic at some dates, of the columns with information there.

    Where these are fewer than k columns it is turned into the quantile of χ²_k of the same probability.
    """
    active = inside(group.clock[dates], trim).unsqueeze(-1).to(group.clock.dtype)
    K = group.covariance[dates] * active * active.mT + torch.diag_embed(1 - active.squeeze(-1))
    statistics = quadratic(K, process[dates] * active.to(process.dtype))
    count, k = active.sum(1), process.shape[1]
    return statistics if bool((count == k).all()) else torch.where(count == k, statistics, _as_quantile(statistics, count, k))


def quadratic(K: Tensor, sums: Tensor) -> Tensor:
    """(G, B) sᵀ K⁻¹ s for K (G, k, k), s (G, k, B)."""
    return whitened(K, sums).square().sum(1)


def _as_quantile(statistics: Tensor, count: Tensor, k: int) -> Tensor:
    """The quantile of χ²_k of the probability that χ²_count has there (Wilson & Hilferty 1931)."""
    z = ((statistics / count) ** (1 / 3) - (1 - 2 / (9 * count))) / (2 / (9 * count)).sqrt()
    return k * (1 - 2 / (9 * k) + z * math.sqrt(2 / (9 * k))).clamp(min=0) ** 3
