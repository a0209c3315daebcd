"""ScaleCorrelation: standard deviations and correlations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.base import Block, Entrywise
from mvnjac.blocks.outer import Outer
from mvnjac.covariance.parametrisation import Values
from mvnjac.covariance.parametrisations.base import DenseCovariance
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import ArgumentError, NotPositiveDefiniteError, ShapeError
from mvnjac.linalg.triangular import cholesky, symmetric_part, twice_symmetric
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import correlation, vector
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals


class ScaleCorrelation(DenseCovariance):
    """Σ = diag(s) R diag(s): standard deviations and correlations.

    Args:
        scale: (..., d) standard deviations, positive, in units of x.
        correlation_matrix: (..., d, d) symmetric positive definite with ones on the diagonal (to 10 eps).

    R is factorised, not Σ, so that no digits are lost if variables have very different scales. With r = x − µ and a = Σ⁻¹ r
    (chain rule on `Dense`; the diagonal of R is fixed and its derivative is 0):

        ∂ log p / ∂sᵢ = (aᵢ rᵢ − 1) / sᵢ        ∂ log p / ∂R = ½ ((s∘a)(s∘a)ᵀ − diag(s) Σ⁻¹ diag(s)) off the diagonal

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.ScaleCorrelation(torch.ones(2), torch.eye(2)))
        >>> J.columns()
        ['mean[0]', 'mean[1]', 'scale[0]', 'scale[1]', 'correlation_matrix[1,0]']
    """

    fields = {"scale": vector, "correlation_matrix": correlation}
    phrases = {"scale": "standard deviation of {}", "correlation_matrix": ("correlation of {} and {}", "")}
    local = {"scale": (0,), "correlation_matrix": (0, 1)}

    def __init__(self, scale: Float[Tensor, "*batch d"], correlation_matrix: Float[Tensor, "*#batch d d"]) -> None:
        super().__init__(scale=scale, correlation_matrix=correlation_matrix)

    def factor(self, d: int) -> Factor:
        off_diagonal = correlation(d).project(symmetric_part(self.parameters["correlation_matrix"]))
        unit = torch.eye(d, dtype=self.dtype, device=self.device)  # constant: it does not contribute to any derivative
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

    @classmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        s, change = factor.scale, torch.zeros_like(factor.scale_tril)
        if "scale" in v:
            relative = v["scale"] / s
            change = change + twice_symmetric(factor.solve_triangular(relative.unsqueeze(-1) * factor.scale_tril))
        if "correlation_matrix" in v:
            change = change + factor.whiten_matrix(_scaled(s, v["correlation_matrix"]))
        return change

    @classmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        by_scale = 2 * (factor.solve_triangular(M, transpose=True) * factor.scale_tril).sum(-1) / factor.scale
        by_correlation = _scaled(factor.scale, factor.unwhiten_gradient(M))
        return {"scale": by_scale, "correlation_matrix": _off_diagonal(by_correlation)}

    @classmethod
    def second_differential(cls, factor: DenseFactor, v: Values, M: Tensor) -> dict[str, Tensor]:
        s, G = factor.scale, factor.unwhiten_gradient(M)
        R = _scaled(1 / s, factor.covariance_matrix)
        by_scale, by_correlation = torch.zeros_like(s), torch.zeros_like(R)
        if "scale" in v:
            by_scale = by_scale + 2 * ((G * R) @ v["scale"].unsqueeze(-1)).squeeze(-1)
            by_correlation = by_correlation + G * twice_symmetric(v["scale"].unsqueeze(-1) * s.unsqueeze(-2))
        if "correlation_matrix" in v:
            by_scale = by_scale + 2 * ((G * v["correlation_matrix"]) @ s.unsqueeze(-1)).squeeze(-1)
        return {"scale": by_scale, "correlation_matrix": _off_diagonal(by_correlation)}

    @classmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        s, V = factor.scale, factor.unwhiten_matrix(K)
        R = _scaled(1 / s, factor.covariance_matrix)
        relative = 0.5 * V.diagonal(dim1=-2, dim2=-1) / (s * s)
        change = _scaled(1 / s, V) - R * (relative.unsqueeze(-1) + relative.unsqueeze(-2))
        return {"scale": relative * s, "correlation_matrix": _off_diagonal(change)}

    @classmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        s, by_correlation = factor.scale, _off_diagonal(gradients["correlation_matrix"])
        R = _scaled(1 / s, factor.covariance_matrix)
        on_diagonal = (0.5 * gradients["scale"] - (by_correlation * R).sum(-1) / s) / s
        return factor.whiten_gradient(_scaled(1 / s, by_correlation) + torch.diag_embed(on_diagonal))

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


def _scaled(s: Tensor, A: Tensor) -> Tensor:
    """diag(s) A diag(s)."""
    return s.unsqueeze(-1) * A * s.unsqueeze(-2)


def _off_diagonal(A: Tensor) -> Tensor:
    return A.tril(-1) + A.triu(1)
