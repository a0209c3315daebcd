"""Maximum likelihood factor analysis for `LowRank`: starting values, the metric of the search, and the rotation of the result.

Sources: Lawley & Maxwell 1971, *Factor Analysis as a Statistical Method*. The first starting value is that of Jöreskog (1967,
*Some contributions to maximum likelihood factor analysis*), as in R's factanal. The metric is Clarke's approximation of the
second derivatives (1970, *A rapidly convergent method for maximum-likelihood factor analysis*), which is the Fisher
information.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mvnjac.errors import NotIdentifiedError, NotPositiveDefiniteError, counted
from mvnjac.linalg.solvers import conjugate_gradients
from mvnjac.statistics.sufficient import SufficientStatistics

#: the smallest idiosyncratic variance of a starting value, as a share of the variable's variance
_LEAST = 1e-3
#: the number of starting values with one variable at the bound
_AT_THE_BOUND = 3
#: the largest size of the smaller Gram matrix for several starting values; beyond it, one search takes seconds
_SMALL = 500
#: the largest number of variables for which the information is formed as a matrix
_DENSE_SIZE = 2000
#: the largest ratio of eigenvalues for which a Gram matrix keeps enough digits
_SPREAD = 1e4
#: added to the information to keep it regular
_RIDGE = 1e-12
#: a factor whose squared singular value is smaller counts as absent
_ABSENT = 1e-10


def starts(sample: SufficientStatistics, rows: Tensor, k: int, lower: float) -> list[Tensor]:
    """Starting values v (d,) of the search, which depend only on the correlations and not on the order of the variables.

    They are Jöreskog's (1 − k/2d)/(S⁻¹)ᵢᵢ, if S is regular; the variances that k principal components, without their share of
    noise, do not explain; half of each variance; and, to escape local maxima, the first of these with one of the best
    explained variables at the bound.

    Args:
        sample: the sample, with variables of variance 1.
        rows: (m, d) with the correlation matrix as Gram matrix.
        k: the number of factors.
        lower: the bound on v, as a share of the variances.
    """
    d = sample.d
    values, vectors = spectrum(rows)
    noise = (d - values[:k].sum()) / (d - k)
    specific = 1 - (vectors[:, :k].square() @ (values[:k] - noise).clamp(min=0))
    unexplained = _unexplained(sample, rows)
    first = specific if unexplained is None else (1 - k / (2 * d)) * unexplained
    candidates = [] if unexplained is None else [first]
    candidates += [specific.clamp(min=_LEAST), torch.full_like(specific, 0.5)]
    variables = torch.arange(d, dtype=torch.long, device=rows.device)
    for i in first.argsort()[:_AT_THE_BOUND].tolist():
        candidates.append(first.clamp(min=_LEAST).where(variables != i, lower))
    if min(rows.shape) > _SMALL:
        candidates = candidates[:1]
    return [v.clamp(min=lower, max=1) for v in candidates]


def spectrum(rows: Tensor, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """The min(m, d) largest eigenvalues of rowsᵀ rows, rows (m, d), in descending order, and their vectors (d, min(m, d)).

    They are computed from the smaller Gram matrix, whose small eigenvalues have an error of eps times the largest one. If the
    largest one may be `spread` times those of interest, and `spread` is large, they are computed from the singular values of
    the rows, at several times the cost.
    """
    if spread > _SPREAD:
        _, sizes, vectors = torch.linalg.svd(rows, full_matrices=False)
        return sizes.square(), vectors.mT
    m, d = rows.shape
    values, vectors = torch.linalg.eigh(rows.mT @ rows if m >= d else rows @ rows.mT)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    return values, vectors if m >= d else torch.nn.functional.normalize(rows.mT @ vectors, dim=0)


class Scoring:
    """Solution with the information of a complete observation with respect to W and log v, without rotations of the factors.

    Let B = diag(v)^-½ W = U s Vᵀ and Λ = 1 + s². A whitened change of Σ, in the basis of U and its orthogonal complement, has
    a block within U, a block between U and the complement, and a block within the complement. Changes of W generate all of
    the first two and none of the third, which is (I − UUᵀ) diag(δ) (I − UUᵀ) for a change δ of log v. So δ is solved for
    separately, with the matrix of the squared elements of I − UUᵀ, and the change of W follows. The change of B within U is
    that of minimum norm, which contains no rotation.

    Args:
        cov_factor: (d, k) W.
        cov_diag: (d,) v.
        held: (d,) whether an element of v is held fixed.
    """

    def __init__(self, cov_factor: Tensor, cov_diag: Tensor, held: Tensor) -> None:
        self._root, self._free = cov_diag.sqrt(), ~held
        self._U, sizes, self._Vt = torch.linalg.svd(cov_factor / self._root.unsqueeze(-1), full_matrices=False)
        self._s = sizes.clamp(min=_ABSENT**0.5)

    def solve(self, by_factor: Tensor, by_log: Tensor) -> tuple[Tensor, Tensor]:
        """The changes of W (d, k) and of log v (d,) for gradients with respect to them."""
        U, s = self._U, self._s
        spread = 1 + s * s
        gradient = (self._root.unsqueeze(-1) * by_factor) @ self._Vt.mT
        inner = U.mT @ gradient
        squares = s * s + (s * s).unsqueeze(-1)  # sᵢ² + sⱼ²
        within = inner * s / squares
        within = 0.5 * (within + within.mT)
        between = (gradient - U @ inner) / s
        remaining = by_log - ((U @ within + between) * U).sum(-1)
        log_change = residual_solve(U, 2 * remaining, self._free)
        scaled = log_change.unsqueeze(-1) * U
        projected = U.mT @ scaled
        inner_change = (2 * spread * spread.unsqueeze(-1) * within - projected) * s / squares
        change = U @ inner_change + (spread * between - (scaled - U @ projected)) / s
        return self._root.unsqueeze(-1) * (change @ self._Vt), log_change


def residual_solve(U: Tensor, b: Tensor, free: Tensor) -> Tensor:
    """The solution with the squared elements of I − UUᵀ, U (d, k) orthonormal, over the free elements; 0 elsewhere."""
    d = len(U)
    result = torch.zeros_like(b)
    if d > _DENSE_SIZE:
        left = (1 - U.square().sum(-1)).clamp(min=_RIDGE)
        product = functools.partial(_squared_residual, U)
        mask = free.to(b)
        return conjugate_gradients("fit", lambda x: mask * product(mask * x), mask * b, lambda r: mask * r / left**2, 1e-6)
    squared = (torch.eye(d, dtype=U.dtype, device=U.device) - U @ U.mT).square()[free][:, free]
    squared.diagonal().add_(_RIDGE)
    result[free] = torch.cholesky_solve(b[free].unsqueeze(-1), torch.linalg.cholesky(squared)).squeeze(-1)
    return result


def _squared_residual(U: Tensor, x: Tensor) -> Tensor:
    """(I − UUᵀ)∘(I − UUᵀ) x = x − 2 h∘x + diag(U Uᵀ diag(x) U Uᵀ) with the leverages h: O(d k²)."""
    leverage = U.square().sum(-1)
    return x * (1 - 2 * leverage) + ((U @ (U.mT @ (x.unsqueeze(-1) * U))) * U).sum(-1)


def require_identified(sample: SufficientStatistics, k: int) -> None:
    """Raise if a model with k factors is not identified, or its likelihood has no maximum.

    Raises:
        NotIdentifiedError: if W (up to rotation) and v have more free parameters than Σ: (d − k)² < d + k.
        NotPositiveDefiniteError: if k factors explain every row exactly: the likelihood increases without bound as v → 0.
    """
    d = sample.d
    if (d - k) ** 2 < d + k or k >= d:
        most = max((j for j in range(1, d) if (d - j) ** 2 >= d + j), default=0)
        raise NotIdentifiedError(
            f"{sample.name}: {k} factors of {d} variables have more parameters than the covariance, (d − k)² = {(d - k) ** 2} < "
            f"d + k = {d + k}, and the data cannot tell them apart; "
            + (f"take at most {most}." if most else "two variables have no factor model: take more of them.")
        )
    if sample.count < k + 2:
        raise NotPositiveDefiniteError(
            f"{sample.name}: {counted(sample.count, 'row')} for {counted(k, 'factor')}: the factors explain every row exactly, and the "
            f"likelihood increases without bound as the variances in cov_diag go to 0; use at least {k + 2} rows."
        )


def principal_rotation(W: Tensor, v: Tensor) -> Tensor:
    """W Q with Wᵀ diag(v)⁻¹ W diagonal and descending, and positive sums of each column's correlations with the variables.

    Except for the order of the factors this is what R's factanal returns without a rotation.
    """
    B = W / v.sqrt().unsqueeze(-1)
    _, Q = torch.linalg.eigh(B.mT @ B)
    rotated = W @ Q.flip(-1)
    correlations = rotated / ((W * W).sum(-1, keepdim=True) + v.unsqueeze(-1)).sqrt()
    return torch.where(correlations.sum(-2, keepdim=True) < 0, -rotated, rotated)


def _unexplained(sample: SufficientStatistics, rows: Tensor) -> Tensor | None:
    """(d,) 1/(S⁻¹)ᵢᵢ, the variance of each variable given all others; None if S is singular."""
    if sample.count <= sample.d:
        return None
    root, info = torch.linalg.cholesky_ex(rows.mT @ rows)
    return None if int(info) else 1 / torch.cholesky_inverse(root).diagonal()
