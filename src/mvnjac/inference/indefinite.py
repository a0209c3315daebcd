"""Covariances that are no covariances: with negative eigenvalues."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.errors import NotPositiveSemidefiniteWarning, warn

#: an eigenvalue of a correlation matrix that is less negative than this, times its size, is 0
_ROUNDING = 1e-12


def warn_if_indefinite(function: str, covariance: Tensor, words: str) -> None:
    """Warn where an estimated covariance, which `words` describe, is not positive semidefinite; it is left as it is."""
    scale = covariance.diagonal().abs().sqrt()
    scale = torch.where(scale > 0, scale, 1)
    smallest = float(torch.linalg.eigvalsh(covariance / torch.outer(scale, scale))[0]) if len(covariance) else 0.0
    if smallest < -_ROUNDING * len(covariance):
        negative = int((covariance.diagonal() < 0).sum())
        warn(
            f"{function}: the covariance ({words}) is not positive semidefinite: its smallest eigenvalue, each parameter in its own "
            f"units, is {smallest:.3g}, and {negative} of {len(covariance)} variances are negative, with standard errors NaN. Of "
            "clusters in several ways pass fix=True; of a series take kernel='Bartlett', 'Parzen' or 'Quadratic Spectral'.",
            NotPositiveSemidefiniteWarning,
        )
