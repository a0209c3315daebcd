"""Dense: the covariance matrix Σ itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.outer import Outer
from mvnjac.covariance.estimation import refuse_combination, refuse_constant, refuse_few_rows, require_pairs_observed
from mvnjac.covariance.parametrisation import Values
from mvnjac.covariance.parametrisations.base import DenseCovariance
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import NotFiniteError, NotPositiveDefiniteError, NotSymmetricError, ShapeError
from mvnjac.linalg.triangular import cholesky, symmetric_part
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import symmetric
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals


class Dense(DenseCovariance):
    """The covariance matrix Σ itself, which is also what a plain tensor is taken to be.

    Args:
        covariance_matrix: (..., d, d) symmetric positive definite, in squared units of x. It must be symmetric up to rounding
            (relative to the two variables' scales); its lower triangle is factorised.

    The derivative of one observation's log p, with a = Σ⁻¹(x − µ) (Magnus & Neudecker, *Matrix Differential Calculus*):

        ∂ log p / ∂Σ = ½ (a aᵀ − Σ⁻¹)

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.Dense(torch.eye(2)))
        >>> J.unique("covariance_matrix")
        tensor([[0., 1., 0.]])
    """

    fields = {"covariance_matrix": symmetric}
    starts_with_em = True
    phrases = {"covariance_matrix": ("covariance of {} and {}", "variance of {}")}
    local = {"covariance_matrix": (0, 1)}

    def __init__(self, covariance_matrix: Float[Tensor, "*batch d d"]) -> None:
        super().__init__(covariance_matrix=covariance_matrix)

    def factor(self, d: int) -> Factor:
        return dense_factor(symmetric_part(self.parameters["covariance_matrix"]))

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Outer:
        a, P = rows.scaled, rows.factor.dense().precision_matrix
        return Outer(a, a, P, symmetric(rows.d), coefficient=0.5, offset_scale=-0.5)

    @classmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        return factor.covariance_matrix

    @classmethod
    def differential(cls, factor: DenseFactor, v: Values) -> Tensor:
        return factor.whiten_matrix(v["covariance_matrix"])

    @classmethod
    def adjoint(cls, factor: DenseFactor, M: Tensor) -> dict[str, Tensor]:
        return {"covariance_matrix": factor.unwhiten_gradient(M)}

    @classmethod
    def inverse_differential(cls, factor: DenseFactor, K: Tensor) -> dict[str, Tensor]:
        return {"covariance_matrix": factor.unwhiten_matrix(K)}

    @classmethod
    def inverse_adjoint(cls, factor: DenseFactor, gradients: Values) -> Tensor:
        return factor.whiten_gradient(gradients["covariance_matrix"])

    closed_form = True

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> Dense:
        if sample.complete:
            return cls(sample.covariance)
        # positive definite for any pattern of missing entries
        return cls(0.5 * (sample.covariance + torch.diag(sample.variances)))

    def require_maximum(self, sample: SufficientStatistics) -> None:
        """Raise if the estimate is singular, or positive definite only by rounding."""
        refuse_constant(sample)
        refuse_few_rows(sample)
        if sample.complete:
            refuse_combination(sample, self.parameters["covariance_matrix"])
        else:
            require_pairs_observed(sample)

    def rescaled(self, units: Tensor) -> Dense:
        return type(self)(self.parameters["covariance_matrix"] * torch.outer(units, units))

    def dense(self, d: int | None = None) -> Tensor:
        return self.parameters["covariance_matrix"]

    def checks(self, factor: Factor) -> Iterator[Check]:
        covariance_matrix, info = self.parameters["covariance_matrix"], factor.dense().info
        yield checks.symmetric("covariance_matrix", covariance_matrix)
        yield checks.definite("covariance_matrix", covariance_matrix, info)

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        yield cls(make.definite(d))

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(rows: list[list[float]], error: type[Exception], says: str) -> BadInput:
            return BadInput({"covariance_matrix": make.tensor(rows)}, error, says)

        yield bad([[1, 2, 0], [2, 1, 0], [0, 0, 1]], NotPositiveDefiniteError, "pivot 2 of 3")
        yield bad([[1, 0, 0], [0, 0, 0], [0, 0, 1]], NotPositiveDefiniteError, "constant")
        yield bad([[1e-7, 0.9e-7, 0], [0.1e-7, 1e-7, 0], [0, 0, 1]], NotSymmetricError, r"entry \[0,1\]")
        yield bad([[1, 0, 0], [0, float("nan"), 0], [0, 0, 1]], NotFiniteError, r"nan at \[1,1\]")
        yield bad([[1, 0], [0, 1], [0, 0]], ShapeError, r"shape \(3, 2\)")


def dense_factor(covariance_matrix: Tensor) -> DenseFactor:
    """The factor of a symmetric matrix Σ (..., d, d) by its Cholesky factorisation; `info` says whether it failed."""
    scale_tril, info = cholesky(covariance_matrix)
    return DenseFactor(info, covariance_matrix=covariance_matrix, scale_tril=scale_tril)
