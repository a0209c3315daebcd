"""Whether the first-order condition of maximum likelihood holds: at the estimate the total score is 0."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.errors import MemoryLimitError, NotAtEstimateWarning, SingularError, warn
from mvnjac.inference.estimating_functions import EstimatingFunctions
from mvnjac.information.functions import fisher_of
from mvnjac.information.operators import FisherInformation

#: the largest Newton step, in standard errors, that is accepted as 0
LIMIT = 0.1
#: with more parameters the condition is checked only if the inverse information has a closed form
_MAX_PARAMETERS = 2000
#: a unique variance is taken as at its bound if it is at most this share of the variance and its score is negative
_SHARE_AT_BOUND = 0.01


def warn_unless_at_estimate(estfun: EstimatingFunctions) -> None:
    """Warn if a Newton step with the expected information would change a parameter by more than 0.1 of its standard error.

    A covariance with divisor n − 1 differs by 1/√(2n) of a standard error from the estimate, and is accepted for every n. Known
    parameters are excluded, and so are unique variances of a factor model at their bound.
    """
    total = estfun.total()
    try:
        ratios = _step_ratios(estfun, total)
    except (SingularError, MemoryLimitError):  # the computation itself raises the error if it needs the same solution
        return
    limit = max(LIMIT, 1.001 * (2 * _effective_rows(estfun.row_weights)) ** -0.5)
    if ratios is None or not bool((ratios > limit).any()):
        return
    worst = int(ratios.argmax())
    warn(
        f"{estfun.function}: the parameters of J are not at the maximum of the likelihood of these rows: a Newton step would "
        f"move {estfun.columns[worst]} by {float(ratios[worst]):.3g} of its standard errors (expected at most {LIMIT}). Pass "
        "the Jacobian at the estimate, fit(x).gaussian.jacobian(x), with the weights= of the fit if it had any, and name the "
        "parameters that were not estimated by known=.",
        NotAtEstimateWarning,
    )


def _step_ratios(estfun: EstimatingFunctions, total: Tensor) -> Tensor | None:
    """(p,) |F⁻¹ s| / √diag(F⁻¹), s the total score and F the information of complete rows, scaled by observed shares.

    None if there are too many parameters.
    """
    operator = fisher_of(estfun.model, estfun.names)
    if estfun.size > _MAX_PARAMETERS and not operator.closed:
        return None
    weights = estfun.row_weights
    root = _observed_share(estfun, weights).sqrt()
    score = torch.where(root > 0, total / root, 0)
    fixed = _at_bound(estfun, total)
    fixed = fixed if estfun.free is None else fixed | ~estfun.free
    step, variances = _newton_step(operator, score, fixed)
    units = (_effective_rows(weights) / variances).sqrt() / weights.sum().abs()
    return torch.where((variances > 0) & (root > 0), step.abs() * units, 0)


def _newton_step(operator: FisherInformation, score: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
    """F⁻¹ s and the diagonal of F⁻¹ over the columns that are not fixed; 0 for the others."""
    variances = operator.inverse_diagonal()
    if not bool(fixed.any()):
        return operator.solve(score), variances
    unit = torch.eye(len(score), dtype=score.dtype, device=score.device)[fixed]
    solved = operator.solve(torch.cat([score.unsqueeze(0), unit]))
    step, inverse = solved[0], solved[1:]
    multipliers = torch.linalg.solve(inverse[:, fixed], torch.cat([step[fixed].unsqueeze(-1), inverse], -1))
    step = step - inverse.mT @ multipliers[:, 0]
    variances = variances - (inverse * multipliers[:, 1:]).sum(0)
    return torch.where(fixed, 0, step), torch.where(fixed, 0, variances)


def _effective_rows(weights: Tensor) -> float:
    """(Σ w)² / Σ w², which does not depend on the scale of the weights."""
    return float(weights.sum().square() / weights.square().sum()) if bool(weights.any()) else 1.0


def _observed_share(estfun: EstimatingFunctions, weights: Tensor) -> Tensor:
    """(p,) the share of the rows that observe the variables of each column; 1 for columns that belong to no variable."""
    share = torch.ones(estfun.size, dtype=torch.float64, device=weights.device)
    if estfun.model.arguments.missing is None:
        return share
    observed = (~estfun.x.isnan()).double()
    pair_shares = (observed * weights.unsqueeze(-1)).mT @ observed / weights.sum()
    labels = estfun.model.arguments.labels_of("mean") or [str(i) for i in range(len(pair_shares))]
    variable_index = {label: i for i, label in enumerate(labels)}
    position = {name: i for i, name in enumerate(estfun.columns)}
    first: dict[str, int] = {}
    for variable, columns in estfun.columns_by_variable(estfun.names).items():
        if variable in variable_index:
            i = variable_index[variable]
            for name in columns:
                share[position[name]] = pair_shares[first.setdefault(name, i), i]
    return share


def _at_bound(estfun: EstimatingFunctions, total: Tensor) -> Tensor:
    """(p,) which unique variances of a factor model are at their bound: small, with a likelihood that increases below."""
    at_bound = torch.zeros(estfun.size, dtype=torch.bool, device=total.device)
    parameters = estfun.model.covariance.parameters
    for name in estfun.names:
        loadings = parameters.get(name.removesuffix("cov_diag") + "cov_factor")  # also for blocks, whose names have a prefix
        if name.endswith("cov_diag") and loadings is not None:
            unique = parameters[name].detach()
            small = unique <= _SHARE_AT_BOUND * (unique + loadings.detach().square().sum(-1))
            positions = estfun.positions_of(name)
            at_bound[positions] = small & (total[positions] < 0)
    return at_bound
