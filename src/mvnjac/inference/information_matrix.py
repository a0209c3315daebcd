"""White's information-matrix test: where the model is right, the scores' outer product and the Hessian cancel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mvnjac.errors import NotIdentifiedError
from mvnjac.inference.at_estimate import warn_unless_at_estimate
from mvnjac.inference.estimating_functions import FEWER, EstimatingFunctions, require
from mvnjac.information.functions import Wrt, hessian_of
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.tail_probabilities import chi_squared_p_value
from mvnjac.tensors.allocation import guarded

_NAME = "information_matrix_test"
_CHUNK_BYTES = 64 * 2**20
#: singular values below this, the columns having length 1, are 0
_DEPENDENT = 1e-9


@dataclass(frozen=True)
class InformationMatrixTest:
    """A test of the whole model: small p-values say that rows are not normal, or not alike.

    Attributes:
        statistic, df, p_value: χ² with df degrees of freedom if the model is right.
        rows: n.
    """

    statistic: float
    df: int
    p_value: float
    rows: int


@guarded(_NAME, FEWER)
def information_matrix_test(J: Jacobian, *, elements: str = "all", wrt: Wrt = None, known: Wrt = None) -> InformationMatrixTest:
    """n minus the squared residuals of a regression of 1 on the indicators vech(sᵢ sᵢᵀ + Hᵢ) and the scores sᵢ.

    The form of Chesher 1983 and Lancaster 1984 (*The covariance matrix of the information matrix test*). For a normal distribution the
    indicators are third and fourth moments: the test sees skewness, kurtosis, and variances that follow the levels. Those
    that are combinations of scores (of mean with mean) are not counted. In small samples it rejects far too often: the statistic
    is compared with χ² whose degrees of freedom should be few beside n (Orme 1990); take `elements="diagonal"` then.

    Args:
        J: the Jacobian at the estimate by maximum likelihood, of n rows.
        elements: "all" p(p + 1)/2 indicators, or the p of the "diagonal".
        wrt: the parametrisation: it is complete whichever columns are named, and the test is the same in each for all elements.
        known: parameters that were not estimated.

    Raises:
        NotIdentifiedError: no more rows than indicators and scores.

    Warns:
        NotAtEstimateWarning: as in `covariance_of_estimates`.

    Source: White 1982, *Maximum likelihood estimation of misspecified models*.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac import inference
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> inference.information_matrix_test(mvnjac.fit(x**3).gaussian.jacobian(x**3)).p_value < 1e-6
        True
    """
    require(_NAME, "elements", elements, ("all", "diagonal"))
    estimating = EstimatingFunctions(_NAME, J, wrt, None, known)
    p, n = estimating.size, estimating.rows
    count = p * (p + 1) // 2 if elements == "all" else p
    if n <= count + p:
        raise NotIdentifiedError(
            f"{_NAME}: there are {count} indicators and {p} scores, but {n} rows; take elements='diagonal', or fewer parameters."
        )
    warn_unless_at_estimate(estimating)
    estimating.require_memory(5 * n * (count + p), False)
    scores = estimating.scores()
    indicators = _indicators(estimating, scores, elements)
    explained, rank = _explained(torch.cat([indicators, scores], -1))
    df = rank - _explained(scores)[1]
    return InformationMatrixTest(explained, df, chi_squared_p_value(explained, df), n)


def _indicators(estimating: EstimatingFunctions, scores: Tensor, elements: str) -> Tensor:
    """(n, q) the lower triangle, or the diagonal, of sᵢ sᵢᵀ + Hᵢ."""
    p, parts = estimating.size, []
    step = max(1, _CHUNK_BYTES // (8 * p * p))
    diagonal = torch.arange(p, dtype=torch.long, device=scores.device).expand(2, p)
    i, j = torch.tril_indices(p, p, device=scores.device) if elements == "all" else diagonal
    for at in range(0, estimating.rows, step):
        second = hessian_of(estimating.model, estimating.x[at : at + step], estimating.names, None, False).matrix()
        some = scores[at : at + step]
        both = some.unsqueeze(-1) * some.unsqueeze(-2) + second
        parts.append(both[:, i, j])
    return torch.cat(parts)


def _explained(Z: Tensor) -> tuple[float, int]:
    """1ᵀ Z (ZᵀZ)⁺ Zᵀ 1, and the rank of Z."""
    length = Z.norm(dim=0)
    U, values, _ = torch.linalg.svd(Z[:, length > 0] / length[length > 0], full_matrices=False)
    U = U[:, values > _DEPENDENT * values[0]]
    return float(U.sum(0).square().sum()), U.shape[1]
