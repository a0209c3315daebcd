"""White's information-matrix test: for a correct model, the expected outer product of scores is minus the expected Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mvnjac.errors import NotIdentifiedError
from mvnjac.inference.estimating_functions import MEMORY_ADVICE, EstimatingFunctions, chunks, require
from mvnjac.inference.first_order_condition import warn_unless_at_estimate
from mvnjac.inference.result_table import ResultFields
from mvnjac.information.functions import Wrt, hessian_of
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.tail_probabilities import chi_squared_p_value
from mvnjac.tensors.allocation import guarded

_NAME = "information_matrix_test"
#: singular values below this are 0, for columns of length 1
_DEPENDENT = 1e-9


@dataclass(frozen=True)
class InformationMatrixTest(ResultFields):
    """A test of the whole model: small p-values are evidence that rows are not normal, or not identically distributed.

    Attributes:
        statistic, df, p_value: χ² with df degrees of freedom if the model is correct.
        rows: n.
    """

    statistic: float
    df: int
    p_value: float
    rows: int


@guarded(_NAME, MEMORY_ADVICE)
def information_matrix_test(J: Jacobian, *, elements: str = "all", wrt: Wrt = None, known: Wrt = None) -> InformationMatrixTest:
    """White's information-matrix test, in the outer-product form of Chesher 1983 and Lancaster 1984.

    The statistic is n minus the sum of squared residuals of a regression of 1 on the indicators vech(sᵢ sᵢᵀ + Hᵢ) and the
    scores sᵢ (Lancaster 1984, *The covariance matrix of the information matrix test*). For a normal distribution the indicators
    are third and fourth moments, so the test detects skewness, kurtosis, and variances that depend on the levels. Indicators
    that are linear combinations of scores (those of two means) do not count. In small samples the test rejects far too often:
    the degrees of freedom should be few compared with n (Orme 1990); use `elements="diagonal"` then.

    Args:
        J: the Jacobian at the maximum-likelihood estimate, of n rows.
        elements: "all" p(p + 1)/2 indicators, or the p indicators of the "diagonal".
        wrt: any columns of the parametrisation, which is always complete; with all elements the test is the same in each.
        known: parameters that were not estimated.

    Returns:
        An `InformationMatrixTest`.

    Raises:
        NotIdentifiedError: there are no more rows than indicators and scores.

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
    estfun = EstimatingFunctions(_NAME, J, wrt, None, known)
    p, n = estfun.size, estfun.rows
    count = p * (p + 1) // 2 if elements == "all" else p
    if n <= count + p:
        raise NotIdentifiedError(
            f"{_NAME}: there are {count} indicators and {p} scores, but {n} rows; pass elements='diagonal', or take fewer "
            "parameters."
        )
    warn_unless_at_estimate(estfun)
    estfun.require_memory(5 * n * (count + p), False)
    scores = estfun.scores()
    indicators = _indicators(estfun, scores, elements)
    explained, rank = _explained_sum_of_squares(torch.cat([indicators, scores], -1))
    df = rank - _explained_sum_of_squares(scores)[1]
    return InformationMatrixTest(explained, df, chi_squared_p_value(explained, df), n)


def _indicators(estfun: EstimatingFunctions, scores: Tensor, elements: str) -> Tensor:
    """(n, q) the lower triangle, or the diagonal, of sᵢ sᵢᵀ + Hᵢ."""
    p, parts = estfun.size, []
    diagonal = torch.arange(p, dtype=torch.long, device=scores.device).expand(2, p)
    i, j = torch.tril_indices(p, p, device=scores.device) if elements == "all" else diagonal
    for rows in chunks(estfun.rows, p * p):
        hessian = hessian_of(estfun.model, estfun.x[rows], estfun.names, None, False).matrix()
        outer = scores[rows].unsqueeze(-1) * scores[rows].unsqueeze(-2)
        parts.append((outer + hessian)[:, i, j])
    return torch.cat(parts)


def _explained_sum_of_squares(Z: Tensor) -> tuple[float, int]:
    """1ᵀ Z (ZᵀZ)⁺ Zᵀ 1, of the regression of 1 on Z, and the rank of Z."""
    length = Z.norm(dim=0)
    U, values, _ = torch.linalg.svd(Z[:, length > 0] / length[length > 0], full_matrices=False)
    U = U[:, values > _DEPENDENT * values[0]]
    return float(U.sum(0).square().sum()), U.shape[1]
