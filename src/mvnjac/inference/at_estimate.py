"""Whether the parameters are the estimate by maximum likelihood: the total score is 0 there."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.errors import MemoryLimitError, NotAtEstimateWarning, SingularError, warn
from mvnjac.inference.estimating_functions import EstimatingFunctions
from mvnjac.inference.variables import columns_of_variables
from mvnjac.information.functions import fisher_of
from mvnjac.information.operators import FisherInformation

#: what a Newton step may move a parameter by, in standard errors
LIMIT = 0.1
#: more parameters than this are looked at only where their information is inverted in closed form
_MOST = 2000
#: a unique variance is at its bound where its share of the whole variance is at most this, and the likelihood rises below
_SHARE = 0.01


def warn_unless_at_estimate(estimating: EstimatingFunctions) -> None:
    """Warn where a Newton step with the expected information would move a parameter by more than 0.1 of its standard error.

    A covariance with divisor n − 1 is 1/√(2n) of a standard error off, and passes, however few rows there are. Parameters that are
    known are left out, as are unique variances of a factor model at their bound.
    """
    total = estimating.total()
    try:
        ratios = _ratios(estimating, total)
    except (SingularError, MemoryLimitError):  # the result itself says so, if it needs the same
        return
    if ratios is None or not bool((ratios > _limit(estimating)).any()):
        return
    worst = int(ratios.argmax())
    warn(
        f"{estimating.function}: the parameters of J are not at the maximum of the likelihood of these rows: a Newton step would move "
        f"{estimating.columns[worst]} by {float(ratios[worst]):.3g} of its standard errors (at most {LIMIT} is taken for 0). Take the "
        "Jacobian at the estimate, fit(x).gaussian.jacobian(x), with the weights= of the fit, if there were any; and name the "
        "parameters that were not estimated by known=.",
        NotAtEstimateWarning,
    )


def _limit(estimating: EstimatingFunctions) -> float:
    return max(LIMIT, 1.001 * (2 * _effective_rows(_weights(estimating))) ** -0.5)


def _ratios(estimating: EstimatingFunctions, total: Tensor) -> Tensor | None:
    """(p,) |F⁻¹ s| / √diag(F⁻¹), s the total score and F the information of complete rows, each column counted where it is observed.

    None where there are too many parameters.
    """
    operator = fisher_of(estimating.model, estimating.names)
    if estimating.size > _MOST and not operator.closed:
        return None
    weights = _weights(estimating)
    root = _observed_share(estimating, weights).sqrt()
    score = torch.where(root > 0, total / root, 0)
    fixed = _at_bound(estimating, total)
    fixed = fixed if estimating.free is None else fixed | ~estimating.free
    step, variances = _step(operator, score, fixed)
    units = (_effective_rows(weights) / variances).sqrt() / weights.sum().abs()
    return torch.where((variances > 0) & (root > 0), step.abs() * units, 0)


def _step(operator: FisherInformation, score: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
    """F⁻¹ s and the diagonal of F⁻¹, of all columns but those that are fixed, which have 0."""
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


def _weights(estimating: EstimatingFunctions) -> Tensor:
    weights = estimating.weights
    return torch.ones(estimating.rows, dtype=torch.float64, device=estimating.values.device) if weights is None else weights


def _effective_rows(weights: Tensor) -> float:
    """(Σ w)² / Σ w²: the same whatever the weights sum to."""
    return float(weights.sum().square() / weights.square().sum()) if bool(weights.any()) else 1.0


def _observed_share(estimating: EstimatingFunctions, weights: Tensor) -> Tensor:
    """(p,) the share of the rows that observe the variables of each column; 1 for columns of none."""
    share = torch.ones(estimating.size, dtype=torch.float64, device=weights.device)
    if estimating.model.arguments.missing is None:
        return share
    observed = (~estimating.x.isnan()).double()
    pairs = (observed * weights.unsqueeze(-1)).mT @ observed / weights.sum()
    labels = estimating.model.arguments.labels_of("mean") or [str(i) for i in range(len(pairs))]
    position = {label: i for i, label in enumerate(labels)}
    place = {name: i for i, name in enumerate(estimating.columns)}
    first: dict[str, int] = {}
    for variable, columns in columns_of_variables(estimating, estimating.names).items():
        if variable in position:
            i = position[variable]
            for name in columns:
                share[place[name]] = pairs[first.setdefault(name, i), i]
    return share


def _at_bound(estimating: EstimatingFunctions, total: Tensor) -> Tensor:
    """(p,) which unique variances of a factor model are as small as a fit lets them be, the likelihood still rising below."""
    bounded = torch.zeros(estimating.size, dtype=torch.bool, device=total.device)
    parameters = estimating.model.covariance.parameters
    for name in estimating.names:
        loadings = parameters.get(name.removesuffix("cov_diag") + "cov_factor")  # of blocks, too
        if name.endswith("cov_diag") and loadings is not None:
            own = parameters[name].detach()
            small = own <= _SHARE * (own + loadings.detach().square().sum(-1))
            places = estimating.places_of(name)
            bounded[places] = small & (total[places] < 0)
    return bounded
