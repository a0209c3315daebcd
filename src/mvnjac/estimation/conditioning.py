"""The condition number of a covariance: how many digits it leaves, and which variables are nearly linearly dependent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import IllConditionedWarning, warn
from mvnjac.gaussian import Gaussian
from mvnjac.linalg.correlation import correlation_matrix

#: the number of variables that are named, of the combination with the smallest variance
_NAMED = 4
#: a warning is given where fewer decimal digits of float64 remain: κ eps > 1e-6
DIGITS = 6
#: up to this many variables the check forms Σ where the structure is not a dense parametrisation
_MAX_FORMED = 500


@dataclass(frozen=True)
class Conditioning:
    """The condition numbers of Σ and of its correlation matrix.

    Attributes:
        covariance: κ(Σ).
        correlation: κ of the correlation matrix.
        eigenvalues: of the correlation matrix, descending.
        digits64, digits32: correct decimal digits of the scores in float64 and float32, given κ of the correlation matrix.
        combination: the largest terms, (variable, weight), of the combination of standardised variables with least variance.
    """

    covariance: float
    correlation: float
    eigenvalues: list[float]
    digits64: float
    digits32: float
    combination: list[tuple[str, float]]


def conditioning(sigma: Float[Tensor, "d d"], names: Sequence[str]) -> Conditioning:
    """The condition numbers by eigenvalues. κ of the correlation matrix bounds the error of a Cholesky factorisation, which
    does not depend on the units of the variables.

    Source: van der Sluis 1969, *Condition numbers and equilibration of matrices*; Higham 2002, *Accuracy and Stability of
    Numerical Algorithms*, ch. 10.
    """
    values, vectors = torch.linalg.eigh(correlation_matrix(sigma))
    weights = vectors[:, 0]
    leading = weights.abs().argsort(descending=True)[:_NAMED].tolist()
    sign = 1.0 if float(weights[leading[0]]) > 0 else -1.0
    kappa = _ratio(values)
    return Conditioning(
        _ratio(torch.linalg.eigvalsh(sigma)),
        kappa,
        values.flip(0).tolist(),
        _digits(torch.float64, kappa),
        _digits(torch.float32, kappa),
        [(names[i], sign * float(weights[i])) for i in leading],
    )


def warn_if_ill_conditioned(function: str, gaussian: Gaussian, name_of: Callable[[int], str]) -> None:
    """Give an IllConditionedWarning if the correlation matrix leaves fewer than `DIGITS` digits of float64.

    The check covers dense parametrisations, and other structures up to 500 variables, since it forms Σ.

    Args:
        function: the name with which the message begins.
        name_of: the name of variable i.
    """
    d = gaussian.model.d
    if not isinstance(gaussian.covariance, DenseParametrisation) and d > _MAX_FORMED:
        return
    sigma = gaussian.model.parameter("covariance_matrix").detach().double()
    correlation = correlation_matrix(sigma)
    if _certainly_well_conditioned(correlation):
        return
    found = conditioning(sigma, [name_of(i) for i in range(d)])
    if found.digits64 >= DIGITS:
        return
    largest = abs(found.combination[0][1])
    terms = ", ".join(name for name, weight in found.combination if abs(weight) >= 0.1 * largest)
    kappa = f"{found.correlation:.2g}" if math.isfinite(found.correlation) else "above 1e16"
    warn(
        f"{function}: the correlation matrix is ill-conditioned: κ = {kappa} leaves about {found.digits64:.0f} of 16 digits of "
        f"the scores, the standard errors and the log-likelihood. {terms} are nearly linearly dependent: leave one out, "
        "or replace them by combinations, such as differences, that are not.",
        IllConditionedWarning,
    )


def _certainly_well_conditioned(correlation: Tensor) -> bool:
    """Whether the bound d · tr R⁻¹ ≥ κ leaves enough digits: one Cholesky factorisation instead of eigenvalues."""
    L, info = torch.linalg.cholesky_ex(correlation)
    if int(info):
        return False
    inverse = torch.linalg.solve_triangular(L, torch.eye(len(L), dtype=L.dtype, device=L.device), upper=False)
    return _digits(torch.float64, len(L) * float(inverse.square().sum())) >= DIGITS


def _ratio(ascending: Tensor) -> float:
    return float(ascending[-1] / ascending[0]) if float(ascending[0]) > 0 else math.inf


def _digits(dtype: torch.dtype, kappa: float) -> float:
    return max(0.0, -math.log10(torch.finfo(dtype).eps * kappa)) if math.isfinite(kappa) else 0.0
