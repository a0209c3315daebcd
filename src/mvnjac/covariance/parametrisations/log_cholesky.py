"""LogCholesky: the Cholesky factor with the logarithm of its diagonal, free of constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.outer import Outer
from mvnjac.covariance.estimation import VANISHED, refuse_combination
from mvnjac.covariance.parametrisation import Values
from mvnjac.covariance.parametrisations.base import DenseCovariance
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import ArgumentError, NotFiniteError
from mvnjac.linalg.triangular import halved, twice_symmetric
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import lower_triangular
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals

if TYPE_CHECKING:
    from mvnjac.statistics.sufficient import SufficientStatistics


class LogCholesky(DenseCovariance):
    """Σ = L Lᵀ by M, where Mᵢⱼ = Lᵢⱼ below the diagonal and Mᵢᵢ = log Lᵢᵢ: any lower triangle M is allowed.

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
        scale_tril = rows.factor.dense().scale_tril
        ones = torch.ones_like(scale_tril.diagonal(dim1=-2, dim2=-1))
        diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
        return Outer(rows.scaled, rows.whitened, -torch.diag_embed(ones), lower_triangular(rows.d), diagonal=diagonal)

    @classmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        scale_tril = factor.scale_tril
        return scale_tril.tril(-1) + torch.diag_embed(scale_tril.diagonal(dim1=-2, dim2=-1).log())

    @classmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        return twice_symmetric(factor.solve_triangular(_log_jacobian(factor) * v["log_scale_tril"]))

    @classmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        return {"log_scale_tril": _log_jacobian(factor) * (2 * factor.solve_triangular(M, transpose=True).tril())}

    @classmethod
    def second_differential(cls, factor: DenseFactor, v: Values, M: Tensor) -> dict[str, Tensor]:
        log_jacobian, direction = _log_jacobian(factor), v["log_scale_tril"]
        second_order = log_jacobian * (
            2 * factor.solve_triangular(M @ factor.solve_triangular(log_jacobian * direction), transpose=True).tril()
        )
        first = log_jacobian * (2 * factor.solve_triangular(M, transpose=True))  # the exponential is its own second derivative
        return {"log_scale_tril": second_order + torch.diag_embed((first * direction).diagonal(dim1=-2, dim2=-1))}

    @classmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        return {"log_scale_tril": factor.scale_tril @ halved(K) / _log_jacobian(factor)}

    @classmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        return halved(factor.scale_tril.mT @ (gradients["log_scale_tril"] / _log_jacobian(factor)))

    def require_interior(self, sample: SufficientStatistics, scores: Callable[[str], Tensor]) -> None:
        """Where a search ends that goes to a singular Σ: a variable is a combination of others wherever it is observed with them."""
        L = self._scale_tril()
        unexplained = L.diagonal() ** 2 / (L * L).sum(-1)
        if bool((unexplained < VANISHED).any()):
            refuse_combination(sample, L @ L.mT, VANISHED)

    def dense(self, d: int | None = None) -> Tensor:
        scale_tril = self._scale_tril()
        return scale_tril @ scale_tril.mT

    def checks(self, factor: Factor) -> Iterator[Check]:
        scale_tril = factor.dense().scale_tril
        yield checks.lower_triangular("log_scale_tril", self.parameters["log_scale_tril"])
        yield checks.exponential("log_scale_tril", scale_tril.diagonal(dim1=-2, dim2=-1))

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        yield cls(0.5 * make.normal(d, d).tril())

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(rows: list[list[float]], error: type[Exception], says: str) -> BadInput:
            return BadInput({"log_scale_tril": make.tensor(rows)}, error, says)

        yield bad([[0, 0.5, 0], [0, 0, 0], [0, 0, 0]], ArgumentError, r"not lower triangular: entry \[0,1\]")
        yield bad([[0, 0, 0], [0, 1e4, 0], [0, 0, 0]], NotFiniteError, "diagonal entry 1")
        yield bad([[0, 0, 0], [0, float("nan"), 0], [0, 0, 0]], NotFiniteError, r"nan at \[1,1\]")

    def _scale_tril(self) -> Tensor:
        log_scale_tril = self.parameters["log_scale_tril"]
        return log_scale_tril.tril(-1) + torch.diag_embed(log_scale_tril.diagonal(dim1=-2, dim2=-1).exp())


def _log_jacobian(factor: DenseFactor) -> Tensor:
    """∂L / ∂θ, entry by entry: 1 off the diagonal, Lᵢᵢ on it."""
    scale_tril = factor.scale_tril
    diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
    return torch.ones_like(scale_tril) + torch.diag_embed(diagonal - 1)
