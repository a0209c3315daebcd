"""PrecisionCholesky: P = Σ⁻¹ = Λ Λᵀ, parametrised by its lower triangular factor Λ."""

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


class PrecisionCholesky(TriangularParametrisation):
    """Σ⁻¹ = Λ Λᵀ, parametrised by the lower triangular factor Λ.

    Args:
        precision_tril: (..., d, d) lower triangular with a positive diagonal, in inverse units of x.

    With r = x − µ and s = Λᵀ r (differential of log det Λ − ½ ‖Λᵀ r‖²; no linear system is solved):

        ∂ log p / ∂Λ = diag(1 / Λᵢᵢ) − tril(r sᵀ)

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.PrecisionCholesky(torch.eye(2)))
        >>> J.unique("precision_tril")
        tensor([[ 0., -1.,  0.]])
    """

    fields = {"precision_tril": lower_triangular}

    def __init__(self, precision_tril: Float[Tensor, "*batch d d"]) -> None:
        super().__init__(precision_tril=precision_tril)

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Outer:
        diagonal = rows.factor.dense().precision_tril.diagonal(dim1=-2, dim2=-1)
        offset = torch.diag_embed(1 / diagonal)
        return Outer(rows.residual, rows.reverse_whitened, offset, lower_triangular(rows.d), coefficient=-1.0)

    @classmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        return -factor.whiten_gradient(twice_symmetric(v["precision_tril"] @ factor.precision_tril.mT))

    @classmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        return {"precision_tril": -2 * (factor.unwhiten_matrix(M) @ factor.precision_tril).tril()}

    @classmethod
    def second_differential(cls, factor: DenseFactor, v: Values, M: Tensor) -> dict[str, Tensor]:
        direction, triangle = v["precision_tril"], factor.precision_tril
        change = factor.whiten_gradient(twice_symmetric(direction @ triangle.mT))
        second_order = factor.unwhiten_matrix(twice_symmetric(M @ change)) @ triangle - factor.unwhiten_matrix(M) @ direction
        return {"precision_tril": 2 * second_order.tril()}

    @classmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        rotation = factor.whiten_rotation
        return {"precision_tril": -factor.precision_tril @ halved(rotation @ K @ rotation.mT)}

    @classmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        rotation = factor.whiten_rotation
        M = halved(factor.precision_tril.mT @ gradients["precision_tril"])
        return -rotation.mT @ M @ rotation

    def dense(self, d: int | None = None) -> Tensor:
        triangle = self._triangle()
        return torch.linalg.inv(triangle @ triangle.mT)
