"""A covariance that is given by a dense parametrisation: its information by its own parameters follows from the maps that it has."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.linalg.triangular import twice_symmetric
from mvnjac.whitening.factor import DenseFactor


class DenseCovariance(Covariance, DenseParametrisation):
    """A structure over d×d arrays: F v = adjoint(½ differential(v)), in whitened coordinates K; Σ v by its triangle."""

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
