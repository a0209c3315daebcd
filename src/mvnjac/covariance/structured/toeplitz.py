"""Toeplitz: a stationary series, Σᵢⱼ = c_|i−j|. Factorisation is O(d²), a row O(d log d); no d×d matrix is formed."""

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
from mvnjac.errors import MvnjacError, NotFiniteError, NotPositiveDefiniteError, ShapeError
from mvnjac.linalg.toeplitz_algebra import (
    autocorrelation,
    half_at_first,
    innovations,
    inverse_times,
    newton,
    schur,
    toeplitz,
    toeplitz_times,
    weighted_lags,
)
from mvnjac.parameters.checks import Check, NameOf, of_batch
from mvnjac.parameters.coordinates import vector
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, narrow
from mvnjac.tensors.tracing import constant_size, is_traced
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals


class ToeplitzFactor(Factor):
    """The predictions of each variable from those before it, by Schur's recursion over the order of prediction.

    The whitened residuals are the standardised innovations z_k = (r_k − Σ_j φ_kj r_{k−j}) / σ_k, and log det Σ = Σ log σ_k².
    """

    def __init__(self, first_column: Tensor) -> None:
        self.first_column = first_column
        self.batch = batch_shape(first_column, 1)
        self._views: dict[str, Tensor] = {}
        self._dense: DenseFactor | None = None

    def tensors(self) -> list[Tensor]:
        return [self.first_column]

    @property
    def numbers(self) -> Tensor:
        """(*batch, 3, d) the result of `schur`, without an autograd graph."""
        return self.view("numbers", lambda: schur(self.first_column.detach()))

    @property
    def orders(self) -> Tensor:
        """(*batch, 3, d) the same with the graph of its d steps, if derivatives are traced."""
        return self.view("orders", lambda: schur(self.first_column) if is_traced(self.first_column) else self.numbers)

    @property
    def inverse_column(self) -> Tensor:
        """(*batch, d) u, the first column of Σ⁻¹.

        If derivatives are traced, Newton steps from the known values give them without the graph of the recursion's d steps.
        """
        c, u = self.first_column, self.numbers[..., 2, :]
        return self.view("inverse_column", lambda: newton(c, u) if is_traced(c) else u)

    @property
    def inverse_lags(self) -> Tensor:
        """(*batch, d) the sums of the diagonals of Σ⁻¹: Σᵢ (Σ⁻¹)_{i,i+k} = Σₜ (d − k − 2t) uₜ uₜ₊ₖ / u₀."""
        return self.view("inverse_lags", lambda: weighted_lags(self.inverse_column, self.inverse_column) / self._corner)

    def inverse_lags_change(self, column: Tensor) -> Tensor:
        """The change of `inverse_lags` for a change `column` (..., d) of c.

        u changes by −Σ⁻¹ T u with the Toeplitz matrix T of `column`.
        """
        u = self.inverse_column
        change = -inverse_times(u, toeplitz_times(column, u))
        lags = weighted_lags(change, u) + weighted_lags(u, change)
        return (lags - change[..., :1] * self.inverse_lags) / self._corner

    @property
    def _corner(self) -> Tensor:
        return self.inverse_column[..., :1]

    @property
    def info(self) -> Tensor:
        """(*batch) 0, or the first order of prediction at which the prediction error has no positive variance."""
        failed = self.numbers[..., 1, :].isnan()
        return torch.where(failed.any(-1), failed.to(torch.uint8).argmax(-1) + 1, 0)

    @property
    def log_det(self) -> Tensor:
        return self.orders[..., 1, :].log().sum(-1)

    def whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return innovations(rows, layout.fold_params(self.first_column, 1), layout.fold_params(self.orders[..., 1, :], 1))

    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return self.whiten(rows.flip(-1), layout).flip(-1)  # Σ does not change if the order of the variables is reversed

    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        return inverse_times(layout.fold_params(self.inverse_column, 1).unsqueeze(-2), rows)

    def dense(self) -> DenseFactor:
        if self._dense is None:
            self._dense = dense_factor(toeplitz(self.first_column))
        return self._dense

    def detach(self) -> ToeplitzFactor:
        return self._at(self.first_column.detach(), self.numbers)

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> ToeplitzFactor:
        if dim < len(full) - len(self.batch):
            return self
        return self._at(narrow(self.first_column, full, 1, dim, index), narrow(self.numbers, full, 2, dim, index))

    def _at(self, first_column: Tensor, numbers: Tensor) -> ToeplitzFactor:
        other = ToeplitzFactor(first_column)
        other.checked, other._views = self.checked, {"numbers": numbers}
        return other


class Toeplitz(Covariance):
    """Σᵢⱼ = c_|i−j|: the autocovariances of a stationary series at d equidistant times.

    Args:
        first_column: (..., d) c, in squared units of x: the variance c₀, then the autocovariance at each lag. Σ is positive
            definite if and only if c₀ > 0 and every partial autocorrelation lies strictly between −1 and 1.

    With a = Σ⁻¹(x − µ) (chain rule on `Dense`), for k > 0, and half of this for k = 0:

        ∂ log p / ∂cₖ = Σᵢ (aᵢ aᵢ₊ₖ − (Σ⁻¹)ᵢ,ᵢ₊ₖ)

    Schur's recursion factorises Σ in O(d²), and whitens a row in O(d²). After that, the formula of Gohberg & Semencul gives a
    and the sums over diagonals in O(d log d) per row (Golub & Van Loan, *Matrix Computations*, §4.7).

    Example:
        >>> import torch, mvnjac
        >>> J = mvnjac.jacobian(torch.ones(1, 3), torch.zeros(3), mvnjac.Toeplitz(torch.tensor([1.0, 0.0, 0.0])))
        >>> J["first_column"]
        tensor([[0., 2., 1.]])
    """

    fields = {"first_column": vector}
    special_case_of = ("Toeplitz",)

    def __init__(self, first_column: Float[Tensor, "*batch d"]) -> None:
        super().__init__(first_column=first_column)

    @property
    def nesting_order(self) -> int:
        """That of an autoregression of any order."""
        return constant_size(self.parameters["first_column"])

    def factor(self, d: int) -> ToeplitzFactor:
        return ToeplitzFactor(self.parameters["first_column"])

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Entrywise:
        assert isinstance(rows.factor, ToeplitzFactor)
        return Entrywise(half_at_first(autocorrelation(rows.scaled) - rows.factor.inverse_lags), vector(rows.d))

    def fisher(self, factor: ToeplitzFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """½ tr(∂ₖΣ Σ⁻¹ T Σ⁻¹), from the sums over the diagonals of dΣ⁻¹ = −Σ⁻¹ T Σ⁻¹. O(d log d)."""
        return {"first_column": -half_at_first(factor.inverse_lags_change(v["first_column"]))}

    def units(self, factor: ToeplitzFactor) -> dict[str, Tensor]:
        """The standard errors for white noise: c₀ divided by the square root of the number of pairs at each lag."""
        c = factor.first_column
        pairs = torch.arange(c.shape[-1], 0, -1, dtype=c.dtype, device=c.device)
        return {"mean": c[..., :1].sqrt().expand(c.shape), "first_column": c[..., :1] / pairs.sqrt()}

    def times(self, factor: ToeplitzFactor, v: Tensor) -> Tensor:
        return toeplitz_times(factor.first_column, v)

    scaling = "first_column"

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> Toeplitz:
        """The average autocovariances Σ rᵢ rᵢ₊ₖ / d: biased towards 0 at long lags, but always positive definite."""
        return cls(autocorrelation(sample.scaled_rows).sum(0) / sample.d)

    def dense(self, d: int | None = None) -> Tensor:
        return toeplitz(self.parameters["first_column"])

    def checks(self, factor: Factor) -> Iterator[Check]:
        assert isinstance(factor, ToeplitzFactor)
        yield _positive_partial_variances(
            "first_column", self.parameters["first_column"], factor.numbers[..., 0, :], factor.info
        )

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        """Sums and products of positive definite sequences: damped oscillations, and slow decay with an alternating term."""
        lags = torch.arange(d, dtype=make.dtype, device="cpu")
        size, damping, frequency = (t.unsqueeze(-1) for t in (make.positive(), make.positive(), make.normal()))
        yield cls(size * torch.exp(-0.5 * damping * lags) * torch.cos(frequency * lags))
        yield cls(size / (1 + lags) ** damping + damping * (-0.4) ** lags)

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(c: object, error: type[Exception], says: str) -> BadInput:
            return BadInput({"first_column": make.tensor(c)}, error, says)

        yield bad(
            [1.0, 2, 0], NotPositiveDefiniteError, "indefinite at order 2 of 3: the partial autocorrelation at lag 1 is 2"
        )
        yield bad([[1.0, 0, 0], [1, 0.9, 0]], NotPositiveDefiniteError, "at batch index 1: indefinite at order 3 of 3")
        yield bad([2.0, 2, 2], NotPositiveDefiniteError, "indefinite at order 2 of 3")
        yield bad([0.0, 0, 0], NotPositiveDefiniteError, r"indefinite at order 1 of 3: entry 0, the variance, is 0\.0")
        yield bad([1.0, float("nan"), 0], NotFiniteError, r"first_column is nan at \[1\]")
        yield bad(1.0, ShapeError, r"first_column has shape \(\)")


def _positive_partial_variances(name: str, c: Tensor, partials: Tensor, info: Tensor) -> Check:
    """Every prediction error has a positive variance. info (*batch): 0, or the first order at which it has not."""

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        batch = info.nonzero()[0].tolist()
        order = int(info[tuple(batch)])
        number = (c if order == 1 else partials)[(*batch, order - 1)].item()
        cause = (
            f"entry 0, the variance, is {number!r}; it must be positive"
            if order == 1
            else f"the partial autocorrelation at lag {order - 1} is {number!r}; it must lie between -1 and 1, both excluded"
        )
        return NotPositiveDefiniteError(
            f"{function}: {name} is not the first column of a positive definite matrix{of_batch(batch)}: indefinite at order {order} "
            f"of {c.shape[-1]}: {cause}. Estimate the autocovariances with the same divisor at every lag, or taper them."
        )

    return Check((info == 0).all(), explain)
