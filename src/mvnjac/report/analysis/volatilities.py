"""The standard deviations and the correlations of the variables."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mvnjac import inference
from mvnjac.linalg.correlation import correlation_matrix
from mvnjac.report.analysis.estimates_table import ParameterTable
from mvnjac.report.analysis.unavailable import Unavailable, attempt
from mvnjac.score.jacobian import Jacobian


@dataclass(frozen=True)
class Volatilities:
    """The standard deviations of the d variables, and their correlations.

    Attributes:
        values: (d,) the square roots of the diagonal of Σ.
        robust_errors: (d,) their standard errors by the sandwich; None for given parameters, or if it is not available.
        correlation: (d, d).
    """

    values: list[float]
    robust_errors: list[float] | None
    correlation: list[list[float]]


def volatilities(J: Jacobian, names: list[str], parameters: ParameterTable, estimate: bool) -> Volatilities:
    """The standard deviations with robust standard errors, which for a dense Σ follow from those of the variances."""
    sigma = J.model.parameter("covariance_matrix").detach()
    values = sigma.diagonal().sqrt()
    errors: list[float] | None = None
    if estimate:
        known = dict(zip(parameters.names, parameters.columns.get("robust error", []), strict=False))
        diagonal = [f"covariance_matrix[{name},{name}]" for name in names]
        if all(column in known for column in diagonal):
            variances = torch.tensor([known[column] for column in diagonal], dtype=values.dtype, device=values.device)
            errors = (variances / (2 * values)).tolist()
        else:
            found = attempt(lambda: inference.covariance_of_estimates(J, "sandwich", wrt="scale").standard_errors)
            errors = None if isinstance(found, Unavailable) else found.tolist()
    return Volatilities(values.tolist(), errors, correlation_matrix(sigma).tolist())
