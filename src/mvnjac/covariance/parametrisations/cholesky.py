"""Cholesky: Σ = L Lᵀ, parametrised by its lower triangular factor L."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.outer import Outer
from mvnjac.covariance.parametrisation import Values
from mvnjac.covariance.parametrisations.base import TriangularParametrisation
from mvnjac.linalg.triangular import halved, twice_symmetric
from mvnjac.parameters.coordinates import lower_triangular
from mvnjac.whitening.factor import DenseFactor
from mvnjac.whitening.residuals import Residuals


class Cholesky(TriangularParametrisation):
    """Σ = L Lᵀ, parametrised by the lower triangular factor L.

    Args:
        scale_tril: (..., d, d) lower triangular with a positive diagonal, in units of x.

    With z = L⁻¹(x − µ) and a = L⁻ᵀ z (Murray 2016, arXiv:1602.07527, applied to the log-density; no inverse is needed):

        ∂ log p / ∂L = tril(a zᵀ) − diag(1 / Lᵢᵢ)

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.Cholesky(torch.eye(2)))
        >>> J.unique("scale_tril")
        tensor([[0., 1., 0.]])
    """

    fields = {"scale_tril": lower_triangular}
    local = {"scale_tril": (0,)}

    def __init__(self, scale_tril: Float[Tensor, "*batch d d"]) -> None:
        super().__init__(scale_tril=scale_tril)

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Outer:
        diagonal = rows.factor.dense().scale_tril.diagonal(dim1=-2, dim2=-1)
        return Outer(rows.scaled, rows.whitened, -torch.diag_embed(1 / diagonal), lower_triangular(rows.d))

    @classmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        return twice_symmetric(factor.solve_triangular(v["scale_tril"]))

    @classmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        return {"scale_tril": 2 * factor.solve_triangular(M, transpose=True).tril()}

    @classmethod
    def second_differential(cls, factor: DenseFactor, v: Values, M: Tensor) -> dict[str, Tensor]:
        # d²Σ[v, u] = v uᵀ + u vᵀ
        return cls.adjoint(factor, M @ factor.solve_triangular(v["scale_tril"]))

    @classmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        return {"scale_tril": factor.scale_tril @ halved(K)}

    @classmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        return halved(factor.scale_tril.mT @ gradients["scale_tril"])

    def dense(self, d: int | None = None) -> Tensor:
        L = self._triangle()
        return L @ L.mT
