"""Isotropic: independent variables with a common variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.base import Entrywise
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.covariance.structured.diagonal import DiagonalFactor
from mvnjac.errors import NotFiniteError, NotPositiveDefiniteError
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import scalar
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tensors.tracing import constant_size
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals


class Isotropic(Covariance):
    """Σ = σ² I. The number of variables is that of the mean.

    Args:
        variance: (...) σ², positive, in squared units of x.

    With r = x − µ (differential of −½ (d log σ² + ‖r‖² / σ²)):

        ∂ log p / ∂σ² = ½ (‖r‖² / σ⁴ − d / σ²)

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.Isotropic(torch.tensor(2.0)))
        >>> J["variance"]
        tensor([-0.2500])
    """

    fields = {"variance": lambda d: scalar()}
    phrases = {"variance": "variance"}
    keeps_marginals = True
    special_case_of = (
        *("Isotropic", "Diagonal", "CompoundSymmetric", "Toeplitz"),
        *("Autoregressive", "BandedPrecision", "LowRank", "Kronecker"),
    )

    def __init__(self, variance: Float[Tensor, "*batch"]) -> None:
        super().__init__(variance=variance)

    def factor(self, d: int) -> Factor:
        variance = self.parameters["variance"]
        return DiagonalFactor(variance.unsqueeze(-1).expand(*variance.shape, d))

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Entrywise:
        assert isinstance(rows.factor, DiagonalFactor)
        a, variance = rows.scaled, rows.factor.variance[..., 0]
        return Entrywise(0.5 * ((a * a).sum(-1) - rows.d / variance), scalar())

    def fisher(self, factor: DiagonalFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        d, variance = constant_size(factor.variance), factor.variance[..., 0]
        return {"variance": 0.5 * d * v["variance"] / variance**2}

    def fisher_solve(self, factor: DiagonalFactor, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        d, variance = constant_size(factor.variance), factor.variance[..., 0]
        return {"variance": gradients["variance"] * variance**2 * (2 / d)}

    def times(self, factor: DiagonalFactor, v: Tensor) -> Tensor:
        return v * factor.variance

    closed_form, positive, scaling = True, ("variance",), "variance"

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> Isotropic:
        return cls(sample.variances.mean())

    def dense(self, d: int | None = None) -> Tensor:
        identity = torch.eye(self._known_dimension(d), dtype=self.dtype, device=self.device)
        return self.parameters["variance"][..., None, None] * identity

    def checks(self, factor: Factor) -> Iterator[Check]:
        yield checks.positive("variance", self.parameters["variance"], event=0)

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        yield cls(make.positive())

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        yield BadInput({"variance": make.tensor(-1.0)}, NotPositiveDefiniteError, "variance is -1")
        yield BadInput({"variance": make.tensor([1.0, 0.0])}, NotPositiveDefiniteError, "variance at batch index 1 is 0")
        yield BadInput({"variance": make.tensor(float("inf"))}, NotFiniteError, "inf")
