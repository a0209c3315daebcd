"""Cholesky: Σ = L Lᵀ by its lower triangular factor."""

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
from mvnjac.errors import ArgumentError, NotFiniteError, NotPositiveDefiniteError
from mvnjac.linalg.triangular import halved, twice_symmetric
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import lower_triangular
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals


class Cholesky(DenseCovariance):
    """Σ = L Lᵀ by L.

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

    def factor(self, d: int) -> Factor:
        return DenseFactor(scale_tril=self.parameters["scale_tril"].tril())

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Outer:
        diagonal = rows.factor.dense().scale_tril.diagonal(dim1=-2, dim2=-1)
        return Outer(rows.scaled, rows.whitened, -torch.diag_embed(1 / diagonal), lower_triangular(rows.d))

    @classmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        return factor.scale_tril

    @classmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        return twice_symmetric(factor.solve_triangular(v["scale_tril"]))

    @classmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        return {"scale_tril": 2 * factor.solve_triangular(M, transpose=True).tril()}

    @classmethod
    def second_differential(cls, factor: DenseFactor, v: Values, M: Tensor) -> dict[str, Tensor]:
        return {
            "scale_tril": 2 * factor.solve_triangular(M @ factor.solve_triangular(v["scale_tril"]), transpose=True).tril()
        }  # d²Σ[v, u] = v uᵀ + u vᵀ

    @classmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        return {"scale_tril": factor.scale_tril @ halved(K)}

    @classmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        return halved(factor.scale_tril.mT @ gradients["scale_tril"])

    def dense(self, d: int | None = None) -> Tensor:
        scale_tril = self.parameters["scale_tril"].tril()
        return scale_tril @ scale_tril.mT

    def checks(self, factor: Factor) -> Iterator[Check]:
        scale_tril = self.parameters["scale_tril"]
        yield checks.lower_triangular("scale_tril", scale_tril)
        yield checks.positive("scale_tril", scale_tril.diagonal(dim1=-2, dim2=-1), what="diagonal entry")

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        yield cls(make.lower(d))

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(rows: list[list[float]], error: type[Exception], says: str) -> BadInput:
            return BadInput({"scale_tril": make.tensor(rows)}, error, says)

        yield bad([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]], ArgumentError, r"not lower triangular: entry \[0,1\]")
        yield bad([[1, 0, 0], [0, -1, 0], [0, 0, 1]], NotPositiveDefiniteError, r"diagonal entry 1 \(variable 1\) is -1")
        yield bad([[1, 0, 0], [float("inf"), 1, 0], [0, 0, 1]], NotFiniteError, r"inf at \[1,0\]")
