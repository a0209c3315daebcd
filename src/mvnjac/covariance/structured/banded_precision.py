"""BandedPrecision: a Gaussian Markov random field on a line, by the bands of P = Σ⁻¹. O(n d b); no d×d matrix is formed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.base import Entrywise
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.estimation import refuse_combination, refuse_constant, require_pairs_observed, whole_number
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.covariance.structured.ar_precision import autoregressive_bands
from mvnjac.covariance.structured.banded_factor import BandedFactor
from mvnjac.covariance.structured.bands import Bands, definite_bands
from mvnjac.errors import ArgumentError, NotFiniteError, NotPositiveDefiniteError, ShapeError, counted
from mvnjac.linalg.banded import bands_of_sum, consecutive_blocks, dense_matrix
from mvnjac.linalg.cyclic_reduction import CyclicReduction
from mvnjac.linalg.padding import pad
from mvnjac.linalg.triangular import cholesky, inverse_triangle
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import Coordinates
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, broadcast
from mvnjac.tensors.tracing import constant_size, require_no_jit_trace
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals


class BandedPrecision(Covariance):
    """The bands of P = Σ⁻¹: given all others, each variable depends only on its b neighbours on either side.

    Args:
        precision_bands: (..., b + 1, d) with precision_bands[k, j] = P[j + k, j], in inverse squared units of x: the main
            diagonal first (the lower form of LAPACK). The last k entries of row k are padding, which is ignored.

    With r = x − µ, for j = i − k (Magnus & Neudecker, *Matrix Differential Calculus*; an entry below the diagonal occurs
    twice in P):

        ∂ log p / ∂Pᵢᵢ = ½ (Σᵢᵢ − rᵢ²)        ∂ log p / ∂Pᵢⱼ = Σᵢⱼ − rᵢ rⱼ

    The band of Σ is computed in O(d b²) (Takahashi's recursion). The inverse of the information with respect to the bands has
    a closed form, because the band of Σ determines P locally (Lauritzen 1996, *Graphical Models*, prop. 5.9).

    Example:
        >>> import torch, mvnjac
        >>> bands = torch.tensor([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
        >>> J = mvnjac.jacobian(torch.ones(1, 3), torch.zeros(3), mvnjac.BandedPrecision(bands))
        >>> J.columns()[3:]
        ['precision_bands[0,0]', 'precision_bands[1,1]', 'precision_bands[2,2]', 'precision_bands[1,0]', 'precision_bands[2,1]']
        >>> J["precision_bands"]
        tensor([[[-0.1250,  0.0000, -0.1250],
                 [-0.5000, -0.5000,  0.0000]]])
    """

    fields = {"precision_bands": lambda d: Bands(0, d)}
    special_case_of = ("BandedPrecision",)

    def __init__(self, precision_bands: Float[Tensor, "*batch rows d"]) -> None:
        super().__init__(precision_bands=precision_bands)

    @classmethod
    def autoregressive(
        cls, coefficients: Float[Tensor, "*batch p"], variance: Float[Tensor, "*#batch"], d: int
    ) -> BandedPrecision:
        """The exact precision of d consecutive values of a stationary autoregression about its mean.

        The autoregression is x_t = φ₁ x_{t−1} + … + φ_p x_{t−p} + e_t. With a = (1, −φ₁, …, −φ_p) and C_k(m) = Σ a_q a_{q+k} over
        q ≤ min(m, p − k) (Siddiqui 1958, *On the inversion of the sample covariance matrix in a stationary autoregressive
        process*; Gohberg & Semencul 1972):

            σ² P[j + k, j] = C_k(j) + C_k(d − 1 − j − k) − C_k(p)

        Args:
            coefficients: (..., p) φ, p < d.
            variance: (...) σ² of the innovations e, positive, in squared units of x.
            d: the number of values.

        Returns:
            The structure of bandwidth p, differentiable with respect to both arguments.

        Raises:
            ShapeError: if d is not greater than p.
            NotPositiveDefiniteError: if the autoregression is not stationary, or the variance not positive. Values are not
                checked under vmap and torch.compile.

        Example:
            >>> import torch, mvnjac
            >>> mvnjac.BandedPrecision.autoregressive(torch.tensor([0.5]), torch.tensor(1.0), 3).parameters["precision_bands"]
            tensor([[ 1.0000,  1.2500,  1.0000],
                    [-0.5000, -0.5000,  0.0000]])
        """
        return cls(autoregressive_bands(coefficients, variance, d))

    @property
    def bandwidth(self) -> int:
        """b, the number of bands below the diagonal."""
        return constant_size(self.parameters["precision_bands"], -2) - 1

    nesting_order = bandwidth

    def _check_shapes(self) -> None:
        shape = tuple(self.parameters["precision_bands"].shape)
        if len(shape) < 2 or not 1 <= shape[-2] <= shape[-1]:
            raise ShapeError(
                f"BandedPrecision: precision_bands has shape {shape}; expected (..., b + 1, d) with b < d: row k is the k-th diagonal "
                "below the main one, followed by k entries of padding."
            )

    def coordinates_of(self, name: str, d: int) -> Coordinates:
        return Bands(self.bandwidth, d)

    def factor(self, d: int) -> BandedFactor:
        bands = self.parameters["precision_bands"]
        return BandedFactor(bands, CyclicReduction.of(bands))

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Entrywise:
        assert isinstance(rows.factor, BandedFactor)
        r, sigma = rows.residual, rows.factor.covariance_bands
        values = [0.5 * (sigma[..., 0, :] - r * r)]
        for k in range(1, sigma.shape[-2]):
            values.append(sigma[..., k, :] - pad(r[..., k:] * r[..., :-k], (0, k)))
        return Entrywise(torch.stack(values, -2), Bands(len(values) - 1, rows.d))

    def fisher(self, factor: BandedFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With V = dP: ½ Σ V Σ on the band, doubled off the diagonal; the differential of the band of Σ is −Σ V Σ."""
        require_no_jit_trace("BandedPrecision: the Fisher information")
        change = v["precision_bands"]
        full = broadcast(batch_shape(change, 2), factor.batch)
        bands = factor.bands.expand((*full, *factor.bands.shape[-2:]))
        pull = torch.func.vjp(lambda bands: CyclicReduction.of(bands).inverse_bands(), bands)[1]
        return {"precision_bands": -0.5 * pull(_twice_below(change).expand(bands.shape))[0]}

    def fisher_solve(self, factor: BandedFactor, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """P is the sum of the inverses of Σ over b + 1 consecutive variables, minus those over the b that two such sets share.

        The differential of each inverse is −Σ⁻¹ dΣ Σ⁻¹ (Lauritzen 1996, *Graphical Models*, prop. 5.9). O(d b³).
        """
        change = _halved_below(2 * gradients["precision_bands"])  # −dΣ on the band
        return {"precision_bands": _completed(factor.covariance_bands, change)}

    def units(self, factor: BandedFactor) -> dict[str, Tensor]:
        scale = factor.bands[..., 0, :].sqrt()
        pairs = [pad(scale[..., k:] * scale[..., : scale.shape[-1] - k], (0, k)) for k in range(self.bandwidth + 1)]
        return {"mean": 1 / scale, "precision_bands": torch.stack(pairs, -2)}

    def times(self, factor: BandedFactor, v: Tensor) -> Tensor:
        layout = RowLayout(broadcast(batch_shape(v, 1), factor.batch), factor.batch)
        return layout.unfold(factor.times(layout.fold(v), layout))

    option, closed_form = "BANDWIDTH", True

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> BandedPrecision:
        """The P whose inverse has the band of the sample covariance (see `fisher_solve`)."""
        b, rows = whole_number("banded-precision", option), sample.scaled_rows
        if b >= sample.d:
            raise ArgumentError(
                f"{sample.name}: the bandwidth {b} is not below the number of variables, {sample.d}; fit the structure precision."
            )
        if sample.count < b + 2:
            raise NotPositiveDefiniteError(
                f"{sample.name}: {counted(sample.count, 'row')} for a bandwidth of {b}; use at least {b + 2} rows."
            )
        refuse_constant(sample)
        require_pairs_observed(sample, b)
        diagonals = [(rows[:, k:] * rows[:, : sample.d - k]).sum(0) for k in range(b + 1)]
        bands = torch.stack([pad(diagonal, (0, k)) for k, diagonal in enumerate(diagonals)])
        if sample.complete:
            for j in range(sample.d - b):
                refuse_combination(sample.part(slice(j, j + b + 1)), dense_matrix(bands[:, j : j + b + 1]))
        else:
            bands = _halved_below(bands)  # positive definite for any pattern of missing entries
        return cls(_completed(bands, bands))

    def rescaled(self, units: Tensor) -> BandedPrecision:
        bands = self.parameters["precision_bands"]
        pairs = [pad(1 / (units[k:] * units[: len(units) - k]), (0, k)) for k in range(self.bandwidth + 1)]
        return type(self)(bands * torch.stack(pairs))

    def dense(self, d: int | None = None) -> Tensor:
        return torch.linalg.inv(dense_matrix(self.parameters["precision_bands"]))

    def all_checks(self, factor: Factor) -> Iterator[Check]:
        bands = self.parameters["precision_bands"]
        coordinates = Bands(self.bandwidth, bands.shape[-1])
        yield checks.finite("precision_bands", coordinates.project(bands), coordinates)
        yield from self.checks(factor)

    def checks(self, factor: Factor) -> Iterator[Check]:
        bands = self.parameters["precision_bands"]
        yield definite_bands("precision_bands", bands, factor.log_det, lambda part: CyclicReduction.of(part).log_det())

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        for b, padding in ((2, 7.0), (1, torch.nan), (0, 0.0)):
            if b < d:
                P = make.lower(d).triu(-b)
                P = P @ P.mT
                diagonals = [P.diagonal(-k, -2, -1) for k in range(b + 1)]
                yield cls(torch.stack([pad(row, (0, k), value=padding) for k, row in enumerate(diagonals)], -2))

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(bands: Sequence[Any], error: type[Exception], says: str) -> BadInput:
            return BadInput({"precision_bands": make.tensor(bands)}, error, says)

        nan = float("nan")
        yield bad([[1, 2, 1], [0, 1.5, nan]], NotPositiveDefiniteError, r"variable 2 \(pivot 3 of 3\)")
        yield bad([[1, 0, 1], [0, 0, nan]], NotPositiveDefiniteError, "pivot of variable 1 .* diagonal entry is 0")
        yield bad([[1, 1, 1], [0, nan, 0]], NotFiniteError, r"precision_bands is nan at \[1,1\] \(variable 2, variable 1\)")
        yield bad([1, 1, 1], ShapeError, r"has shape \(3,\)")
        yield bad([[1, 1, 1]] * 4, ShapeError, r"has shape \(4, 3\); expected \(..., b \+ 1, d\)")


def _twice_below(bands: Tensor) -> Tensor:
    return torch.cat([bands[..., :1, :], 2 * bands[..., 1:, :]], -2)


def _halved_below(bands: Tensor) -> Tensor:
    return torch.cat([bands[..., :1, :], 0.5 * bands[..., 1:, :]], -2)


def _completed(sigma: Tensor, change: Tensor) -> Tensor:
    """The bands of Σ_C Σ_CC⁻¹ V_CC Σ_CC⁻¹ over sets C of b + 1 consecutive variables, minus those of the b that two share."""
    b = sigma.shape[-2] - 1
    result = _local(sigma, change, b + 1)
    if not b:
        return result
    shared = _local(sigma[..., :-1, 1:-1], change[..., :-1, 1:-1], b)
    return result - pad(shared, (1, 1, 0, 1))


def _local(sigma: Tensor, change: Tensor, size: int) -> Tensor:
    """The bands of Σ_C Σ_CC⁻¹ V_CC Σ_CC⁻¹ over all sets C of `size` consecutive variables."""
    inverse = inverse_triangle(cholesky(consecutive_blocks(sigma, size))[0])
    whitened = inverse @ consecutive_blocks(change, size) @ inverse.mT
    return bands_of_sum(inverse.mT @ whitened @ inverse)
