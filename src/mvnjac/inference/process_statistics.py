"""Test statistics of cumulative scores at a grid of dates, computed alike for the data and for simulated processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mvnjac.errors import NotIdentifiedError, SingularError
from mvnjac.linalg.correlation import smallest_eigenvalue


@dataclass(frozen=True)
class GroupCovariances:
    """The covariances of the cumulative scores of k columns at G dates.

    Attributes:
        members: (k,) positions of the columns among the b columns that are treated as estimated.
        row_counts: (G,) the number of rows up to each date.
        coefficients: (G, k, b) C_g·(t) C⁻¹, the regression of the cumulative scores on the total scores.
        increment_roots: (G, b, b) lower triangular L, with L Lᵀ the covariance of the scores between two dates.
        covariance: (G, k, k) of the cumulative scores at the estimate.
        total_covariance: (k, k) of the total scores at the true parameters.
        cumulative: (G, k) the cumulative scores.
        clock: (G, k) the information fraction of each column, from 0 to 1.
        simulated: (G, k, B) simulated cumulative scores, if they are few enough to be stored.
    """

    members: list[int]
    row_counts: Tensor
    coefficients: Tensor
    increment_roots: Tensor
    covariance: Tensor
    total_covariance: Tensor
    cumulative: Tensor
    clock: Tensor
    simulated: list[Tensor] = field(default_factory=list)


def within(clock: Tensor, trim: tuple[float, float]) -> Tensor:
    """Where an information fraction is strictly between 0 and 1, and within the trimmed range."""
    return (clock > 0) & (clock < 1) & (clock >= trim[0]) & (clock <= trim[1])


def candidate_dates(group: GroupCovariances, trim: tuple[float, float]) -> list[int]:
    """The indices of the dates at which the information fraction of at least one column is within the trimmed range."""
    found: list[int] = within(group.clock, trim)[:-1].any(-1).nonzero().squeeze(-1).tolist()
    if not found:
        raise NotIdentifiedError(
            "sup_lm: there are too few rows with information about these columns: no date lies between the fractions "
            f"{trim[0]} and {trim[1]} of it; choose a wider trim, or other columns."
        )
    return found


def singular_scores(columns: int, smallest: float) -> SingularError:
    return SingularError(
        f"score_process: the covariance of the scores of {columns} columns is singular (scaled to the diagonal 1, its smallest "
        f"eigenvalue or pivot is {smallest:.3g}); there must be more rows than parameters, and no direction in which the "
        "density does not change; select other columns."
    )


def inverse_root(V: Tensor) -> Tensor:
    """The symmetric V^(−½).

    Raises:
        SingularError: V is singular.
    """
    smallest = smallest_eigenvalue(V)
    if not smallest > len(V) * torch.finfo(V.dtype).eps:
        raise singular_scores(len(V), smallest)
    values, Q = torch.linalg.eigh(V)
    return Q @ (Q.mT * values.rsqrt().unsqueeze(-1))


def _cholesky(C: Tensor) -> Tensor:
    """The Cholesky factors of C (…, k, k), with a check for singularity that does not depend on the units."""
    scale = C.diagonal(dim1=-2, dim2=-1).sqrt().unsqueeze(-1)
    factor, info = torch.linalg.cholesky_ex(C / (scale * scale.mT))
    smallest = float(factor.diagonal(dim1=-2, dim2=-1).square().min())
    if bool(info.any()) or not smallest > C.shape[-1] * torch.finfo(C.dtype).eps:
        raise singular_scores(C.shape[-1], smallest)
    return factor * scale


def times_inverse(right: Tensor, C: Tensor) -> Tensor:
    """right C⁻¹, for right (G, k, b)."""
    return torch.cholesky_solve(right.flatten(0, 1).mT, _cholesky(C)).mT.unflatten(0, right.shape[:2])


def squared_norms(C: Tensor, process: Tensor) -> Tensor:
    """(…, B) sᵀ C⁻¹ s for C (…, k, k) and s (…, k, B)."""
    return torch.linalg.solve_triangular(_cholesky(C).to(process.dtype), process, upper=False).square().sum(-2)


def mean_square(group: GroupCovariances, process: Tensor) -> Tensor:
    """(B,) for processes (G, k, B): the mean over time of sᵀ C⁻¹ s, C the covariance of the total scores."""
    clock = group.clock.mean(-1).to(process.dtype)
    weights = clock.diff(prepend=clock.new_zeros(1))
    return weights @ squared_norms(group.total_covariance, process)


def lm_statistics(group: GroupCovariances, process: Tensor, dates: list[int], trim: tuple[float, float]) -> Tensor:
    """(G′, B) for processes (G, k, B): Lagrange multiplier statistics at some dates, of the columns within the trimmed range.

    Where these are fewer than k columns, the statistic is converted to the χ²_k quantile with the same probability.
    """
    active = within(group.clock[dates], trim).unsqueeze(-1).to(group.clock.dtype)
    K = group.covariance[dates] * active * active.mT + torch.diag_embed(1 - active.squeeze(-1))
    statistics = squared_norms(K, process[dates] * active.to(process.dtype))
    count, k = active.sum(1), process.shape[1]
    return statistics if bool((count == k).all()) else torch.where(count == k, statistics, _as_quantile(statistics, count, k))


def _as_quantile(statistics: Tensor, count: Tensor, k: int) -> Tensor:
    """The χ²_k quantiles with the probabilities of χ²_count statistics (Wilson & Hilferty 1931)."""
    z = ((statistics / count) ** (1 / 3) - (1 - 2 / (9 * count))) / (2 / (9 * count)).sqrt()
    return k * (1 - 2 / (9 * k) + z * math.sqrt(2 / (9 * k))).clamp(min=0) ** 3
