"""The estimates with their standard errors, and what is shown over the elements of Σ."""

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

#: a map of more variables than this has cells that nobody can tell apart
MAPPED = 60
_SIGMA = "covariance_matrix"


@dataclass(frozen=True)
class ParameterTable:
    """One row a parameter; all columns (p,).

    Attributes:
        names: the p parameters; columns: by heading; notes: how each was computed, in words.
    """

    names: list[str]
    columns: dict[str, list[float]]
    notes: list[str]


@dataclass(frozen=True)
class HeatMap:
    """A number for each element of Σ.

    Attributes:
        diverging: whether 0 is the middle of the scale; otherwise the scale is logarithmic, and 1 its middle.
        values: (d, d), NaN where an element does not vary.
    """

    diverging: bool
    values: list[list[float]]


@dataclass(frozen=True)
class TotalScore:
    """The test of the given parameters: sᵀ I⁻¹ s, s the total score and I the expected information.

    Attributes:
        statistic, df, p_value: χ²_df if the rows have this density.
    """

    statistic: float
    df: int
    p_value: float


def total_score(J: Jacobian) -> TotalScore:
    """Of all parameters that are known by more than a convention."""
    estimating = EstimatingFunctions("report", J, None, None, J.model.covariance.unidentified or None)
    total = estimating.total()
    statistic = float(total @ estimating.solve("expected", total.unsqueeze(0)).squeeze(0))
    p_value = chi_squared_p_value(statistic, estimating.size)
    return TotalScore(statistic, estimating.size, p_value)


def estimated(J: Jacobian, model_errors: str) -> tuple[ParameterTable, HeatMap | Unavailable]:
    """Where the parameters were estimated from these rows: standard errors of three kinds, and what the model's assumption costs.

    Args:
        model_errors: the errors that trust the model: "expected", or with missing entries "observed".
    """
    classical = inference.covariance_of_estimates(J, model_errors)
    robust = inference.covariance_of_estimates(J, "sandwich")
    serial = attempt(lambda: inference.covariance_of_estimates(J, "hac"))
    if isinstance(serial, Unavailable):  # dependent scores, as of a factor model's rotations, can be summed all the same
        serial = attempt(lambda: inference.covariance_of_estimates(J, "hac", prewhite=False))
    columns = {
        "estimate": classical.values.tolist(),
        "classical error": classical.standard_errors.tolist(),
        "robust error": robust.standard_errors.tolist(),
    }
    notes = [f"classical: {classical.kind}", f"robust: {robust.kind}"]
    if isinstance(serial, Unavailable):
        notes.append(f"no standard errors for a series: {serial.reason}")
    else:
        columns["series error"] = serial.standard_errors.tolist()
        notes.append(f"series: {serial.kind}")
    return ParameterTable(list(classical.columns), columns, notes), _mapped(J, lambda: _variance_ratios(J, classical, robust))


def given(J: Jacobian) -> tuple[ParameterTable, HeatMap | Unavailable]:
    """Where the parameters were given: the total scores, and each in units of its own standard deviation."""
    names, total = J.columns(), J.rmatvec(torch.ones(J.batch[0], dtype=J.dtype, device=J.device))
    deviations = J.gram().diagonal().sqrt()
    errors = attempt(lambda: inference.covariance_of_estimates(J, "expected"))
    columns = {"value": J.values().tolist(), "total score": total.tolist(), "deviation": deviations.tolist()}
    columns["ratio"] = (total / deviations).tolist()
    if isinstance(errors, Estimates):
        columns["classical error"] = errors.standard_errors.tolist()
    notes = [
        "deviation: the root of the diagonal of JᵀJ, the standard deviation of a total of independent scores",
        "ratio: the total in units of its deviation; beyond ±2, the rows speak against the value",
        "classical error: what the standard error would be if the value were an estimate (expected information)",
    ]
    return ParameterTable(names, columns, notes), _mapped(J, lambda: _scaled_scores(J))


def _mapped(J: Jacobian, compute: Callable[[], HeatMap]) -> HeatMap | Unavailable:
    if J.model.d > MAPPED:
        return Unavailable(
            f"A map of {J.model.d} × {J.model.d} elements could not be read; it is drawn up to {MAPPED} variables."
        )
    return attempt(compute)


def _variance_ratios(J: Jacobian, classical: Estimates, robust: Estimates) -> HeatMap:
    """The robust over the classical variance of each element of Σ."""
    if _SIGMA in J.model.covariance.fields:
        chosen = [name.startswith(f"{_SIGMA}[") for name in classical.columns]
        own, model = robust.covariance.diagonal()[chosen], classical.covariance.diagonal()[chosen]
    else:
        own, model = (inference.delta_method(of, _elements).covariance.diagonal() for of in (robust, classical))
    negligible = torch.finfo(model.dtype).eps * model.amax()
    return HeatMap(False, _matrix(torch.where(model > negligible * 1e-3, own / model, torch.nan)))


def _elements(theta: Mapping[str, Tensor]) -> Tensor:
    return vech(theta[_SIGMA])


def _scaled_scores(J: Jacobian) -> HeatMap:
    """The total score by each element of Σ, whatever the structure, in units of its standard deviation."""
    if _SIGMA not in J.model.covariance.fields:  # by a dense Σ at the same density: also where the structure forbids a change
        sigma, x = J.model.parameter(_SIGMA).detach(), J.evaluation.rows.x
        J = Gaussian(J.model.parameter("mean"), sigma, missing=J.model.arguments.missing).jacobian(x)
    total = J.rmatvec(torch.ones(J.batch[0], dtype=J.dtype, device=J.device), _SIGMA)
    return HeatMap(True, _matrix(total / J.gram(wrt=_SIGMA).diagonal().sqrt()))


def _matrix(elements: Float[Tensor, "k"]) -> list[list[float]]:
    return unvech(elements).tolist()
