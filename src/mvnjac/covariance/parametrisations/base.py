"""What covariances given by a dense parametrisation share, and those given by a triangular matrix in particular."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import ArgumentError, NotFiniteError, NotPositiveDefiniteError
from mvnjac.linalg.triangular import twice_symmetric
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.whitening.factor import DenseFactor, Factor


class DenseCovariance(Covariance, DenseParametrisation):
    """A covariance given by the parameters of a dense parametrisation.

    The information and the product with Σ follow from the maps of the parametrisation: F v = adjoint(½ differential(v)) in
    whitened coordinates K, Σ v = L (Lᵀ v).

    Example:
        >>> import mvnjac
        >>> from mvnjac.covariance import DenseCovariance
        >>> issubclass(mvnjac.Precision, DenseCovariance)
        True
    """

    def contains(self, other: Covariance) -> bool:
        return True

    def fisher(self, factor: DenseFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        K = self.differential(factor, v)
        return self.projected(factor, self.adjoint(factor, 0.25 * twice_symmetric(K)))

    def fisher_solve(self, factor: DenseFactor, gradients: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        if not set(self.fields) <= set(gradients):
            return None
        return self.inverse_differential(factor, twice_symmetric(self.inverse_adjoint(factor, gradients)))

    def times(self, factor: DenseFactor, v: Tensor) -> Tensor:
        L = factor.scale_tril
        return (L @ (L.mT @ v.unsqueeze(-1))).squeeze(-1)


class TriangularParametrisation(DenseCovariance):
    """A covariance given by a single lower triangular matrix T with a positive diagonal.

    By default T is the triangle of a `DenseFactor` with the parameter's name: `scale_tril`, `inverse_scale_tril` or
    `precision_tril`.
    """

    def factor(self, d: int) -> Factor:
        return DenseFactor(**{self._parameter(): self._triangle()})

    @classmethod
    def value(cls, name: str, mean: Tensor, factor: DenseFactor) -> Tensor:
        triangle: Tensor = getattr(factor, name)
        return triangle

    def checks(self, factor: Factor) -> Iterator[Check]:
        name = self._parameter()
        yield checks.lower_triangular(name, self.parameters[name])
        yield self._diagonal_check(factor)

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        yield cls(**{cls._parameter(): make.lower(d)})

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        for i, j in ((0, 1), (0, 2), (1, 2)):
            yield cls._bad(make, (i, j), 0.5, ArgumentError, rf"not lower triangular: entry \[{i},{j}\]")
        yield cls._bad(make, (1, 0), float("inf"), NotFiniteError, r"inf at \[1,0\]")
        yield cls._bad(make, (1, 1), float("nan"), NotFiniteError, r"nan at \[1,1\]")
        yield from cls._bad_diagonals(make)

    @classmethod
    def _bad_diagonals(cls, make: Maker) -> Iterator[BadInput]:
        for i, value in ((0, 0.0), (1, -1.0), (2, 0.0)):
            yield cls._bad(make, (i, i), value, NotPositiveDefiniteError, rf"diagonal entry {i} \(variable {i}\) is {value}")

    @classmethod
    def _bad(cls, make: Maker, entry: Sequence[int], value: float, error: type[Exception], says: str) -> BadInput:
        """The identity matrix with one entry replaced, and the error that it must raise."""
        triangle = torch.eye(3, dtype=make.dtype, device="cpu")
        triangle[tuple(entry)] = value
        return BadInput({cls._parameter(): triangle}, error, says)

    @classmethod
    def _parameter(cls) -> str:
        """The name of the parameter."""
        return next(iter(cls.fields))

    def _triangle(self) -> Tensor:
        """The lower triangle of the parameter."""
        return self.parameters[self._parameter()].tril()

    def _diagonal_check(self, factor: Factor) -> Check:
        name = self._parameter()
        return checks.positive(name, self.parameters[name].diagonal(dim1=-2, dim2=-1), what="diagonal entry")
