"""The condition of a covariance: how many digits survive, and which variables are nearly dependent."""

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

#: as many variables of the combination that varies least are named
_NAMED = 4
#: a warning is given where fewer decimal digits of float64 are left: κ eps > 1e-6
DIGITS = 6
#: the covariance of a structure that is no dense one is formed for this check up to so many variables
_FORMED = 500


@dataclass(frozen=True)
class Conditioning:
    """The condition of Σ, and what it does to digits.

    Attributes:
        covariance: κ(Σ) as it stands; correlation: κ of the correlation matrix.
        eigenvalues: of the correlation matrix, descending.
        digits64, digits32: decimal digits of the scores that a κ of the correlation matrix leaves.
        combination: the standardised combination of variables that varies least, its largest terms: (variable, weight).
    """

    covariance: float
    correlation: float
    eigenvalues: list[float]
    digits64: float
    digits32: float
    combination: list[tuple[str, float]]


def conditioning(sigma: Float[Tensor, "d d"], names: Sequence[str]) -> Conditioning:
    """κ by eigenvalues; in each variable's own units it bounds the loss of a Cholesky factorisation, which sees no units.

    Source: van der Sluis 1969, *Condition numbers and equilibration of matrices*; Higham 2002, *Accuracy and Stability of
    Numerical Algorithms*, ch. 10.
    """
    values, vectors = torch.linalg.eigh(_correlation(sigma))
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
    """Give an IllConditionedWarning where the correlation matrix leaves fewer than `DIGITS` digits of float64.

    Of a dense Σ always; of any other structure, whose Σ nothing else forms, up to 500 variables.

    Args:
        function: the name a message begins with; name_of: how variable i is called.
    """
    d = gaussian.model.d
    if not isinstance(gaussian.covariance, DenseParametrisation) and d > _FORMED:
        return
    sigma = gaussian.model.parameter("covariance_matrix").detach().double()
    correlation = _correlation(sigma)
    if _surely_well_conditioned(correlation):
        return
    found = conditioning(sigma, [name_of(i) for i in range(d)])
    if found.digits64 >= DIGITS:
        return
    largest = abs(found.combination[0][1])
    terms = ", ".join(name for name, weight in found.combination if abs(weight) >= 0.1 * largest)
    kappa = f"{found.correlation:.2g}" if math.isfinite(found.correlation) else "above 1e16"
    warn(
        f"{function}: the correlation matrix is ill-conditioned: κ = {kappa} leaves about {found.digits64:.0f} of 16 digits of the "
        f"scores, the standard errors and the log-likelihood. {terms} are nearly linearly dependent: leave one of them out, or "
        "replace them by combinations (differences, sums) that vary by themselves.",
        IllConditionedWarning,
    )


def _surely_well_conditioned(correlation: Tensor) -> bool:
    """Whether d · tr R⁻¹ ≥ κ is small enough: one Cholesky factorisation, instead of eigenvalues."""
    L, info = torch.linalg.cholesky_ex(correlation)
    if int(info):
        return False
    inverse = torch.linalg.solve_triangular(L, torch.eye(len(L), dtype=L.dtype, device=L.device), upper=False)
    return _digits(torch.float64, len(L) * float(inverse.square().sum())) >= DIGITS


def _correlation(sigma: Tensor) -> Tensor:
    scale = sigma.diagonal().sqrt()
    return sigma / torch.outer(scale, scale)


def _ratio(ascending: Tensor) -> float:
    return float(ascending[-1] / ascending[0]) if float(ascending[0]) > 0 else math.inf


def _digits(dtype: torch.dtype, kappa: float) -> float:
    return max(0.0, -math.log10(torch.finfo(dtype).eps * kappa)) if math.isfinite(kappa) else 0.0
