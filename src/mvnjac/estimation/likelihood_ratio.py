"""The likelihood-ratio test of one fit against a more general one of the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import ArgumentError, counted
from mvnjac.estimation.nesting import contains, more_factors
from mvnjac.gaussian import Gaussian
from mvnjac.statistics.fingerprint import Fingerprint
from mvnjac.statistics.tail_probabilities import chi_squared_p_value

_NAME = "likelihood_ratio_test"
#: a general fit whose log-likelihood is lower than the restricted one's by more than this, relative to it, is no maximum
_ROUNDING = 1e-9


@runtime_checkable
class Maximum(Protocol):
    """What the test needs of a `Fit`."""

    @property
    def gaussian(self) -> Gaussian:
        """The estimate."""

    @property
    def log_likelihood(self) -> float:
        """At the estimate."""

    @property
    def rows(self) -> int:
        """Of positive weight."""

    @property
    def converged(self) -> bool:
        """Whether it is a maximum."""

    @property
    def message(self) -> str:
        """The same in words."""

    def fingerprint(self) -> Fingerprint:
        """Identifies the observations it was estimated from."""

    @property
    def covariance(self) -> Covariance:
        """The structure of Σ."""

    @property
    def n_parameters(self) -> int:
        """Free parameters."""

    @property
    def names(self) -> list[str] | None:
        """Of the variables."""

    @property
    def boundary(self) -> Sequence[str]:
        """The columns of what is at a bound."""


@dataclass(frozen=True)
class LikelihoodRatioTest:
    """A test of a restricted model within a more general one: small p-values speak against the restriction.

    Attributes:
        statistic: twice the difference of the log-likelihoods.
        df: the difference of the numbers of free parameters.
        p_value: of χ² with df degrees of freedom; NaN where the statistic does not have that distribution.
        note: why there is no p-value, or what it relies on; "" where there is nothing to say.
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


def likelihood_ratio_test(restricted: Maximum, general: Maximum, *, nested: bool = False) -> LikelihoodRatioTest:
    """2 (ℓ_general − ℓ_restricted), which is χ² with as many degrees of freedom as there are restrictions, if these hold.

    The structures must be nested. It is known of the structures of this package: every structure is a restriction of a dense Σ;
    `Isotropic` of all others; `Diagonal` of `BandedPrecision`, `LowRank` and `BlockDiagonal`; `CompoundSymmetric` and `Autoregressive`
    of `Toeplitz`; `Autoregressive` of `BandedPrecision`; and lower orders, bandwidths and numbers of factors of higher ones.

    There is no p-value for numbers of factors against each other (independent variables have 0): under the smaller number the
    further loadings are not identified. Nor is there one where either fit lies at a boundary of its parameters, unless the
    general one is a dense Σ, which has none; a `note` then says what the p-value relies on.

    Args:
        restricted, general: fits of the same rows with the same weights.
        nested: the caller knows that the models are nested, which of a `Parametric` nothing else can tell.

    Returns:
        A `LikelihoodRatioTest`.

    Raises:
        ArgumentError: fits of other rows, variables or weights; models that are not nested; a fit that has not converged; a general
            fit that is a lower maximum than the restricted one.

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
            f"{general.covariance!r} ({general.n_parameters} parameters): compare them by aic or bic, or test each against "
            "fit(x, 'dense')." + ("" if nested or df <= 0 else " If you know that the models are nested, pass nested=True.")
        )
    statistic = 2 * (general.log_likelihood - restricted.log_likelihood)
    if statistic < -_ROUNDING * (1 + abs(general.log_likelihood)):
        raise ArgumentError(
            f"{_NAME}: the log-likelihood of the general fit, {general.log_likelihood:.10g}, is below that of the restricted one, "
            f"{restricted.log_likelihood:.10g}: it is a lower maximum. Fit it again, from an instance near the restricted estimate."
        )
    statistic = max(statistic, 0.0)
    valid, note = _validity(restricted, general)
    return LikelihoodRatioTest(statistic, df, chi_squared_p_value(statistic, df) if valid else math.nan, note)


def _require_comparable(restricted: Maximum, general: Maximum) -> None:
    for fit, name in ((restricted, "restricted"), (general, "general")):
        if not isinstance(fit, Maximum):
            raise ArgumentError(f"{_NAME}: {name} is a {type(fit).__name__}; pass a Fit, as mvnjac.fit returns it.")
        if not fit.converged:
            raise ArgumentError(
                f"{_NAME}: the {name} fit has not converged, so that its log-likelihood is no maximum: {fit.message}"
            )
    names = [fit.names for fit in (restricted, general)]
    if None not in names and names[0] != names[1]:
        raise ArgumentError(f"{_NAME}: the fits are of different variables: {names[0]} and {names[1]}.")
    one, two = (fit.fingerprint() for fit in (restricted, general))
    if not one.matches(two):
        sizes = [f"{fit.rows} rows (weights {print_.weight:g}) of {print_.variables} variables"
                 for fit, print_ in ((restricted, one), (general, two))]  # fmt: skip
        raise ArgumentError(
            f"{_NAME}: the fits are not of the same data: {sizes[0]}, and {sizes[1]}"
            f"{'' if sizes[0] != sizes[1] else ' with other values'}. Fit both to the same rows, with the same weights."
        )


def _nested(restricted: Maximum, general: Maximum) -> bool:
    one, two = restricted.gaussian.model, general.gaussian.model
    own = restricted.covariance.mean
    if two.arguments.mean_follows or (one.arguments.mean_follows and own is not None and own.ndim > 1):
        return False  # a mean that is a function of parameters contains no free one, and a free one none that varies by rows
    return contains(general.covariance, restricted.covariance)


def _validity(restricted: Maximum, general: Maximum) -> tuple[bool, str]:
    """Whether the statistic is χ² under the restriction, and what is to be said about it."""
    if more_factors(general.covariance, restricted.covariance):
        return False, (
            "There is no p-value: under the smaller number of factors the further loadings are not identified, and the statistic is "
            "not χ². Compare aic or bic, or test each number of factors against fit(x, 'dense')."
        )
    at = [*restricted.boundary, *general.boundary]
    if not at:
        return True, ""
    named = ", ".join(at[:5]) + (", …" if len(at) > 5 else "")
    if isinstance(general.covariance, DenseParametrisation):
        return True, f"The p-value relies on {named}, estimated at a boundary, not being there in truth."
    return False, f"There is no p-value: {named} is at a boundary of the parameters, where the statistic is not χ²."
