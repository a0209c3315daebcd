"""ScaleCorrelation: standard deviations and correlations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks import Block, Entrywise, Outer
from mvnjac.coordinates import correlation, vector
from mvnjac.covariance import checks
from mvnjac.covariance.base import BadInput, Covariance, Factor, Maker
from mvnjac.covariance.checks import Check
from mvnjac.covariance.factor import DenseFactor, cholesky, symmetric_part
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import ArgumentError, NotPositiveDefiniteError, ShapeError
from mvnjac.residuals import Residuals


class ScaleCorrelation(Covariance, DenseParametrisation):
    """Σ = diag(s) R diag(s).

    Args:
        scale: (..., d) standard deviations, positive, in units of x.
        correlation_matrix: (..., d, d) symmetric positive definite with ones on the diagonal (to 10 eps).

    R is factorised, not Σ, so that variables of very different scales cost no digits. With r = x − µ and a = Σ⁻¹ r (chain rule
    on `Dense`; the diagonal of R is fixed and its derivative is 0):

        ∂ log p / ∂sᵢ = (aᵢ rᵢ − 1) / sᵢ        ∂ log p / ∂R = ½ ((s∘a)(s∘a)ᵀ − diag(s) Σ⁻¹ diag(s)) off the diagonal

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.ScaleCorrelation(torch.ones(2), torch.eye(2)))
        >>> J.columns()
        ['mean[0]', 'mean[1]', 'scale[0]', 'scale[1]', 'correlation_matrix[1,0]']
    """

    fields = {"scale": vector, "correlation_matrix": correlation}

    def __init__(self, scale: Float[Tensor, "*batch d"], correlation_matrix: Float[Tensor, "*#batch d d"]) -> None:
        super().__init__(scale=scale, correlation_matrix=correlation_matrix)

    def factor(self, d: int) -> Factor:
        off_diagonal = correlation(d).project(symmetric_part(self.parameters["correlation_matrix"]))
        unit = torch.eye(d, dtype=self.dtype, device=self.device)  # fixed: no derivative of any order comes from there
        root, info = cholesky(off_diagonal + unit)
        return DenseFactor(info, scale_tril=self.parameters["scale"].unsqueeze(-1) * root)

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Block:
        a, factor = rows.scaled, rows.factor.dense()
        s = factor.scale
        if name == "scale":
            return Entrywise((a * rows.residual - 1) / s, vector(rows.d))
        inverse = s.unsqueeze(-1) * factor.precision_matrix * s.unsqueeze(-2)
        scaled = s * a
        return Outer(scaled, scaled, -0.5 * inverse, correlation(rows.d), coefficient=0.5)

    @classmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        if name == "scale":
            return factor.scale
        root = factor.scale_tril / factor.scale.unsqueeze(-1)
        return root @ root.mT

    def dense(self, d: int | None = None) -> Tensor:
        scale = self.parameters["scale"]
        return scale.unsqueeze(-1) * self.parameters["correlation_matrix"] * scale.unsqueeze(-2)

    def checks(self, factor: Factor) -> Iterator[Check]:
        correlation_matrix = self.parameters["correlation_matrix"]
        yield checks.positive("scale", self.parameters["scale"])
        yield checks.symmetric("correlation_matrix", correlation_matrix)
        yield checks.unit_diagonal("correlation_matrix", correlation_matrix)
        yield checks.definite("correlation_matrix", correlation_matrix, factor.dense().info)

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        covariance = make.definite(d)
        scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        matrix = covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
        matrix.diagonal(dim1=-2, dim2=-1).fill_(1)
        yield cls(scale, matrix)

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(scale: Sequence[float], rows: Any, error: type[Exception], says: str) -> BadInput:
            return BadInput({"scale": make.tensor(scale), "correlation_matrix": make.tensor(rows)}, error, says)

        unit = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
        yield bad([1, 0, 1], unit, NotPositiveDefiniteError, r"scale entry 1 \(variable 1\) is 0")
        yield bad([1, 1, 1], [[1.0, 0, 0], [0, 1.01, 0], [0, 0, 1.0]], ArgumentError, "on its diagonal at 1")
        yield bad([1, 1, 1], [[1, 0, 1.5], [0, 1.0, 0], [1.5, 0, 1.0]], NotPositiveDefiniteError, "combination of variable 0")
        yield bad([1, 1], unit, ShapeError, r"correlation_matrix has shape \(3, 3\)")
