"""Covariance estimators: each maps gradients (k, p) of k functions of the estimates to their covariance (k, k).

The bread is an inverse information A⁻¹, and the meat an estimate of the covariance of the total score. The products of the
scores with A⁻¹ Gᵀ, n×k for gradients G, suffice; the p×p covariance of all parameters is formed for `fix` only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, NotPositiveSemidefiniteWarning, counted, warn
from mvnjac.inference.clusters import clustered_sum
from mvnjac.inference.estimating_functions import EstimatingFunctions
from mvnjac.inference.hac import LongRunScores
from mvnjac.linalg.correlation import smallest_eigenvalue

Estimator = Callable[[Tensor], Tensor]
#: a smallest eigenvalue of a correlation matrix above minus this, times the size, is rounding
_ROUNDING = 1e-12


def inverse_information(estfun: EstimatingFunctions, kind: str, adjust: bool) -> tuple[str, Estimator]:
    """A description and the estimator of kind "expected", "observed" or "opg"."""
    if adjust and kind != "opg":
        raise ArgumentError(f"{estfun.function}: adjust has no meaning for {kind!r}; leave it out.")
    scale = _small_sample_factor(estfun, adjust)
    words = "outer product of gradients" if kind == "opg" else f"{kind} information"
    return words + (", n/(n − p)" if adjust else ""), lambda G: _symmetric(scale * G @ estfun.solve(kind, G).mT)


def sandwich(estfun: EstimatingFunctions, bread: str, adjust: bool) -> tuple[str, Estimator]:
    """A description and the estimator for independent rows."""
    scale = _small_sample_factor(estfun, adjust)

    def estimator(G: Tensor) -> Tensor:
        series = estfun.products(estfun.solve(bread, G))
        return _symmetric(scale * series.mT @ series)

    return f"sandwich (HC{int(adjust)}), bread: {bread}", estimator


def clustered(
    estfun: EstimatingFunctions, bread: str, adjust: bool, ways: Sequence[Sequence[Any]], cluster_adjust: bool, fix: bool
) -> tuple[str, Estimator]:
    """A description and the estimator for independent clusters. fix: set negative eigenvalues of the p×p covariance to 0."""
    n = estfun.rows
    scale = (n - 1) / (n - estfun.size) if adjust else 1.0

    def estimator(G: Tensor) -> Tensor:
        series = estfun.products(estfun.solve(bread, G))
        return _symmetric(scale * clustered_sum(estfun.function, series, ways, cluster_adjust))

    counts = [len(set(way)) for way in ways]
    total = " and ".join([*map(str, counts[:-1]), counted(counts[-1], "cluster")])
    words = f"clustered ({total}, HC{int(adjust)}{', fixed' if fix else ''}), bread: {bread}"
    if not fix:
        return words, estimator
    values, Q = torch.linalg.eigh(estimator(estfun.unit_rows(range(estfun.size))))
    root = Q * values.clamp(min=0).sqrt()  # R's vcovCL: fix = TRUE
    return words, lambda G: _symmetric(G @ root @ (G @ root).mT)


def hac(estfun: EstimatingFunctions, bread: str, adjust: bool, long_run: LongRunScores) -> tuple[str, Estimator]:
    """A description and the estimator for a weakly dependent time series."""
    scale = _small_sample_factor(estfun, adjust)
    words = f"HAC ({long_run.words}{', adjusted' if adjust else ''}), bread: {bread}"
    return words, lambda G: _symmetric(scale * long_run.covariance_of_sum(estfun.solve(bread, G)))


def warn_if_indefinite(function: str, covariance: Tensor, words: str) -> None:
    """Warn if an estimated covariance, described by `words`, is not positive semidefinite."""
    smallest = smallest_eigenvalue(covariance)
    if smallest < -_ROUNDING * len(covariance):
        negative = int((covariance.diagonal() < 0).sum())
        warn(
            f"{function}: the covariance ({words}) is not positive semidefinite: scaled to the diagonal 1, it has the smallest "
            f"eigenvalue {smallest:.3g}, and {negative} of {len(covariance)} variances are negative, with standard errors NaN. "
            "For clusters in several ways pass fix=True; for a time series choose kernel='Bartlett', 'Parzen' or 'Quadratic "
            "Spectral'.",
            NotPositiveSemidefiniteWarning,
        )


def _small_sample_factor(estfun: EstimatingFunctions, adjust: bool) -> float:
    return estfun.rows / (estfun.rows - estfun.size) if adjust else 1.0


def _symmetric(A: Tensor) -> Tensor:
    return 0.5 * (A + A.mT)
