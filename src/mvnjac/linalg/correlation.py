"""Correlation matrices, and how close a covariance is to a singular matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def correlation_matrix(covariance: Tensor) -> Tensor:
    """(k, k) scaled to the diagonal 1 (−1 where it is negative), with zeros left as they are."""
    scale = covariance.diagonal().abs().sqrt()
    scale = torch.where(scale > 0, scale, 1)
    return covariance / torch.outer(scale, scale)


def smallest_eigenvalue(covariance: Tensor) -> float:
    """The smallest eigenvalue of the correlation matrix; 1 for an empty matrix."""
    return float(torch.linalg.eigvalsh(correlation_matrix(covariance))[0]) if len(covariance) else 1.0
