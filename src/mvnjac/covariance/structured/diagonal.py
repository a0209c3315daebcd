"""Diagonal: independent variables. The cost is O(d) per row; a d×d matrix is formed only for a dense derivative."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Size, Tensor

from mvnjac.blocks.base import Entrywise
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import NotFiniteError, NotPositiveDefiniteError
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import vector
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, narrow
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals


class DiagonalFactor(Factor):
    """The factor of Σ = diag(v).

    Args:
        variance: (*batch, d) the variances v.

    Example:
        >>> import torch
        >>> from mvnjac.covariance import DiagonalFactor
        >>> DiagonalFactor(torch.tensor([1.0, 4.0])).dense().scale_tril
        tensor([[1., 0.],
                [0., 2.]])
    """

    def __init__(self, variance: Tensor) -> None:
        self.variance = variance
        self.batch = batch_shape(variance, 1)
        self._dense: DenseFactor | None = None

    def tensors(self) -> list[Tensor]:
        return [self.variance]

    @property
    def log_det(self) -> Tensor:
        return self.variance.log().sum(-1)

    def whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return rows / layout.fold_params(self.variance, 1).sqrt().unsqueeze(-2)

    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return self.whiten(rows, layout)

    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        return torch.div(rows, layout.fold_params(self.variance, 1).unsqueeze(-2), out=out)

    def dense(self) -> DenseFactor:
        if self._dense is None:
            root = self.variance.sqrt()
            self._dense = DenseFactor(
                scale_tril=torch.diag_embed(root),
                inverse_scale_tril=torch.diag_embed(1 / root),
                precision_tril=torch.diag_embed(1 / root),
                covariance_matrix=torch.diag_embed(self.variance),
                precision_matrix=torch.diag_embed(1 / self.variance),
            )
        return self._dense

    def detach(self) -> DiagonalFactor:
        other = DiagonalFactor(self.variance.detach())
        other.checked = self.checked
        return other

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> DiagonalFactor:
        variance = narrow(self.variance, full, 1, dim, index)
        return self if variance is self.variance else DiagonalFactor(variance)


class Diagonal(Covariance):
    """Σ = diag(v): independent variables.

    Args:
        cov_diag: (..., d) variances, positive, in squared units of x.

    With r = x − µ (differential of −½ Σᵢ (log vᵢ + rᵢ² / vᵢ)):

        ∂ log p / ∂vᵢ = ½ (rᵢ² / vᵢ² − 1 / vᵢ)

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.Diagonal(torch.tensor([1.0, 2.0])))
        >>> J["cov_diag"]
        tensor([[ 0.0000, -0.1250]])
    """

    fields = {"cov_diag": vector}
    phrases = {"cov_diag": "variance of {}"}
    local = {"cov_diag": (0,)}
    keeps_marginals = True
    special_case_of = ("Diagonal", "BandedPrecision", "LowRank")

    def __init__(self, cov_diag: Float[Tensor, "*batch d"]) -> None:
        super().__init__(cov_diag=cov_diag)

    def factor(self, d: int) -> Factor:
        return DiagonalFactor(self.parameters["cov_diag"])

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Entrywise:
        assert isinstance(rows.factor, DiagonalFactor)
        a, v = rows.scaled, rows.factor.variance
        return Entrywise(torch.addcmul(-0.5 / v, a, a, value=0.5), vector(rows.d))

    def fisher(self, factor: DiagonalFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"cov_diag": 0.5 * v["cov_diag"] / factor.variance**2}

    def fisher_solve(self, factor: DiagonalFactor, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"cov_diag": 2 * gradients["cov_diag"] * factor.variance**2}

    def times(self, factor: DiagonalFactor, v: Tensor) -> Tensor:
        return v * factor.variance

    closed_form, positive = True, ("cov_diag",)

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> Diagonal:
        return cls(sample.variances)

    def rescaled(self, units: Tensor) -> Diagonal:
        return type(self)(self.parameters["cov_diag"] * units**2)

    def dense(self, d: int | None = None) -> Tensor:
        return torch.diag_embed(self.parameters["cov_diag"])

    def checks(self, factor: Factor) -> Iterator[Check]:
        yield checks.positive("cov_diag", self.parameters["cov_diag"])

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        yield cls(make.positive(d))

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        yield BadInput({"cov_diag": make.tensor([1.0, 0, 1])}, NotPositiveDefiniteError, r"entry 1 \(variable 1\) is 0")
        yield BadInput({"cov_diag": make.tensor([1.0, 2, float("nan")])}, NotFiniteError, r"nan at \[2\]")
