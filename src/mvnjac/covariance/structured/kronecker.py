"""Kronecker: the matrix normal distribution, Σ = A ⊗ B. The cost is O(m q (m + q)) per row; no (m q)×(m q) matrix is formed."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.gram import Gram
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisations.dense import dense_factor
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.covariance.structured import flip_flop
from mvnjac.covariance.structured.kronecker_factor import KroneckerFactor, kronecker_product
from mvnjac.errors import NotFiniteError, NotPositiveDefiniteError, NotSymmetricError, ShapeError
from mvnjac.linalg.triangular import symmetric_part
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import Triangle, symmetric
from mvnjac.parameters.names import Names
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tensors.broadcasting import stacked
from mvnjac.tensors.tracing import constant_size
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals

ROW, COLUMN = "row_covariance", "column_covariance"


class Kronecker(Covariance):
    """Σ = A ⊗ B: observations are m×q matrices, A is the covariance between their rows, B that between their columns.

    Args:
        row_covariance: (..., m, m) A, symmetric positive definite.
        column_covariance: (..., q, q) B, symmetric positive definite; the product of both is in squared units of x. The element
            (i, j) of a matrix and the element (k, l) have the covariance Aᵢₖ Bⱼₗ.

    x has the shape of the mean: (..., m, q), or (..., m·q) with the matrices flattened row by row. With R = x − µ (m, q) and
    Â = A⁻¹ R B⁻¹ (chain rule on `Dense`; Dutilleul 1999, *The MLE algorithm for the matrix normal distribution*):

        ∂ log p / ∂A = ½ (Â B Âᵀ − q A⁻¹)        ∂ log p / ∂B = ½ (Âᵀ A Â − m B⁻¹)

    The product is identified, the factors only up to scale: (c A, B / c) gives the same Σ for every c > 0. The information is
    singular along that direction, and `fisher_information(...).solve` returns the solution of minimum norm (of the vector of
    unique elements). If `wrt` leaves out one element, such as row_covariance[0,0], that element is held fixed, which fixes
    the scale.

    Example:
        >>> import torch, mvnjac
        >>> K = mvnjac.Kronecker(torch.eye(2), 2 * torch.eye(3))
        >>> J = mvnjac.jacobian(torch.ones(1, 2, 3), torch.zeros(2, 3), K, names=[["AAPL", "MSFT"], ["1M", "3M", "1Y"]])
        >>> J["column_covariance"]
        tensor([[[-0.2500,  0.2500,  0.2500],
                 [ 0.2500, -0.2500,  0.2500],
                 [ 0.2500,  0.2500, -0.2500]]])
        >>> J.columns()[5:9]
        ['mean[MSFT,1Y]', 'row_covariance[AAPL,AAPL]', 'row_covariance[MSFT,AAPL]', 'row_covariance[MSFT,MSFT]']
    """

    fields = {ROW: symmetric, COLUMN: symmetric}
    phrases = {
        ROW: ("row covariance of {} and {}", "row variance of {}"),
        COLUMN: ("column covariance of {} and {}", "column variance of {}"),
    }
    special_case_of = ("Kronecker",)
    redundant = True

    def __init__(self, row_covariance: Float[Tensor, "*#batch m m"], column_covariance: Float[Tensor, "*#batch q q"]) -> None:
        super().__init__(row_covariance=row_covariance, column_covariance=column_covariance)

    def contains(self, other: Covariance) -> bool:
        return super().contains(other) and other.matrix_shape in (None, self.matrix_shape)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        return constant_size(self.parameters[ROW]), constant_size(self.parameters[COLUMN])

    @property
    def dimension(self) -> int:
        m, q = self.matrix_shape
        return m * q

    def coordinates_of(self, name: str, d: int) -> Triangle:
        return symmetric(constant_size(self.parameters[name]))

    def names_of(self, parameter: str, names: Names) -> Names:
        m, q = self.matrix_shape
        return names.axis(0, m, "row") if parameter == ROW else names.axis(1, q, "column")

    def factor(self, d: int) -> KroneckerFactor:
        row, column = (dense_factor(symmetric_part(self.parameters[name])) for name in (ROW, COLUMN))
        return KroneckerFactor(row, column)

    def pullback(self, name: str, rows: Residuals) -> Gram:
        assert isinstance(rows.factor, KroneckerFactor)
        factor, scaled = rows.factor, rows.factor.matrices(rows.scaled)
        m, q = factor.row.d, factor.column.d
        if name == ROW:  # Â B Âᵀ, with B = L_B L_Bᵀ
            return Gram(factor.columns_times(scaled, rows.batch).mT, -0.5 * q * factor.row.precision_matrix, symmetric(m))
        return Gram(factor.rows_times(scaled, rows.batch).mT, -0.5 * m * factor.column.precision_matrix, symmetric(q))

    # --- second order ---------------------------------------------------------------------------------------------

    def fisher(self, factor: KroneckerFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With K_A = L_A⁻¹ dA L_A⁻ᵀ and K_B likewise: ½ (q K_A + tr(K_B) I) for K_A, ½ (m K_B + tr(K_A) I) for K_B."""
        row, column = factor.row, factor.column
        by_row, by_column = torch.zeros_like(row.scale_tril), torch.zeros_like(column.scale_tril)
        if ROW in v:
            K = row.whiten_matrix(v[ROW])
            by_row = by_row + 0.5 * column.d * K
            by_column = by_column + 0.5 * _scaled_identity(_trace(K), column)
        if COLUMN in v:
            K = column.whiten_matrix(v[COLUMN])
            by_column = by_column + 0.5 * row.d * K
            by_row = by_row + 0.5 * _scaled_identity(_trace(K), row)
        return {ROW: row.unwhiten_gradient(by_row), COLUMN: column.unwhiten_gradient(by_column)}

    def fisher_solve(self, factor: KroneckerFactor, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With M = L_Aᵀ G L_A: K_A = 2 M / q for A alone; for both (2 M − tr(M) / m I) / q, projected to minimum norm."""
        sides = {ROW: (factor.row, factor.column.d), COLUMN: (factor.column, factor.row.d)}
        both = set(sides) <= set(gradients)
        if both:
            gradients = without(gradients, _null_direction(factor), dual=True)
        change: dict[str, Tensor] = {}
        for name in sides.keys() & gradients.keys():
            side, others = sides[name]
            M = side.whiten_gradient(gradients[name])
            K = 2 * M - _scaled_identity(_trace(M) / side.d, side) if both else 2 * M
            change[name] = side.unwhiten_matrix(K / others)
        return self.minimum_norm(factor, change) if both else change

    def minimum_norm(self, factor: KroneckerFactor, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """v minus its projection on (A, −B), in the norm of the unique elements."""
        return {**v, **without(v, _null_direction(factor))}

    def units(self, factor: KroneckerFactor) -> dict[str, Tensor]:
        a, b = factor.row.scale, factor.column.scale
        mean = stacked(a.unsqueeze(-1) * b.unsqueeze(-2), -2)
        return {"mean": mean, ROW: a.unsqueeze(-1) * a.unsqueeze(-2), COLUMN: b.unsqueeze(-1) * b.unsqueeze(-2)}

    @property
    def redundant_directions(self) -> int:
        """1: a scale factor that can move from one matrix to the other."""
        return 1

    def times(self, factor: KroneckerFactor, v: Tensor) -> Tensor:
        return stacked(factor.row.covariance_matrix @ factor.matrices(v) @ factor.column.covariance_matrix, -2)

    # --- estimation -------------------------------------------------------------------------------------------------

    option, unidentified, scaling = "ROWSxCOLUMNS", (ROW, COLUMN), COLUMN

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> Kronecker:
        m, q = flip_flop.sides(option)
        flip_flop.require_rows(sample, m, q)
        return cls(*flip_flop.starting_values(sample, m, q))

    def require_maximum(self, sample: SufficientStatistics) -> None:
        flip_flop.require_rows(sample, *self.matrix_shape)
        super().require_maximum(sample)

    def normalised(self) -> Kronecker:
        """Scaled so that the average of the variances in row_covariance is 1."""
        A, B = self.parameters[ROW], self.parameters[COLUMN]
        scale = A.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        return type(self)(A / scale, B * scale)

    # --- Σ, checks and samples -------------------------------------------------------------------------------------

    def dense(self, d: int | None = None) -> Tensor:
        return kronecker_product(self.parameters[ROW], self.parameters[COLUMN])

    def checks(self, factor: Factor) -> Iterator[Check]:
        assert isinstance(factor, KroneckerFactor)
        for name, side in ((ROW, factor.row), (COLUMN, factor.column)):
            rename = functools.partial(self.names_of, name)
            yield checks.symmetric(name, self.parameters[name]).within(rename)
            yield checks.definite(name, self.parameters[name], side.info).within(rename)

    def _check_shapes(self) -> None:
        for name, value in self.parameters.items():
            if value.ndim < 2 or value.shape[-1] != value.shape[-2]:
                raise ShapeError(f"Kronecker: {name} has shape {tuple(value.shape)}; expected a square matrix (..., d, d).")
        super()._check_shapes()

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        for m in range(1, d + 1):
            if d % m == 0 and not (m == 1 < d and make.batch[-1:] == (1,)):  # else a mean (..., 1, d) is a single matrix
                yield cls(make.definite(m), make.definite(d // m))

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(rows: Sequence[Any], columns: Sequence[Any], error: type[Exception], says: str) -> BadInput:
            return BadInput({ROW: make.tensor(rows), COLUMN: make.tensor(columns)}, error, says)

        one, three = [[1.0]], [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
        singular = [[1.0, 0, 0], [0, 1, 1], [0, 1, 1]]
        yield bad(singular, one, NotPositiveDefiniteError, r"row_covariance .* pivot of row 2 \(pivot 3 of 3\)")
        yield bad(one, singular, NotPositiveDefiniteError, r"column_covariance .* pivot of column 2 \(pivot 3 of 3\)")
        yield bad(
            one, [[1.0, 0.1, 0], [0.2, 1, 0], [0, 0, 1]], NotSymmetricError, r"column_covariance .* \(column 0, column 1\)"
        )
        yield bad([[float("nan")]], three, NotFiniteError, r"row_covariance is nan at \[0,0\] \(row 0, row 0\)")
        yield bad([[1.0, 0], [0, 1]], three, ShapeError, r"the covariance is of 6 variables .* shape \(6,\) or \(..., 2, 3\)")
        yield bad([[1.0, 0]], three, ShapeError, r"row_covariance has shape \(1, 2\)")


def _trace(K: Tensor) -> Tensor:
    return K.diagonal(dim1=-2, dim2=-1).sum(-1)


def _scaled_identity(scale: Tensor, side: DenseFactor) -> Tensor:
    return scale[..., None, None] * torch.eye(side.d, dtype=scale.dtype, device=scale.device)


def _null_direction(factor: KroneckerFactor) -> dict[str, Tensor]:
    """The change of A and B that leaves Σ unchanged."""
    return {ROW: factor.row.covariance_matrix, COLUMN: -factor.column.covariance_matrix}


def without(v: Mapping[str, Tensor], null: Mapping[str, Tensor], dual: bool = False) -> dict[str, Tensor]:
    """v minus its projection on `null`, both symmetric matrices by name, as vectors of unique elements.

    dual: v are gradients, as partial derivatives with respect to the unique elements; else changes of the parameters.
    """
    coordinates = {name: symmetric(value.shape[-1]) for name, value in null.items()}
    packed = {name: c.pack_gradient(v[name]) if dual else c.pack(v[name]) for name, c in coordinates.items()}
    direction = {name: c.pack(null[name]) for name, c in coordinates.items()}
    squares = functools.reduce(torch.add, [(n * n).sum(-1) for n in direction.values()])
    share = functools.reduce(torch.add, [(packed[name] * n).sum(-1) for name, n in direction.items()]) / squares
    rest = {name: packed[name] - share.unsqueeze(-1) * n for name, n in direction.items()}
    return {name: c.unpack_gradient(rest[name]) if dual else c.unpack(rest[name]) for name, c in coordinates.items()}
