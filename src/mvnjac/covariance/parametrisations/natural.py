"""Natural: the natural parameters of the exponential family, which replace both mean and covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.blocks.base import Block, Entrywise
from mvnjac.blocks.outer import Outer
from mvnjac.covariance.parametrisation import DenseParametrisation, Values
from mvnjac.linalg.triangular import twice_symmetric
from mvnjac.parameters.coordinates import symmetric, vector
from mvnjac.whitening.factor import DenseFactor
from mvnjac.whitening.residuals import Residuals


class Natural(DenseParametrisation):
    """η₁ = P µ ("natural_location") and η₂ = −½ P ("natural_matrix"): log p = η₁ᵀx + xᵀη₂x − A(η).

    The derivative is the sufficient statistic minus its expectation, written without the cancellation in x xᵀ − µ µᵀ
    (Brown 1986, *Fundamentals of Statistical Exponential Families*; r = x − µ):

        ∂ log p / ∂η₁ = r        ∂ log p / ∂η₂ = x xᵀ − E[x xᵀ] = r rᵀ + r µᵀ + µ rᵀ − Σ
    """

    canonical = True
    fields = {"natural_location": vector, "natural_matrix": symmetric}

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Block:
        r = rows.residual
        if name == "natural_location":
            return Entrywise(r, vector(rows.d))
        covariance_matrix = rows.factor.dense().covariance_matrix
        return Outer(r, rows.mean + 0.5 * r, -covariance_matrix, symmetric(rows.d), both=True)

    @classmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        P = factor.precision_matrix
        if name == "natural_location":
            return _times(P, mean)
        return -0.5 * P

    @classmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        if "natural_matrix" not in v:
            return torch.zeros_like(factor.scale_tril)
        return 2 * factor.whiten_gradient(v["natural_matrix"])

    @classmethod
    def mean_differential(cls, factor: DenseFactor, mean: Tensor, v: Values) -> Tensor:
        """m = Lᵀ (v₁ + 2 v₂ µ)."""
        change = torch.zeros_like(mean)
        if "natural_location" in v:
            change = change + v["natural_location"]
        if "natural_matrix" in v:
            change = change + 2 * _times(v["natural_matrix"], mean)
        return _times(factor.scale_tril.mT, change)

    @classmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        return {"natural_matrix": 2 * factor.unwhiten_matrix(M)}

    @classmethod
    def mean_adjoint(cls, factor: DenseFactor, mean: Tensor, g: Tensor) -> dict[str, Tensor]:
        by_location = _times(factor.scale_tril, g)
        by_matrix = by_location.unsqueeze(-1) * mean.unsqueeze(-2)
        return {"natural_location": by_location, "natural_matrix": twice_symmetric(by_matrix)}

    @classmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        return {"natural_matrix": 0.5 * factor.unwhiten_gradient(K)}

    @classmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        return 0.5 * factor.whiten_matrix(gradients["natural_matrix"])

    @classmethod
    def inverse_mean_differential(cls, factor: DenseFactor, mean: Tensor, m: Tensor, v: Values) -> dict[str, Tensor]:
        return {
            "natural_location": factor.solve_triangular(m.unsqueeze(-1), transpose=True).squeeze(-1)
            - 2 * _times(v["natural_matrix"], mean)
        }

    @classmethod
    def inverse_mean_adjoint(cls, factor: DenseFactor, mean: Tensor, gradients: Values) -> tuple[Tensor, Tensor]:
        g, z = (factor.solve_triangular(t.unsqueeze(-1)) for t in (gradients["natural_location"], mean))
        return g.squeeze(-1), -g @ z.mT


def _times(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x.unsqueeze(-1)).squeeze(-1)
