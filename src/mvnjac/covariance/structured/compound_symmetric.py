"""CompoundSymmetric: a common variance and a common correlation of any two variables. The cost is O(d) per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Size, Tensor

from mvnjac.blocks.base import Entrywise
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisations.dense import dense_factor
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import DtypeError, NotFiniteError, NotIdentifiedError, NotPositiveDefiniteError, ShapeError
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import scalar
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tensors.broadcasting import RowLayout, broadcast, narrow
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals


class CompoundSymmetricFactor(Factor):
    """The two eigenvalues of Σ: λ₁ = σ² (1 + (d−1) ρ) for (1, …, 1), and λ₂ = σ² (1 − ρ), d − 1 times, orthogonal to it.

    With the average r̄ of a row and the deviations e = r − r̄, the symmetric whitening and the solution are

        z = e / √λ₂ + r̄ / √λ₁        a = e / λ₂ + r̄ / λ₁        ‖z‖² = ‖e‖² / λ₂ + d r̄² / λ₁
    """

    def __init__(self, variance: Tensor, correlation: Tensor, d: int) -> None:
        self.variance, self.correlation, self.d = variance, correlation, d
        self.batch = broadcast(variance.shape, correlation.shape)
        self._dense: DenseFactor | None = None

    def tensors(self) -> list[Tensor]:
        return [self.variance, self.correlation]

    @property
    def along(self) -> Tensor:
        """λ₁ / σ²."""
        return 1 + (self.d - 1) * self.correlation

    @property
    def across(self) -> Tensor:
        """λ₂ / σ²."""
        return 1 - self.correlation

    @property
    def log_det(self) -> Tensor:
        return self.d * self.variance.log() + self.along.log() + (self.d - 1) * self.across.log()

    def whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        along, across = self._eigenvalues(layout)
        average = rows.mean(-1, keepdim=True)
        return (rows - average) / across.sqrt() + average / along.sqrt()

    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return self.whiten(rows, layout)  # the square root is symmetric

    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        along, across = self._eigenvalues(layout)
        average = rows.mean(-1, keepdim=True)
        return (rows - average) / across + average / along

    def both_squares(self, rows: Tensor, layout: RowLayout) -> tuple[Tensor, Tensor]:
        """The two parts of ‖z‖² of each row: d r̄² / λ₁ and ‖e‖² / λ₂."""
        along, across = self._eigenvalues(layout)
        average = rows.mean(-1, keepdim=True)
        deviations = rows - average
        return self.d * (average * average / along).squeeze(-1), (deviations * deviations).sum(-1) / across.squeeze(-1)

    def _eigenvalues(self, layout: RowLayout) -> tuple[Tensor, Tensor]:
        """λ₁ and λ₂, (K?, 1, 1), to be combined with folded rows."""
        both = self.variance * self.along, self.variance * self.across
        along, across = (layout.fold_params(value, 0)[..., None, None] for value in both)
        return along, across

    def covariance_matrix(self) -> Tensor:
        """(*batch, d, d) Σ."""
        identity = torch.eye(self.d, dtype=self.variance.dtype, device=self.variance.device)
        correlation = self.correlation[..., None, None]
        return self.variance[..., None, None] * (identity + correlation * (1 - identity))

    def dense(self) -> DenseFactor:
        if self._dense is None:
            self._dense = dense_factor(self.covariance_matrix())
        return self._dense

    def detach(self) -> CompoundSymmetricFactor:
        return self._at(self.variance.detach(), self.correlation.detach())

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> CompoundSymmetricFactor:
        if dim < len(full) - len(self.batch):
            return self
        return self._at(narrow(self.variance, full, 0, dim, index), narrow(self.correlation, full, 0, dim, index))

    def _at(self, variance: Tensor, correlation: Tensor) -> CompoundSymmetricFactor:
        other = CompoundSymmetricFactor(variance, correlation, self.d)
        other.checked = self.checked
        return other


class CompoundSymmetric(Covariance):
    """Σ = σ² ((1 − ρ) I + ρ 1 1ᵀ): exchangeable variables. Their number d is that of the mean.

    Args:
        variance: (...) σ², positive, in squared units of x.
        correlation: (...) ρ, the correlation of any two variables, −1/(d − 1) < ρ < 1. It is not identified if d = 1.

    With r = x − µ, its average r̄, e = r − r̄, the eigenvalues λ₁ = σ² (1 + (d−1) ρ) and λ₂ = σ² (1 − ρ), and the whitened
    squares q₁ = d r̄² / λ₁ and q₂ = ‖e‖² / λ₂ (differential of −½ (log λ₁ + (d−1) log λ₂ + q₁ + q₂)):

        ∂ log p / ∂σ² = (q₁ + q₂ − d) / (2 σ²)
        ∂ log p / ∂ρ = ½ ((d−1) (q₁ − 1) / (1 + (d−1) ρ) − (q₂ − (d−1)) / (1 − ρ))

    Example:
        >>> import torch, mvnjac
        >>> covariance = mvnjac.CompoundSymmetric(torch.tensor(2.0), torch.tensor(0.5))
        >>> J = mvnjac.jacobian(torch.tensor([[3.0, 0.0]]), torch.zeros(2), covariance)
        >>> J["variance"], J["correlation"]
        (tensor([1.]), tensor([-3.3333]))
    """

    fields = {"variance": lambda d: scalar(), "correlation": lambda d: scalar()}
    phrases = {"variance": "variance", "correlation": "correlation"}
    keeps_marginals = True
    special_case_of = ("CompoundSymmetric", "Toeplitz")

    def __init__(self, variance: Float[Tensor, "*batch"], correlation: Float[Tensor, "*#batch"]) -> None:
        super().__init__(variance=variance, correlation=correlation)

    def factor(self, d: int) -> CompoundSymmetricFactor:
        return CompoundSymmetricFactor(self.parameters["variance"], self.parameters["correlation"], d)

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Entrywise:
        factor, d = rows.factor, rows.d
        assert isinstance(factor, CompoundSymmetricFactor)
        layout = RowLayout(rows.batch, factor.batch)
        along, across = (layout.unfold(square, 0) for square in factor.both_squares(layout.fold(rows.residual), layout))
        if name == "variance":
            return Entrywise((along + across - d) / (2 * factor.variance), scalar())
        return Entrywise(0.5 * ((d - 1) * (along - 1) / factor.along - (across - (d - 1)) / factor.across), scalar())

    def fisher(self, factor: CompoundSymmetricFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """½ Σ of products of the relative changes of the eigenvalues, written without the cancellation in 1/λ₁ − 1/λ₂."""
        d, sigma, rho = factor.d, factor.variance, factor.correlation
        both = factor.along * factor.across
        zero = torch.zeros_like(both)
        variance, correlation = v.get("variance", zero), v.get("correlation", zero)
        cross = -0.5 * d * (d - 1) * rho / (sigma * both)
        by_correlation = 0.5 * d * (d - 1) * (1 + (d - 1) * rho**2) / both**2
        return {
            "variance": 0.5 * d * variance / sigma**2 + cross * correlation,
            "correlation": cross * variance + by_correlation * correlation,
        }

    def fisher_solve(self, factor: CompoundSymmetricFactor, gradients: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The inverse of the 2×2 information, of determinant d² (d−1) / (2 λ₁ λ₂)²; None for one parameter or one variable."""
        d, sigma, rho = factor.d, factor.variance, factor.correlation
        if d == 1 or not set(self.fields) <= set(gradients):
            return None
        both = factor.along * factor.across
        variance, correlation = gradients["variance"], gradients["correlation"]
        cross = 2 * sigma * rho * both / d
        return {
            "variance": 2 * sigma**2 * (1 + (d - 1) * rho**2) / d * variance + cross * correlation,
            "correlation": cross * variance + 2 * both**2 / (d * (d - 1)) * correlation,
        }

    def times(self, factor: CompoundSymmetricFactor, v: Tensor) -> Tensor:
        along, across = factor.variance * factor.along, factor.variance * factor.across
        average = v.mean(-1, keepdim=True)
        return (v - average) * across.unsqueeze(-1) + average * along.unsqueeze(-1)

    closed_form, positive, scaling = True, ("variance",), "variance"

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> CompoundSymmetric:
        """σ² is the average of the variances, λ₁ the variance along (1, …, 1)."""
        if sample.d == 1:
            raise NotIdentifiedError(
                f"{sample.name}: the correlation of a single variable is not identified; fit isotropic instead."
            )
        variance = sample.variances.mean()
        along = (sample.scaled_rows.sum(-1) ** 2).sum() / sample.d
        return cls(variance, (along / variance - 1) / (sample.d - 1))

    def dense(self, d: int | None = None) -> Tensor:
        return self.factor(self._known_dimension(d)).covariance_matrix()

    def checks(self, factor: Factor) -> Iterator[Check]:
        assert isinstance(factor, CompoundSymmetricFactor)
        lowest = -1 / (factor.d - 1) if factor.d > 1 else float("-inf")
        yield checks.positive("variance", self.parameters["variance"], event=0)
        what = f"the correlation of any two of d = {factor.d} variables"
        yield checks.between("correlation", self.parameters["correlation"], lowest, 1, what)

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        yield cls(make.positive(), 0.6 * make.positive().log())  # within 0.42 of 0
        yield cls(make.positive(), 1 - 0.2 * make.positive())

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(variance: object, correlation: object, error: type[Exception], says: str) -> BadInput:
            return BadInput({"variance": make.tensor(variance), "correlation": make.tensor(correlation)}, error, says)

        interval = r"the correlation of any two of d = 3 variables must lie between -0\.5 and 1"
        yield bad(-1.0, 0.5, NotPositiveDefiniteError, "variance is -1")
        yield bad(1.0, 1.0, NotPositiveDefiniteError, rf"correlation is 1\.0; .*{interval}")
        yield bad(1.0, [0.0, -0.5], NotPositiveDefiniteError, rf"correlation at batch index 1 is -0\.5; .*{interval}")
        yield bad(1.0, float("nan"), NotFiniteError, "correlation is nan")
        yield bad([1.0, 2], [0.0, 0, 0], ShapeError, r"variance \(2,\), correlation \(3,\) do not broadcast")
        yield BadInput({"variance": make.tensor(1.0), "correlation": 0.5}, DtypeError, "correlation is a float")
