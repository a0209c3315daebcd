"""Factor analysis: where the search for the maximum of the likelihood of `LowRank` starts, its metric, and the rotation that a fit
reports.

Source: Lawley & Maxwell 1971, *Factor Analysis as a Statistical Method*; the first start is Jöreskog's (1967, *Some contributions to
maximum likelihood factor analysis*), which R's factanal takes too; the metric is Clarke's approximation of the second derivatives
(1970, *A rapidly convergent method for maximum-likelihood factor analysis*), which is Fisher's information.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mvnjac.errors import NotIdentifiedError, NotPositiveDefiniteError, counted
from mvnjac.linalg.solvers import conjugate_gradients
from mvnjac.statistics.sufficient import SufficientStatistics

#: a variable that the others explain to rounding starts with this share of its variance of its own
_LEAST = 1e-3
#: starts that begin at the bound, each with another variable there
_AT_THE_BOUND = 3
#: up to this size of the smaller Gram matrix there are several starts: beyond, the search from one of them takes seconds
_SMALL = 500
#: the most variables whose information is solved with as a matrix
_DENSE_SIZE = 2000
#: the largest spread of eigenvalues at which squares keep enough digits
_SPREAD = 1e4
#: relative sizes: what keeps the information regular, and below which a factor counts as absent
_RIDGE = 1e-12
_ABSENT = 1e-10


def starts(sample: SufficientStatistics, rows: Tensor, k: int, lower: float) -> list[Tensor]:
    """Vectors v (d,) from which the likelihood's maxima are searched: functions of the correlations alone, whatever the order of the
    variables.

    They are Jöreskog's, (1 − k/2d)/(S⁻¹)ᵢᵢ, where S has an inverse; what k principal components leave beyond their share of noise;
    half of each variance; and, against local maxima, those in which one of the best explained variables begins at the bound.

    Args:
        rows: (m, d) whose Gram matrix is the correlations; lower: the bound, in variances.
    """
    d = sample.d
    values, vectors = spectrum(rows)
    noise = (d - values[:k].sum()) / (d - k)
    own = 1 - (vectors[:, :k].square() @ (values[:k] - noise).clamp(min=0))
    unexplained = _unexplained(sample, rows)
    first = own if unexplained is None else (1 - k / (2 * d)) * unexplained
    found = [] if unexplained is None else [first]
    found += [own.clamp(min=_LEAST), torch.full_like(own, 0.5)]
    places = torch.arange(d, dtype=torch.long, device=rows.device)
    for i in first.argsort()[:_AT_THE_BOUND].tolist():
        found.append(first.clamp(min=_LEAST).where(places != i, lower))
    if min(rows.shape) > _SMALL:
        found = found[:1]
    return [v.clamp(min=lower, max=1) for v in found]


def spectrum(rows: Tensor, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """The eigenvalues of rowsᵀ rows, rows (m, d), descending, and their vectors (d, min(m, d)).

    By the smaller Gram matrix, whose small eigenvalues have an error of eps times the largest; where that may be `spread` times those
    of interest and costs digits that are needed, by the singular values of the rows, at several times the cost.
    """
    if spread > _SPREAD:
        _, sizes, vectors = torch.linalg.svd(rows, full_matrices=False)
        return sizes.square(), vectors.mT
    m, d = rows.shape
    values, vectors = torch.linalg.eigh(rows.mT @ rows if m >= d else rows @ rows.mT)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    return values, vectors if m >= d else torch.nn.functional.normalize(rows.mT @ vectors, dim=0)


class Scoring:
    """The inverse information of a complete observation by W and log v, on what no rotation of the factors leaves alone.

    With B = diag(v)^-½ W = U s Vᵀ and Λ = 1 + s², a change of Σ, whitened and in the basis of U and its complement, has a part
    within U, a part between, and a part beyond: the changes of W reach all of the first two and none of the third, which is that of the
    changes δ of log v, (I − UUᵀ) diag(δ) (I − UUᵀ). So δ is solved for alone, with the matrix of the squared elements of I − UUᵀ, and
    the change of W follows. The change of B within U is the smallest there is: no rotation.

    Args:
        cov_factor: (d, k) W; cov_diag: (d,) v; held: (d,) which elements of v do not move.
    """

    def __init__(self, cov_factor: Tensor, cov_diag: Tensor, held: Tensor) -> None:
        self._root, self._free = cov_diag.sqrt(), ~held
        self._U, sizes, self._Vt = torch.linalg.svd(cov_factor / self._root.unsqueeze(-1), full_matrices=False)
        self._s = sizes.clamp(min=_ABSENT**0.5)

    def solve(self, by_factor: Tensor, by_log: Tensor) -> tuple[Tensor, Tensor]:
        """The changes of W (d, k) and of log v (d,) for gradients by these."""
        U, s = self._U, self._s
        spread = 1 + s * s
        gradient = (self._root.unsqueeze(-1) * by_factor) @ self._Vt.mT
        inner = U.mT @ gradient
        squares = s * s + (s * s).unsqueeze(-1)  # of s by rows and by columns
        within = inner * s / squares
        within = 0.5 * (within + within.mT)
        between = (gradient - U @ inner) / s
        own = by_log - ((U @ within + between) * U).sum(-1)
        change = residual_solve(U, 2 * own, self._free)
        seen = U.mT @ (change.unsqueeze(-1) * U)
        turned = (2 * spread * spread.unsqueeze(-1) * within - seen) * s / squares
        moved = U @ turned + (spread * between - (change.unsqueeze(-1) * U - U @ seen)) / s
        return self._root.unsqueeze(-1) * (moved @ self._Vt), change


def residual_solve(U: Tensor, b: Tensor, free: Tensor) -> Tensor:
    """The solution with the squared elements of I − UUᵀ, U (d, k) orthonormal, over the elements that are free; 0 elsewhere."""
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
    """(I − UUᵀ)∘(I − UUᵀ) x = x − 2 h∘x + diag(U Uᵀ diag(x) U Uᵀ), h the leverages: O(d k²)."""
    leverage = U.square().sum(-1)
    return x * (1 - 2 * leverage) + ((U @ (U.mT @ (x.unsqueeze(-1) * U))) * U).sum(-1)


def require_identified(sample: SufficientStatistics, k: int) -> None:
    """No more factors than the covariance has room for, and more rows than factors.

    Raises:
        NotIdentifiedError: W (up to rotation) and v have more freedom than Σ: (d − k)² < d + k.
        NotPositiveDefiniteError: k factors alone reach every row: the likelihood grows without bound as v → 0.
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
            f"{sample.name}: {counted(sample.count, 'row')} for {counted(k, 'factor')}: they reach every row, and the "
            "likelihood grows without bound as the "
            f"variances of cov_diag go to 0; use at least {k + 2} rows."
        )


def principal_rotation(W: Tensor, v: Tensor) -> Tensor:
    """W Q with Wᵀ diag(v)⁻¹ W diagonal and descending; the sum of every column, as correlations, positive: but for the order what R's
    factanal reports unrotated."""
    B = W / v.sqrt().unsqueeze(-1)
    _, Q = torch.linalg.eigh(B.mT @ B)
    turned = W @ Q.flip(-1)
    correlations = turned / ((W * W).sum(-1, keepdim=True) + v.unsqueeze(-1)).sqrt()
    return torch.where(correlations.sum(-2, keepdim=True) < 0, -turned, turned)


def _unexplained(sample: SufficientStatistics, rows: Tensor) -> Tensor | None:
    """(d,) 1/(S⁻¹)ᵢᵢ, the variance of each variable given all others, where there are enough rows for S to have an inverse."""
    if sample.count <= sample.d:
        return None
    root, info = torch.linalg.cholesky_ex(rows.mT @ rows)
    return None if int(info) else 1 / torch.cholesky_inverse(root).diagonal()
