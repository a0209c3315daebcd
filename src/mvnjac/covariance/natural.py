"""Natural: the natural parameters of the exponential family, which replace mean and covariance together."""

from __future__ import annotations

from torch import Tensor

from mvnjac.blocks import Block, Entrywise, Outer
from mvnjac.coordinates import symmetric, vector
from mvnjac.covariance.factor import DenseFactor
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.residuals import Residuals


class Natural(DenseParametrisation):
    """η₁ = P µ ("natural_location") and η₂ = −½ P ("natural_matrix"): log p = η₁ᵀx + xᵀη₂x − A(η).

    The derivative is the sufficient statistic less its expectation, written without the cancellation of x xᵀ − µ µᵀ
    (Brown 1986, *Fundamentals of Statistical Exponential Families*; r = x − µ):

        ∂ log p / ∂η₁ = r        ∂ log p / ∂η₂ = x xᵀ − E[x xᵀ] = r rᵀ + r µᵀ + µ rᵀ − Σ
    """

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
            return (P @ mean.unsqueeze(-1)).squeeze(-1)
        return -0.5 * P
