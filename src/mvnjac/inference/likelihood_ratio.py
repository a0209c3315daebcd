"""The likelihood-ratio test of two nested models fitted to the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import ArgumentError, counted
from mvnjac.gaussian import Gaussian
from mvnjac.inference.result_table import ResultFields
from mvnjac.statistics.fingerprint import Fingerprint
from mvnjac.statistics.tail_probabilities import chi_squared_p_value

_NAME = "likelihood_ratio_test"
#: the relative difference by which rounding may put the general fit's log-likelihood below the restricted one's
_ROUNDING = 1e-9


@runtime_checkable
class FittedModel(Protocol):
    """The part of `Fit` that the test uses."""

    @property
    def gaussian(self) -> Gaussian: ...
    @property
    def log_likelihood(self) -> float: ...
    @property
    def rows(self) -> int: ...
    @property
    def converged(self) -> bool: ...
    @property
    def message(self) -> str: ...
    @property
    def covariance(self) -> Covariance: ...
    @property
    def n_parameters(self) -> int: ...
    @property
    def names(self) -> list[str] | None: ...
    @property
    def boundary(self) -> Sequence[str]: ...

    def fingerprint(self) -> Fingerprint: ...


@dataclass(frozen=True)
class LikelihoodRatioTest(ResultFields):
    """A test of a restricted model within a more general one: small p-values are evidence against the restriction.

    Attributes:
        statistic: twice the difference of the log-likelihoods.
        df: the difference of the numbers of free parameters.
        p_value: by χ² with df degrees of freedom; NaN if the statistic does not have that distribution.
        note: the reason for a missing p-value, or an assumption that the p-value relies on; else "".
    """

    statistic: float
    df: int
    p_value: float
    note: str

    def __str__(self) -> str:
        note = f". {self.note}" if self.note else ""
        return (
            f"likelihood ratio {self.statistic:.6g} with {counted(self.df, 'degree of freedom')}: p = {self.p_value:.4g}{note}"
        )


def likelihood_ratio_test(restricted: FittedModel, general: FittedModel, *, nested: bool = False) -> LikelihoodRatioTest:
    """Test a restricted model against a more general one by the likelihood ratio.

    The statistic 2 (ℓ_general − ℓ_restricted) is asymptotically χ² under the restrictions, with as many degrees of freedom as
    there are restrictions. The structures must be nested. These cases are recognised: every structure is a restriction of a
    dense Σ; `Isotropic` of all others; `Diagonal` of `BandedPrecision`, `LowRank` and `BlockDiagonal`; `CompoundSymmetric` and
    `Autoregressive` of `Toeplitz`; `Autoregressive` of `BandedPrecision`; and lower orders, bandwidths and numbers of factors
    of higher ones.

    There is no p-value for a test of the number of factors (0 for independent variables), since the additional loadings are not
    identified under the restriction. Nor is there one if either fit has parameters at a bound, unless the general model is a
    dense Σ, which has no bounds; `note` then states the assumption.

    Args:
        restricted, general: fits to the same rows with the same weights.
        nested: True asserts that the models are nested, which cannot be recognised for a `Parametric`.

    Returns:
        A `LikelihoodRatioTest`.

    Raises:
        ArgumentError: the fits differ in rows, variables or weights; the models are not nested; a fit has not converged; or the
            log-likelihood of the general fit is below that of the restricted one.

    Source: Wilks 1938, *The large-sample distribution of the likelihood ratio*.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac import inference
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0], [4.0, 2.0]])
        >>> print(inference.likelihood_ratio_test(mvnjac.fit(x, "diagonal"), mvnjac.fit(x)))
        likelihood ratio 0.313692 with 1 degree of freedom: p = 0.5754
    """
    _require_comparable(restricted, general)
    df = general.n_parameters - restricted.n_parameters
    if not (nested or _nested(restricted, general)) or df <= 0:
        raise ArgumentError(
            f"{_NAME}: {restricted.covariance!r} ({restricted.n_parameters} parameters) is not known to be a restriction of "
            f"{general.covariance!r} ({general.n_parameters} parameters); compare them by aic or bic, or test each against "
            "fit(x, 'dense')." + ("" if nested or df <= 0 else " If you know that the models are nested, pass nested=True.")
        )
    statistic = 2 * (general.log_likelihood - restricted.log_likelihood)
    if statistic < -_ROUNDING * (1 + abs(general.log_likelihood)):
        raise ArgumentError(
            f"{_NAME}: the log-likelihood of the general fit, {general.log_likelihood:.10g}, is below that of the restricted "
            f"one, {restricted.log_likelihood:.10g}: it is a lower maximum. Fit it again, starting near the restricted one."
        )
    statistic = max(statistic, 0.0)
    valid, note = _validity(restricted, general)
    return LikelihoodRatioTest(statistic, df, chi_squared_p_value(statistic, df) if valid else math.nan, note)


def _require_comparable(restricted: FittedModel, general: FittedModel) -> None:
    for fit, name in ((restricted, "restricted"), (general, "general")):
        if not isinstance(fit, FittedModel):
            raise ArgumentError(f"{_NAME}: {name} is a {type(fit).__name__}; pass a Fit, as mvnjac.fit returns it.")
        if not fit.converged:
            raise ArgumentError(
                f"{_NAME}: the {name} fit has not converged, so its log-likelihood is not a maximum: {fit.message}"
            )
    names = [fit.names for fit in (restricted, general)]
    if None not in names and names[0] != names[1]:
        raise ArgumentError(f"{_NAME}: the fits are of different variables: {names[0]} and {names[1]}; fit both to the same.")
    one, two = (fit.fingerprint() for fit in (restricted, general))
    if not one.matches(two):
        sizes = [f"{fit.rows} rows (weights {data.weight:g}) of {data.variables} variables"
                 for fit, data in ((restricted, one), (general, two))]  # fmt: skip
        raise ArgumentError(
            f"{_NAME}: the fits are not of the same data: {sizes[0]}, and {sizes[1]}"
            f"{'' if sizes[0] != sizes[1] else ' with other values'}. Fit both to the same rows, with the same weights."
        )


def _nested(restricted: FittedModel, general: FittedModel) -> bool:
    one, two = restricted.gaussian.model, general.gaussian.model
    mean = restricted.covariance.mean
    if two.arguments.mean_follows or (one.arguments.mean_follows and mean is not None and mean.ndim > 1):
        return False  # a parametric mean does not contain a free one, and a free mean does not contain one that varies by row
    return general.covariance.contains(restricted.covariance)


def _validity(restricted: FittedModel, general: FittedModel) -> tuple[bool, str]:
    """Whether the statistic is χ² under the restriction, and the note."""
    if general.covariance.has_more_factors(restricted.covariance):
        return False, (
            "There is no p-value: with the smaller number of factors the additional loadings are not identified, so the "
            "statistic is not χ². Compare aic or bic, or test each number of factors against fit(x, 'dense')."
        )
    at = [*restricted.boundary, *general.boundary]
    if not at:
        return True, ""
    named = ", ".join(at[:5]) + (", …" if len(at) > 5 else "")
    if isinstance(general.covariance, DenseParametrisation):
        return True, f"The p-value assumes that the true value of {named}, estimated at a boundary, is not at that boundary."
    return False, f"There is no p-value: {named} is at a boundary of the parameters, where the statistic is not χ²."
