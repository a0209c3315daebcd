"""Autoregressive: consecutive values of a stationary autoregression. The cost is O(n d p); no d×d matrix is formed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.base import Entrywise
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.estimation import refuse_constant, whole_number
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.covariance.structured.ar_precision import correlated_bands, not_stationary, polynomial
from mvnjac.covariance.structured.banded_factor import BandedFactor
from mvnjac.covariance.structured.banded_precision import BandedPrecision
from mvnjac.errors import ArgumentError, MvnjacError, NotFiniteError, NotPositiveDefiniteError, ShapeError
from mvnjac.linalg.banded import dense_matrix
from mvnjac.linalg.cyclic_reduction import CyclicReduction
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check, NameOf
from mvnjac.parameters.coordinates import Coordinates, scalar
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, broadcast
from mvnjac.tensors.tracing import constant_size
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals


class Autoregressive(Covariance):
    """d consecutive values of a stationary autoregression x_t = φ₁ x_{t−1} + … + φ_p x_{t−p} + e_t about its mean.

    The number d > p of values is that of the mean.

    Args:
        coefficients: (..., p) φ, of a stationary autoregression.
        variance: (...) σ² of the innovations e, positive, in squared units of x.

    The precision P has p bands below the diagonal (`BandedPrecision.autoregressive`); σ² P is a quadratic form in a = (1,
    −φ). With the derivative G_P with respect to its bands (chain rule on `BandedPrecision`):

        ∂ log p / ∂φ_k = ⟨G_P, ∂P/∂φ_k⟩        ∂ log p / ∂σ² = −⟨G_P, P⟩ / σ²

    Example:
        >>> import torch, mvnjac
        >>> structure = mvnjac.Autoregressive(torch.tensor([0.5]), torch.tensor(1.0))
        >>> mvnjac.jacobian(torch.ones(1, 3), torch.zeros(3), structure).matrix(wrt=("coefficients", "variance"))
        tensor([[ 0.8333, -0.8750]])
    """

    fields = {"coefficients": lambda d: Coordinates((1,), ()), "variance": lambda d: scalar()}
    phrases = {"variance": "innovation variance"}
    special_case_of = ("Autoregressive", "Toeplitz", "BandedPrecision")

    def __init__(self, coefficients: Float[Tensor, "*batch p"], variance: Float[Tensor, "*#batch"]) -> None:
        super().__init__(coefficients=coefficients, variance=variance)

    @property
    def order(self) -> int:
        """p, the number of coefficients."""
        return constant_size(self.parameters["coefficients"])

    nesting_order = order

    @property
    def dimension(self) -> int | None:
        return None

    def coordinates_of(self, name: str, d: int) -> Coordinates:
        coefficients = self.parameters["coefficients"]
        return Coordinates((self.order,), ()) if name == "coefficients" and coefficients.ndim else self.fields[name](d)

    def _check_shapes(self) -> None:
        if self.parameters["coefficients"].ndim == 0:
            raise ShapeError("Autoregressive: coefficients has shape (); expected (..., p).")
        super()._check_shapes()

    def _bands(self, d: int) -> Tensor:
        if self.order >= d:
            raise ShapeError(
                f"Autoregressive: {self.order} coefficients and {d} variables; expected more variables than coefficients."
            )
        a = polynomial(self.parameters["coefficients"])
        return correlated_bands(a, a, d) / self.parameters["variance"][..., None, None]

    def factor(self, d: int) -> BandedFactor:
        bands = self._bands(d)
        return BandedFactor(bands, CyclicReduction.of(bands))

    def _tangents(self, name: str, d: int) -> Tensor:
        """(*batch, k, p + 1, d) the derivatives of the bands with respect to the k entries of a parameter."""
        if name == "variance":
            return (-self._bands(d) / self.parameters["variance"][..., None, None]).unsqueeze(-3)
        a = polynomial(self.parameters["coefficients"]).unsqueeze(-2)
        units = torch.eye(self.order + 1, dtype=self.dtype, device=self.device)[1:]
        forms = correlated_bands(a, units.expand((*a.shape[:-2], *units.shape)), d)
        return -2 * forms / self.parameters["variance"][..., None, None, None]

    def _in_dtype_of(self, like: Tensor) -> Autoregressive:
        """The same structure in the dtype of the computation."""
        return self if like.dtype == self.dtype else self.map(lambda t: t.to(like.dtype))

    def pullback(self, name: str, rows: Residuals) -> Entrywise:
        values = BandedPrecision.pullback("precision_bands", rows).values.flatten(-2)
        tangents = self._in_dtype_of(values)._tangents(name, rows.d).flatten(-2)
        layout = RowLayout(broadcast(rows.batch, batch_shape(tangents, 2)), batch_shape(tangents, 2))
        products = layout.unfold(layout.fold(values) @ layout.fold_params(tangents, 2).mT)
        coordinates = self.coordinates_of(name, rows.d)
        return Entrywise(products.reshape((*products.shape[:-1], *coordinates.shape)), coordinates)

    # --- second order -------------------------------------------------------------------------------------------------

    def fisher(self, factor: BandedFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tᵀ F T with the information F of the bands and their derivatives T."""
        d, change = factor.bands.shape[-1], torch.zeros_like(factor.bands)
        tangents = {name: self._in_dtype_of(change)._tangents(name, d) for name in self.fields}
        for name, value in v.items():
            flat = value.unsqueeze(-1) if name == "variance" else value
            change = change + (flat[..., None, None] * tangents[name]).sum(-3)
        image = BandedPrecision(factor.bands).fisher(factor, {"precision_bands": change})["precision_bands"]
        result = {name: (image.unsqueeze(-3) * tangent).sum((-2, -1)) for name, tangent in tangents.items()}
        return {**result, "variance": result["variance"].squeeze(-1)}

    def times(self, factor: BandedFactor, v: Tensor) -> Tensor:
        return BandedPrecision(factor.bands).times(factor, v)

    # --- estimation -----------------------------------------------------------------------------------------------------

    option, short, positive, scaling = "ORDER", "ar", ("variance",), "variance"
    advice = (
        "Each value is predicted from the earlier ones without error: take a lower order, another structure, or start from an instance "
        "elsewhere."
    )

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> Autoregressive:
        """The Yule–Walker estimates from the average autocovariances of the rows."""
        p, rows, d = whole_number("autoregressive", option), sample.scaled_rows, sample.d
        if p >= d:
            raise ArgumentError(f"{sample.name}: the order {p} is not below the number of variables, {d}; take a smaller one.")
        if len(sample.constant) == d:
            refuse_constant(sample)
        # the same divisor at all lags: the autocovariances are positive definite
        c = torch.stack([(rows[:, k:] * rows[:, : d - k]).sum() / d for k in range(p + 1)])
        steps = torch.arange(p, dtype=torch.long, device=c.device)
        lags = (steps[:, None] - steps).abs()
        coefficients = torch.linalg.solve(c[lags], c[1:])
        return cls(coefficients, c[0] - coefficients @ c[1:])

    # --- Σ, checks and samples ----------------------------------------------------------------------------------------

    def dense(self, d: int | None = None) -> Tensor:
        return torch.linalg.inv(dense_matrix(self._bands(self._known_dimension(d))))

    def checks(self, factor: Factor) -> Iterator[Check]:
        coefficients = self.parameters["coefficients"].detach()
        yield checks.positive("variance", self.parameters["variance"], event=0)

        def explain(function: str, name_of: NameOf) -> MvnjacError | None:
            message = not_stationary(coefficients)
            return None if message is None else NotPositiveDefiniteError(f"{function}: {message}")

        yield Check(~factor.log_det.detach().isnan().any(), explain)

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        for partials in ([0.6], [0.3, -0.5]):
            if len(partials) < d:
                phi = make.normal(0)
                for partial in partials:
                    last = partial * (0.5 + 0.4 * torch.tanh(make.normal(1)))
                    phi = torch.cat([phi - last * phi.flip(-1), last], -1)
                yield cls(phi, make.positive())

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(phi: Sequence[Any] | float, variance: float, error: type[Exception], says: str) -> BadInput:
            return BadInput({"coefficients": make.tensor(phi), "variance": make.tensor(variance)}, error, says)

        yield bad([0.5, 0.6], 1.0, NotPositiveDefiniteError, r"partial autocorrelation of order 1 is 1\.25")
        yield bad([-1.5], 1.0, NotPositiveDefiniteError, r"partial autocorrelation of order 1 is -1\.5")
        yield bad([0.5], 0.0, NotPositiveDefiniteError, "variance is 0")
        yield bad([float("nan")], 1.0, NotFiniteError, "coefficients is nan")
        yield bad([0.1, 0.1, 0.1], 1.0, ShapeError, "3 coefficients and 3 variables")
        yield bad(0.5, 1.0, ShapeError, r"coefficients has shape \(\)")
