"""The table of parameters, and the map of the elements of Σ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac import inference
from mvnjac.gaussian import Gaussian
from mvnjac.inference.estimate_covariances import Estimates
from mvnjac.inference.estimating_functions import EstimatingFunctions
from mvnjac.parameters.coordinates import unvech, vech
from mvnjac.report.analysis.unavailable import Unavailable, attempt
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.tail_probabilities import chi_squared_p_value

#: the largest number of variables for which the map is readable
MAPPED = 60
_SIGMA = "covariance_matrix"


@dataclass(frozen=True)
class ParameterTable:
    """The table of parameters.

    Attributes:
        names: the p parameters.
        words: (p,) the same in words, such as "variance of CHF".
        columns: (p,) numbers by heading.
        notes: how the columns were computed.
    """

    names: list[str]
    words: list[str]
    columns: dict[str, list[float]]
    notes: list[str]


@dataclass(frozen=True)
class HeatMap:
    """A number for each element of Σ.

    Attributes:
        diverging: whether the scale is centred at 0; otherwise it is logarithmic and centred at 1.
        values: (d, d), NaN for elements that are fixed.
    """

    diverging: bool
    values: list[list[float]]


@dataclass(frozen=True)
class TotalScore:
    """The score test of the given parameters: sᵀ I⁻¹ s with the total score s and the expected information I.

    Attributes:
        statistic, df, p_value: the statistic has a χ² distribution with df degrees of freedom if the rows have this density.
    """

    statistic: float
    df: int
    p_value: float


def total_score(J: Jacobian, information: str) -> TotalScore | Unavailable:
    """The score test of all identified parameters, by the "expected" or "observed" information."""
    return attempt(lambda: _total_score(J, information))


def _total_score(J: Jacobian, information: str) -> TotalScore:
    estimating = EstimatingFunctions("report", J, None, None, J.model.covariance.unidentified or None)
    total = estimating.total()
    statistic = float(total @ estimating.solve(information, total.unsqueeze(0)).squeeze(0))
    p_value = chi_squared_p_value(statistic, estimating.size)
    return TotalScore(statistic, estimating.size, p_value)


def estimated(J: Jacobian, model_errors: str) -> tuple[ParameterTable, HeatMap | Unavailable]:
    """For parameters estimated from these rows: three kinds of standard errors, and robust over classical variances.

    Args:
        model_errors: the kind of the classical errors: "expected", or with missing entries "observed".
    """
    n, p = J.batch[0], len(J.columns())
    classical = attempt(lambda: inference.covariance_of_estimates(J, model_errors), n, p)
    robust = attempt(lambda: inference.covariance_of_estimates(J, "sandwich"), n, p)
    serial = attempt(lambda: inference.covariance_of_estimates(J, "hac"), n, p)
    if isinstance(serial, Unavailable):  # without prewhitening, linearly dependent scores are allowed
        serial = attempt(lambda: inference.covariance_of_estimates(J, "hac", prewhite=False), n, p)
    columns, notes = {"estimate": J.values().tolist()}, list[str]()
    for name, found in (("classical", classical), ("robust", robust), ("series", serial)):
        if isinstance(found, Unavailable):
            notes.append(f"{name} errors are not available: {found.reason}")
        else:
            columns[f"{name} error"] = found.standard_errors.tolist()
            notes.append(f"{name}: {found.kind}")
    heat: HeatMap | Unavailable
    if isinstance(classical, Unavailable):
        heat = classical
    elif isinstance(robust, Unavailable):
        heat = robust
    else:
        errors = classical, robust
        heat = _mapped(J, lambda: _variance_ratios(J, *errors))
    return ParameterTable(J.columns(), in_words(J), columns, notes), heat


def in_words(J: Jacobian) -> list[str]:
    """The p parameters in words."""
    return J.model.arguments.descriptions(J.selection(None, "unique"))


def given(J: Jacobian) -> tuple[ParameterTable, HeatMap | Unavailable]:
    """For given parameters: the total scores, also in units of their standard deviations."""
    names, total = J.columns(), J.rmatvec(torch.ones(J.batch[0], dtype=J.dtype, device=J.device))
    deviations = J.gram().diagonal().sqrt()
    errors = attempt(lambda: inference.covariance_of_estimates(J, "expected"))
    columns = {"value": J.values().tolist(), "total score": total.tolist(), "deviation": deviations.tolist()}
    columns["ratio"] = (total / deviations).tolist()
    if isinstance(errors, Estimates):
        columns["classical error"] = errors.standard_errors.tolist()
    notes = [
        "deviation: the standard deviation of the total score for independent rows, the square root of the diagonal of JᵀJ",
        "ratio: total score divided by deviation; beyond ±2, the rows are evidence against the value",
        "classical error: the standard error if the value were an estimate (expected information)",
    ]
    return ParameterTable(names, in_words(J), columns, notes), _mapped(J, lambda: _scaled_scores(J))


def _mapped(J: Jacobian, compute: Callable[[], HeatMap]) -> HeatMap | Unavailable:
    if J.model.d > MAPPED:
        return Unavailable(
            f"This map is computed for up to {MAPPED} variables; there are {J.model.d}. The standard errors of the parameters are in "
            "the table of estimates, and in the data inside this file."
        )
    return attempt(compute)


def _variance_ratios(J: Jacobian, classical: Estimates, robust: Estimates) -> HeatMap:
    """The ratio of the robust to the classical variance of each element of Σ."""
    if _SIGMA in J.model.covariance.fields:
        selected = [name.startswith(f"{_SIGMA}[") for name in classical.columns]
        sandwich, model = robust.covariance.diagonal()[selected], classical.covariance.diagonal()[selected]
    else:
        sandwich, model = (inference.delta_method(each, _elements).covariance.diagonal() for each in (robust, classical))
    negligible = torch.finfo(model.dtype).eps * model.amax()
    return HeatMap(False, _matrix(torch.where(model > negligible * 1e-3, sandwich / model, torch.nan)))


def _elements(theta: Mapping[str, Tensor]) -> Tensor:
    return vech(theta[_SIGMA])


def _scaled_scores(J: Jacobian) -> HeatMap:
    """The total score with respect to each element of Σ, in units of its standard deviation."""
    if _SIGMA not in J.model.covariance.fields:  # of a dense Σ: also for elements that the structure fixes
        sigma, x = J.model.parameter(_SIGMA).detach(), J.evaluation.rows.x
        J = Gaussian(J.model.parameter("mean"), sigma, missing=J.model.arguments.missing).jacobian(x)
    total = J.rmatvec(torch.ones(J.batch[0], dtype=J.dtype, device=J.device), _SIGMA)
    return HeatMap(True, _matrix(total / J.gram(wrt=_SIGMA).diagonal().sqrt()))


def _matrix(elements: Float[Tensor, "k"]) -> list[list[float]]:
    return unvech(elements).tolist()
