"""LogCholesky: the Cholesky factor with the logarithm of its diagonal, an unconstrained parametrisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.outer import Outer
from mvnjac.covariance.estimation import VANISHED, refuse_combination
from mvnjac.covariance.parametrisation import Values
from mvnjac.covariance.parametrisations.base import TriangularParametrisation
from mvnjac.covariance.parametrisations.cholesky import Cholesky
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import NotFiniteError
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import lower_triangular
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals


class LogCholesky(TriangularParametrisation):
    """Σ = L Lᵀ, parametrised by M with Mᵢⱼ = Lᵢⱼ below the diagonal and Mᵢᵢ = log Lᵢᵢ: every lower triangular M is valid.

    Args:
        log_scale_tril: (..., d, d) lower triangular; below the diagonal in units of x, the diagonal in their logarithm.

    With z = L⁻¹(x − µ) and a = L⁻ᵀ z (Pinheiro & Bates 1996, *Unconstrained parametrizations for variance-covariance matrices*,
    for the parametrisation; chain rule on `Cholesky`):

        ∂ log p / ∂Mᵢⱼ = aᵢ zⱼ  (i > j),        ∂ log p / ∂Mᵢᵢ = aᵢ zᵢ Lᵢᵢ − 1

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.LogCholesky(torch.zeros(2, 2)))
        >>> J.unique("log_scale_tril")
        tensor([[0., 1., 0.]])
    """

    fields = {"log_scale_tril": lower_triangular}
    local = {"log_scale_tril": (0,)}

    def __init__(self, log_scale_tril: Float[Tensor, "*batch d d"]) -> None:
        super().__init__(log_scale_tril=log_scale_tril)

    def factor(self, d: int) -> Factor:
        return DenseFactor(scale_tril=self._scale_tril())

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Outer:
        diagonal = rows.factor.dense().scale_tril.diagonal(dim1=-2, dim2=-1)
        identity = torch.diag_embed(torch.ones_like(diagonal))
        return Outer(rows.scaled, rows.whitened, -identity, lower_triangular(rows.d), diagonal=diagonal)

    @classmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        scale_tril = factor.scale_tril
        return scale_tril.tril(-1) + torch.diag_embed(scale_tril.diagonal(dim1=-2, dim2=-1).log())

    @classmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        return Cholesky.differential(factor, {"scale_tril": _log_jacobian(factor) * v["log_scale_tril"]})

    @classmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        return {"log_scale_tril": _log_jacobian(factor) * Cholesky.adjoint(factor, M)["scale_tril"]}

    @classmethod
    def second_differential(cls, factor: DenseFactor, v: Values, M: Tensor) -> dict[str, Tensor]:
        log_jacobian, direction = _log_jacobian(factor), v["log_scale_tril"]
        second = Cholesky.second_differential(factor, {"scale_tril": log_jacobian * direction}, M)["scale_tril"]
        # the second derivative of Lᵢᵢ = exp(Mᵢᵢ) is Lᵢᵢ
        of_diagonal = (cls.adjoint(factor, M)["log_scale_tril"] * direction).diagonal(dim1=-2, dim2=-1)
        return {"log_scale_tril": log_jacobian * second + torch.diag_embed(of_diagonal)}

    @classmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        return {"log_scale_tril": Cholesky.inverse_differential(factor, K)["scale_tril"] / _log_jacobian(factor)}

    @classmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        return Cholesky.inverse_adjoint(factor, {"scale_tril": gradients["log_scale_tril"] / _log_jacobian(factor)})

    def dense(self, d: int | None = None) -> Tensor:
        L = self._scale_tril()
        return L @ L.mT

    def require_interior(self, sample: SufficientStatistics, scores: Callable[[str], Tensor]) -> None:
        """Raise if a search reached a singular Σ: a variable is a combination of others whenever it is observed with them."""
        L = self._scale_tril()
        unexplained = L.diagonal() ** 2 / (L * L).sum(-1)
        if bool((unexplained < VANISHED).any()):
            refuse_combination(sample, L @ L.mT, VANISHED)

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        yield cls(0.5 * make.normal(d, d).tril())

    @classmethod
    def _bad_diagonals(cls, make: Maker) -> Iterator[BadInput]:
        yield cls._bad(make, (1, 1), 1e4, NotFiniteError, "diagonal entry 1")

    def _diagonal_check(self, factor: Factor) -> Check:
        return checks.exponential("log_scale_tril", factor.dense().scale_tril.diagonal(dim1=-2, dim2=-1))

    def _scale_tril(self) -> Tensor:
        log_scale_tril = self.parameters["log_scale_tril"]
        return log_scale_tril.tril(-1) + torch.diag_embed(log_scale_tril.diagonal(dim1=-2, dim2=-1).exp())


def _log_jacobian(factor: DenseFactor) -> Tensor:
    """∂Lᵢⱼ / ∂Mᵢⱼ: 1 off the diagonal, Lᵢᵢ on it."""
    scale_tril = factor.scale_tril
    diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
    return torch.ones_like(scale_tril) + torch.diag_embed(diagonal - 1)
