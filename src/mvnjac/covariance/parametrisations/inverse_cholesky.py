"""InverseCholesky: C = L⁻¹, the whitening matrix."""

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


class InverseCholesky(TriangularParametrisation):
    """Σ = L Lᵀ, parametrised by C = L⁻¹, so that Σ⁻¹ = Cᵀ C.

    Args:
        inverse_scale_tril: (..., d, d) lower triangular with a positive diagonal, in inverse units of x.

    With r = x − µ and z = C r (differential of log det C − ½ ‖C r‖²; Hothorn, vignette *Multivariate Normal Log-likelihoods
    in the mvtnorm Package*, uses the same parametrisation):

        ∂ log p / ∂C = diag(1 / Cᵢᵢ) − tril(z rᵀ)

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.InverseCholesky(torch.eye(2)))
        >>> J.unique("inverse_scale_tril")
        tensor([[ 0., -1.,  0.]])
    """

    fields = {"inverse_scale_tril": lower_triangular}

    def __init__(self, inverse_scale_tril: Float[Tensor, "*batch d d"]) -> None:
        super().__init__(inverse_scale_tril=inverse_scale_tril)

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Outer:
        diagonal = rows.factor.dense().inverse_scale_tril.diagonal(dim1=-2, dim2=-1)
        offset = torch.diag_embed(1 / diagonal)
        return Outer(rows.whitened, rows.residual, offset, lower_triangular(rows.d), coefficient=-1.0)

    @classmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        return -twice_symmetric(v["inverse_scale_tril"] @ factor.scale_tril)

    @classmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        return {"inverse_scale_tril": -2 * (M @ factor.scale_tril.mT).tril()}

    @classmethod
    def second_differential(cls, factor: DenseFactor, v: Values, M: Tensor) -> dict[str, Tensor]:
        change = v["inverse_scale_tril"] @ factor.scale_tril
        second_order = twice_symmetric(M @ twice_symmetric(change)) - change @ M
        return {"inverse_scale_tril": 2 * (second_order @ factor.scale_tril.mT).tril()}

    @classmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        return {"inverse_scale_tril": -halved(K) @ factor.inverse_scale_tril}

    @classmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        return -halved(gradients["inverse_scale_tril"] @ factor.inverse_scale_tril.mT)

    def dense(self, d: int | None = None) -> Tensor:
        triangle = self._triangle()
        return torch.linalg.inv(triangle.mT @ triangle)
