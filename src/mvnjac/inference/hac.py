"""Heteroscedasticity and autocorrelation: the covariance of a sum of dependent scores (Newey & West).

The formulas and the meaning of the arguments are those of R's `sandwich` (Zeileis 2004, *Econometric computing with HC and HAC
covariance matrix estimators*), where these are called `NeweyWest(lag, prewhite, adjust)`, `kernHAC(bw, kernel)` and `meatHAC`.
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
from mvnjac.inference.at_estimate import warn_unless_at_estimate
from mvnjac.inference.estimating_functions import FEWER, EstimatingFunctions, require
from mvnjac.inference.kernel_weights import KERNELS, andrews_bandwidth, newey_west_bandwidth
from mvnjac.inference.ordering import order_of
from mvnjac.information.functions import Wrt
from mvnjac.score.jacobian import Jacobian
from mvnjac.tensors.allocation import guarded

#: more lags than this are summed by Fourier transforms
_DIRECT_LAGS = 64


@dataclass(frozen=True)
class Prewhitened:
    """Scores less what a vector autoregression of some order foresees of them.

    residuals: (n − order, p). recolour: (p, p), D = (I − Σ Aₖ)⁻¹, which brings the long-run covariance back.
    """

    residuals: Tensor
    recolour: Tensor


def prewhitened(function: str, scores: Tensor, order: int) -> Prewhitened:
    """By least squares, without a mean (R: `ar(…, aic = FALSE, demean = FALSE, method = "ols")`).

    Raises:
        NotIdentifiedError: fewer rows than coefficients, or scores that are linearly dependent.
    """
    n, p = scores.shape
    if n - order <= order * p:
        raise NotIdentifiedError(
            f"{function}: an autoregression of order {order} of {p} scores has {order * p} coefficients an equation, but there are "
            f"{n - order} rows; take prewhite=0, or fewer columns."
        )
    units = scores.square().mean(0).sqrt()
    units = torch.where(units > 0, units, 1)
    z = scores / units
    past = torch.cat([z[order - lag : n - lag] for lag in range(1, order + 1)], -1)
    Q, R = torch.linalg.qr(past)
    diagonal = R.diagonal().abs()
    if bool(diagonal.min() <= n * torch.finfo(z.dtype).eps * diagonal.max()):
        raise NotIdentifiedError(f"{function}: the scores are linearly dependent; take prewhite=0, or leave out columns.")
    coefficients = torch.linalg.solve_triangular(R, Q.mT @ z[order:], upper=True)
    A = coefficients.unflatten(0, (order, p)).sum(0).mT  # zₜ = Σ Aₖ zₜ₋ₖ + eₜ
    recolour = torch.linalg.inv(torch.eye(p, dtype=z.dtype, device=z.device) - A)
    return Prewhitened((z[order:] - past @ coefficients) * units, units.unsqueeze(-1) * recolour / units)


def long_run_sum(series: Tensor, weights: Tensor) -> Tensor:
    """(k, k) Σ over the lags l of w_|l| Σₜ uₜ uₜ₊ₗᵀ, of series u (n, k), with weights (L + 1,) of the lags from 0 on.

    With Bartlett's weights it is positive semidefinite (Newey & West 1987, *A simple, positive semi-definite, heteroskedasticity and
    autocorrelation consistent covariance matrix*).
    """
    n = len(series)
    weights = weights[:n]
    if len(weights) > _DIRECT_LAGS:
        return _by_convolution(series, weights)
    total = weights[0] * (series.mT @ series)
    for later in range(1, len(weights)):
        cross = series[: n - later].mT @ series[later:]
        total = total + weights[later] * (cross + cross.mT)
    return total


def _by_convolution(series: Tensor, weights: Tensor) -> Tensor:
    """uᵀ (T u) with the Toeplitz matrix T of the weights, by Fourier transforms: for many lags."""
    n = len(series)
    row = series.new_zeros(2 * n)
    row[: len(weights)] = weights
    row[2 * n - len(weights) + 1 :] = weights[1:].flip(0)
    spectrum = torch.fft.rfft(row).real.unsqueeze(-1)
    smooth = torch.fft.irfft(spectrum * torch.fft.rfft(series, 2 * n, dim=0), 2 * n, dim=0)[:n]
    total = series.mT @ smooth
    return 0.5 * (total + total.mT)


class LongRunScores:
    """Scores in the order of time, prewhitened or not, and the lag up to which they are taken to depend on each other."""

    def __init__(
        self,
        estimating: EstimatingFunctions,
        lag: int | None,
        prewhite: int,
        order_by: Iterable[Any] | None,
        kernel: str = "Bartlett",
        bandwidth: float | str | None = None,
    ) -> None:
        _valid(estimating.function, lag, prewhite, kernel, bandwidth)
        self._estimating, self._kernel, self._prewhite = estimating, kernel, prewhite
        order = order_of(estimating.function, order_by, estimating.rows, require_unique=True)
        self._order = order.to(estimating.jacobian.device)
        self._white = prewhitened(estimating.function, estimating.scores()[self._order], prewhite) if prewhite else None
        automatic = kernel == "Bartlett" and bandwidth is None
        self.lag = math.floor(self._automatic("Newey-West")) if automatic and lag is None else lag
        self.bandwidth = self._bandwidth(bandwidth) if self.lag is None else float(self.lag + 1)

    @property
    def words(self) -> str:
        """Kernel, bandwidth and order, for titles."""
        how = f"Newey–West, lag {self.lag}" if self.lag is not None else f"{self._kernel}, bandwidth {self.bandwidth:.4g}"
        return f"{how}, prewhite {self._prewhite}"

    def covariance_of_sum(self, directions: Tensor) -> Tensor:
        """(k, k) of the sums of the scores times directions (k, p)."""
        series = self._series(directions)
        lags = torch.arange(len(series), dtype=series.dtype, device=series.device)
        if self._kernel != "Quadratic Spectral":
            lags = lags[: math.floor(self.bandwidth) + 1]  # beyond the bandwidth the others are 0
        weights = KERNELS[self._kernel].weights(lags / self.bandwidth) if self.bandwidth > 0 else (lags == 0).to(series)
        return long_run_sum(series, weights)

    def _series(self, directions: Tensor) -> Tensor:
        if self._white is not None:
            return self._white.residuals @ (directions @ self._white.recolour).mT
        return self._estimating.products(directions)[self._order]

    def _bandwidth(self, given: float | str | None) -> float:
        return float(given) if isinstance(given, int | float) else self._automatic(given or "Andrews")

    def _automatic(self, method: str) -> float:
        estimating, kernel = self._estimating, self._kernel
        if method == "Andrews":
            every = estimating.scores()[self._order] if self._white is None else self._white.residuals
            found = andrews_bandwidth(estimating.function, every, kernel)
        else:
            ones = torch.ones(1, estimating.size, dtype=torch.float64, device=self._order.device)
            whole = self._series(ones).squeeze(-1) if self._white is None else self._white.residuals.sum(-1)
            found = newey_west_bandwidth(whole, estimating.rows, self._prewhite, kernel)
        if not math.isfinite(found):
            raise NotIdentifiedError(
                f"{estimating.function}: the bandwidth by {method}'s rule is {found}; say lag= or bandwidth=, as a number."
            )
        return found


@guarded("scores_covariance", FEWER)
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
    """The long-run covariance of a score, n⁻¹ Var(Σ sᵢ), by all parameters that were estimated (R: NeweyWest(sandwich = FALSE)).

    Args:
        J: the Jacobian at the estimate.
        wrt: names the parametrisation: all of its columns are in the result.
        known, lag, prewhite, adjust, order_by, kernel, bandwidth, weights: as in `covariance_of_estimates`.

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
    estimating = EstimatingFunctions("scores_covariance", J, wrt, weights, known)
    warn_unless_at_estimate(estimating)
    n, p = estimating.rows, estimating.size
    estimating.require_memory(7 * n * p + 4 * p * p, False)
    long_run = LongRunScores(estimating, lag, int(prewhite), order_by, kernel, bandwidth)
    total = long_run.covariance_of_sum(estimating.unit_rows(range(p)))
    return total / (n - p if adjust else n)


def _valid(function: str, lag: int | None, prewhite: int, kernel: str, bandwidth: float | str | None) -> None:
    """Whether these are numbers of rows, and go together."""
    require(function, "kernel", kernel, tuple(KERNELS))
    if lag is not None and (isinstance(lag, bool) or not isinstance(lag, int) or lag < 0):
        raise ArgumentError(
            f"{function}: lag is {lag!r}; expected a number of rows, 0 or more, or None for Newey & West's choice."
        )
    if lag is not None and (bandwidth is not None or kernel != "Bartlett"):
        raise ArgumentError(
            f"{function}: lag is Newey and West's, of Bartlett's kernel; pass bandwidth= alone (lag + 1 means the same)."
        )
    _require_bandwidth(function, kernel, bandwidth)
    if not isinstance(prewhite, int) or prewhite < 0:
        raise ArgumentError(
            f"{function}: prewhite is {prewhite!r}; expected the order of an autoregression: False, True, 2, …."
        )


def _require_bandwidth(function: str, kernel: str, bandwidth: float | str | None) -> None:
    if bandwidth is None or bandwidth == "Andrews":
        return
    if bandwidth == "Newey-West":
        if KERNELS[kernel].lags is None:
            raise ArgumentError(
                f"{function}: there is no bandwidth of Newey and West's for the kernel {kernel!r}; take 'Andrews'."
            )
        return
    number = isinstance(bandwidth, int | float) and not isinstance(bandwidth, bool)
    if not number or not 0 < float(bandwidth) < math.inf:
        raise ArgumentError(
            f"{function}: bandwidth is {bandwidth!r}; expected a positive number of rows, 'Andrews' or 'Newey-West'."
        )
