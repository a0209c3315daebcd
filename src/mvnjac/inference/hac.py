"""Heteroscedasticity- and autocorrelation-consistent (HAC) covariances of sums of serially dependent scores (Newey & West).

Formulas and arguments are those of R's `sandwich` (Zeileis 2004, *Econometric computing with HC and HAC covariance matrix
estimators*): `NeweyWest(lag, prewhite, adjust)`, `kernHAC(bw, kernel)` and `meatHAC`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ArgumentError, NotIdentifiedError
from mvnjac.inference.estimating_functions import MEMORY_ADVICE, EstimatingFunctions, require
from mvnjac.inference.first_order_condition import warn_unless_at_estimate
from mvnjac.inference.kernel_weights import KERNELS, andrews_bandwidth, newey_west_bandwidth
from mvnjac.inference.row_labels import dates_of, sort_order
from mvnjac.information.functions import Wrt
from mvnjac.score.jacobian import Jacobian
from mvnjac.tensors.allocation import guarded

#: sums over more lags than this use the fast Fourier transform
_DIRECT_LAGS = 64


@dataclass(frozen=True)
class Prewhitened:
    """The residuals of a vector autoregression of the scores.

    residuals: (n − order, p). recolour: (p, p), D = (I − Σ Aₖ)⁻¹, which gives the long-run covariance of the scores.
    """

    residuals: Tensor
    recolour: Tensor


def prewhitened(function: str, scores: Tensor, order: int) -> Prewhitened:
    """A vector autoregression by least squares, without a mean (R: `ar(…, aic = FALSE, demean = FALSE, method = "ols")`).

    Raises:
        NotIdentifiedError: there are fewer rows than coefficients, or the scores are linearly dependent.
    """
    n, p = scores.shape
    if n - order <= order * p:
        raise NotIdentifiedError(
            f"{function}: a vector autoregression of order {order} of {p} scores has {order * p} coefficients per equation, "
            f"but there are {n - order} rows; pass prewhite=0, or take fewer columns."
        )
    units = scores.square().mean(0).sqrt()
    units = torch.where(units > 0, units, 1)
    z = scores / units
    past = torch.cat([z[order - lag : n - lag] for lag in range(1, order + 1)], -1)
    Q, R = torch.linalg.qr(past)
    diagonal = R.diagonal().abs()
    if bool(diagonal.min() <= n * torch.finfo(z.dtype).eps * diagonal.max()):
        raise NotIdentifiedError(f"{function}: the scores are linearly dependent; pass prewhite=0, or leave out columns.")
    coefficients = torch.linalg.solve_triangular(R, Q.mT @ z[order:], upper=True)
    A = coefficients.unflatten(0, (order, p)).sum(0).mT  # zₜ = Σ Aₖ zₜ₋ₖ + eₜ
    recolour = torch.linalg.inv(torch.eye(p, dtype=z.dtype, device=z.device) - A)
    return Prewhitened((z[order:] - past @ coefficients) * units, units.unsqueeze(-1) * recolour / units)


def long_run_sum(series: Tensor, weights: Tensor) -> Tensor:
    """(k, k) Σ over the lags l of w_|l| Σₜ uₜ uₜ₊ₗᵀ, for series u (n, k) and weights (L + 1,) of the lags from 0 on.

    With Bartlett weights it is positive semidefinite (Newey & West 1987, *A simple, positive semi-definite, heteroskedasticity
    and autocorrelation consistent covariance matrix*).
    """
    n = len(series)
    weights = weights[:n]
    if len(weights) > _DIRECT_LAGS:
        return _long_run_sum_by_fft(series, weights)
    total = weights[0] * (series.mT @ series)
    for lag in range(1, len(weights)):
        cross = series[: n - lag].mT @ series[lag:]
        total = total + weights[lag] * (cross + cross.mT)
    return total


def _long_run_sum_by_fft(series: Tensor, weights: Tensor) -> Tensor:
    """uᵀ (T u) with the Toeplitz matrix T of the weights, by the fast Fourier transform."""
    n = len(series)
    row = series.new_zeros(2 * n)
    row[: len(weights)] = weights
    row[2 * n - len(weights) + 1 :] = weights[1:].flip(0)
    spectrum = torch.fft.rfft(row).real.unsqueeze(-1)
    smooth = torch.fft.irfft(spectrum * torch.fft.rfft(series, 2 * n, dim=0), 2 * n, dim=0)[:n]
    total = series.mT @ smooth
    return 0.5 * (total + total.mT)


class LongRunScores:
    """Scores in the order of time, prewhitened or not, with a kernel and a bandwidth for their long-run covariance."""

    def __init__(
        self,
        estfun: EstimatingFunctions,
        lag: int | None,
        prewhite: int,
        order_by: Iterable[Any] | None,
        kernel: str = "Bartlett",
        bandwidth: float | str | None = None,
    ) -> None:
        _require_valid(estfun.function, lag, prewhite, kernel, bandwidth)
        self._estfun, self._kernel, self._prewhite = estfun, kernel, prewhite
        order_by = dates_of(estfun.jacobian.index) if order_by is None else order_by
        order = sort_order(estfun.function, order_by, estfun.rows, require_unique=True)
        self._order = order.to(estfun.jacobian.device)
        self._prewhitened = prewhitened(estfun.function, estfun.scores()[self._order], prewhite) if prewhite else None
        automatic = kernel == "Bartlett" and bandwidth is None
        self.lag = math.floor(self._automatic_bandwidth("Newey-West")) if automatic and lag is None else lag
        if self.lag is not None:
            self.bandwidth = float(self.lag + 1)
        elif isinstance(bandwidth, int | float):
            self.bandwidth = float(bandwidth)
        else:
            self.bandwidth = self._automatic_bandwidth(bandwidth or "Andrews")

    @property
    def words(self) -> str:
        """Kernel, bandwidth and order of prewhitening, for titles."""
        how = f"Newey–West, lag {self.lag}" if self.lag is not None else f"{self._kernel}, bandwidth {self.bandwidth:.4g}"
        return f"{how}, prewhite {self._prewhite}"

    def covariance_of_sum(self, directions: Tensor) -> Tensor:
        """(k, k) the covariance of the total scores times directions (k, p)."""
        series = self._series(directions)
        lags = torch.arange(len(series), dtype=series.dtype, device=series.device)
        if self._kernel != "Quadratic Spectral":
            lags = lags[: math.floor(self.bandwidth) + 1]  # all other kernels are 0 beyond the bandwidth
        weights = KERNELS[self._kernel].weights(lags / self.bandwidth) if self.bandwidth > 0 else (lags == 0).to(series)
        return long_run_sum(series, weights)

    def _series(self, directions: Tensor) -> Tensor:
        if self._prewhitened is not None:
            return self._prewhitened.residuals @ (directions @ self._prewhitened.recolour).mT
        return self._estfun.products(directions)[self._order]

    def _automatic_bandwidth(self, method: str) -> float:
        estfun, kernel = self._estfun, self._kernel
        residuals = None if self._prewhitened is None else self._prewhitened.residuals
        if method == "Andrews":
            series = estfun.scores()[self._order] if residuals is None else residuals
            found = andrews_bandwidth(estfun.function, series, kernel)
        else:
            ones = torch.ones(1, estfun.size, dtype=torch.float64, device=self._order.device)
            total = self._series(ones).squeeze(-1) if residuals is None else residuals.sum(-1)
            found = newey_west_bandwidth(total, estfun.rows, self._prewhite, kernel)
        if not math.isfinite(found):
            raise NotIdentifiedError(
                f"{estfun.function}: the automatic bandwidth ({method}) is {found}; pass a number as lag= or bandwidth=."
            )
        return found


@guarded("scores_covariance", MEMORY_ADVICE)
def scores_covariance(
    J: Jacobian,
    *,
    known: Wrt = None,
    wrt: Wrt = None,
    lag: int | None = None,
    prewhite: int = True,
    adjust: bool = False,
    order_by: Iterable[Any] | None = None,
    kernel: str = "Bartlett",
    bandwidth: float | str | None = None,
    weights: Float[Tensor, "n"] | None = None,
) -> Float[Tensor, "p p"]:
    """The long-run covariance of the scores, n⁻¹ Var(Σ sᵢ), of all estimated parameters (R: NeweyWest(sandwich = FALSE)).

    Args:
        J: the Jacobian at the estimate, of n rows.
        wrt: any columns of the parametrisation; the result has all of its columns.
        known, lag, prewhite, adjust, order_by, kernel, bandwidth, weights: as in `covariance_of_estimates`.

    Returns:
        (p, p) the covariance.

    Raises:
        NotIdentifiedError: there are too few rows for `prewhite`, or the automatic bandwidth is not finite.
        ArgumentError: arguments are invalid, or exclude each other.

    Warns:
        NotAtEstimateWarning: as in `covariance_of_estimates`.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac import inference
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> J = mvnjac.fit(x).gaussian.jacobian(x)
        >>> inference.score_process(J, scores_covariance=inference.scores_covariance(J)).sup_lm().p_value > 0.05
        True
    """
    estfun = EstimatingFunctions("scores_covariance", J, wrt, weights, known)
    warn_unless_at_estimate(estfun)
    n, p = estfun.rows, estfun.size
    estfun.require_memory(7 * n * p + 4 * p * p, False)
    long_run = LongRunScores(estfun, lag, int(prewhite), order_by, kernel, bandwidth)
    total = long_run.covariance_of_sum(estfun.unit_rows(range(p)))
    return total / (n - p if adjust else n)


def _require_valid(function: str, lag: int | None, prewhite: int, kernel: str, bandwidth: float | str | None) -> None:
    require(function, "kernel", kernel, tuple(KERNELS))
    if lag is not None and (isinstance(lag, bool) or not isinstance(lag, int) or lag < 0):
        raise ArgumentError(
            f"{function}: lag is {lag!r}; expected a number of rows, 0 or more, or None for the automatic choice of Newey & "
            "West."
        )
    if lag is not None and (bandwidth is not None or kernel != "Bartlett"):
        raise ArgumentError(
            f"{function}: got lag={lag} with bandwidth={bandwidth!r} and kernel={kernel!r}, but lag is for the Bartlett kernel "
            "without bandwidth; pass bandwidth= alone (lag + 1 is equivalent)."
        )
    _require_bandwidth(function, kernel, bandwidth)
    if not isinstance(prewhite, int) or prewhite < 0:
        raise ArgumentError(
            f"{function}: prewhite is {prewhite!r}; expected the order of an autoregression: False (0), True (1), 2, …."
        )


def _require_bandwidth(function: str, kernel: str, bandwidth: float | str | None) -> None:
    if bandwidth is None or bandwidth == "Andrews":
        return
    if bandwidth == "Newey-West":
        if KERNELS[kernel].lag_exponent is None:
            raise ArgumentError(
                f"{function}: the bandwidth of Newey and West is not defined for the kernel {kernel!r}; pass 'Andrews' or a "
                "number."
            )
        return
    number = isinstance(bandwidth, int | float) and not isinstance(bandwidth, bool)
    if not number or not 0 < float(bandwidth) < math.inf:
        raise ArgumentError(
            f"{function}: bandwidth is {bandwidth!r}; expected a positive number of rows, 'Andrews' or 'Newey-West'."
        )
