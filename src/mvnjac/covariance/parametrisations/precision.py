"""Precision: P = Σ⁻¹ itself. Σ is formed only if a derivative contains it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.outer import Outer
from mvnjac.covariance.parametrisation import Values
from mvnjac.covariance.parametrisations.base import DenseCovariance
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import NotPositiveDefiniteError, NotSymmetricError
from mvnjac.linalg.triangular import flipped_cholesky, symmetric_part, twice_symmetric
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import symmetric
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals


class Precision(DenseCovariance):
    """The precision matrix P = Σ⁻¹.

    Args:
        precision_matrix: (..., d, d) symmetric positive definite, in inverse squared units of x.

    The flipped Cholesky factorisation P = Cᵀ C gives C = L⁻¹ directly; no inverse is factorised. With r = x − µ
    (Magnus & Neudecker, *Matrix Differential Calculus*):

        ∂ log p / ∂P = ½ (Σ − r rᵀ)

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.Precision(torch.eye(2)))
        >>> J.unique("precision_matrix")
        tensor([[ 0., -1.,  0.]])
    """

    fields = {"precision_matrix": symmetric}
    phrases = {"precision_matrix": ("precision of {} and {}", "precision of {}")}

    def __init__(self, precision_matrix: Float[Tensor, "*batch d d"]) -> None:
        super().__init__(precision_matrix=precision_matrix)

    def factor(self, d: int) -> Factor:
        precision_matrix = symmetric_part(self.parameters["precision_matrix"], upper=True)
        upper, info = flipped_cholesky(precision_matrix)
        return DenseFactor(info, precision_matrix=precision_matrix, inverse_scale_tril=upper.mT)

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Outer:
        r, covariance_matrix = rows.residual, rows.factor.dense().covariance_matrix
        return Outer(r, r, 0.5 * covariance_matrix, symmetric(rows.d), coefficient=-0.5)

    @classmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        return factor.precision_matrix

    @classmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        return -factor.whiten_gradient(v["precision_matrix"])

    @classmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        return {"precision_matrix": -factor.unwhiten_matrix(M)}

    @classmethod
    def second_differential(cls, factor: DenseFactor, v: Values, M: Tensor) -> dict[str, Tensor]:
        second_order = M @ factor.whiten_gradient(v["precision_matrix"])  # d²Σ[v, u] = Σ v Σ u Σ + Σ u Σ v Σ
        return {"precision_matrix": factor.unwhiten_matrix(twice_symmetric(second_order))}

    @classmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        return {"precision_matrix": -factor.unwhiten_gradient(K)}

    @classmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        return -factor.whiten_matrix(gradients["precision_matrix"])

    def dense(self, d: int | None = None) -> Tensor:
        return torch.linalg.inv(self.parameters["precision_matrix"])

    def checks(self, factor: Factor) -> Iterator[Check]:
        precision_matrix, info = self.parameters["precision_matrix"], factor.dense().info
        yield checks.symmetric("precision_matrix", precision_matrix)
        yield checks.definite("precision_matrix", precision_matrix, info, backwards=True)

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        yield cls(make.definite(d))

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(rows: list[list[float]], error: type[Exception], says: str) -> BadInput:
            return BadInput({"precision_matrix": make.tensor(rows)}, error, says)

        yield bad([[1, 2, 0], [2, 1, 0], [0, 0, 1]], NotPositiveDefiniteError, "pivot of variable 0")
        yield bad([[1, 0.1, 0], [0.2, 1, 0], [0, 0, 1]], NotSymmetricError, r"entry \[0,1\]")
