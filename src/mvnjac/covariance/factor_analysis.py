"""Factor analysis: where the search for the maximum of the likelihood of `LowRank` starts, and which rotation it reports.

Source: Lawley & Maxwell 1971, *Factor Analysis as a Statistical Method*; the start is Jöreskog's (1967, *Some contributions to
maximum likelihood factor analysis*), which R's factanal takes too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.errors import NotIdentifiedError, NotPositiveDefiniteError
from mvnjac.sample import Sample
from mvnjac.words import counted

#: a factor that the sample shows nothing of starts this small, in variances of its own: at 0 it would stay there
_FAINT = 1e-2
#: a variable that the others explain to rounding starts with this share of its variance of its own: at 0 the search would end
_LEAST = 1e-3


def starting_values(sample: Sample, k: int) -> tuple[Tensor, Tensor]:
    """(W, v): v from the variances that the other variables do not explain; W the best for this v.

    With S = rowsᵀ rows the sample covariance, and the eigenvalues λ and eigenvectors q of diag(v)^-½ S diag(v)^-½, the
    likelihood given v is largest at the columns √v ∘ q √(λ − 1) of the k largest λ.
    """
    v = (1 - k / (2 * sample.d)) * torch.maximum(_unexplained(sample), _LEAST * sample.variances)
    values, vectors = _leading(sample.scaled_rows / v.sqrt(), k)
    W = v.sqrt().unsqueeze(-1) * vectors * (values - 1).clamp(min=_FAINT).sqrt()
    return W, v


def require_identified(sample: Sample, k: int) -> None:
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


def _unexplained(sample: Sample) -> Tensor:
    """(d,) 1/(S⁻¹)ᵢᵢ, the variance of each variable given all others; half of its variance where S has no inverse."""
    if sample.count > sample.d:
        scale = sample.variances.sqrt()
        root, info = torch.linalg.cholesky_ex(sample.covariance / torch.outer(scale, scale))
        if not int(info):
            return sample.variances / torch.cholesky_inverse(root).diagonal()
    return 0.5 * sample.variances


def _leading(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues of rowsᵀ rows, rows (m, d), m ≥ k, and their vectors (d, k), by the smaller Gram matrix."""
    m, d = rows.shape
    values, vectors = torch.linalg.eigh(rows.mT @ rows if m >= d else rows @ rows.mT)
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
    return values, vectors if m >= d else torch.nn.functional.normalize(rows.mT @ vectors, dim=0)
