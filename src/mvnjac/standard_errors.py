"""Standard errors of estimated parameters: square roots of the diagonal of an inverse information, of the whole model.

A parameter's standard error says how much it varies when all others are estimated, too: so that the information is always that
of the mean and a complete parametrisation, whichever columns are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from mvnjac.batches import batch_shape
from mvnjac.covariance import dense_parameters
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.derivatives import Derivatives
from mvnjac.errors import SingularError
from mvnjac.gaussian import Gaussian
from mvnjac.information import fisher_of, hessian_from, hessian_of
from mvnjac.moments import Moments
from mvnjac.operators import Hessian, Operator
from mvnjac.sample import Sample
from mvnjac.whitened import Sums

#: the most parameters for which an information without a closed inverse is inverted here
MOST_INVERTED = 4000


class StandardErrors:
    """Of rows that come batch by batch: sums of whitened residuals, or mean and scatter, are kept, no row is."""

    def __init__(self, gaussian: Gaussian, columns: Sequence[str]) -> None:
        self._model, self._columns = gaussian._model, list(columns)
        self._dense = isinstance(gaussian.covariance, DenseParametrisation)
        self._sums: Sums | None = None
        self._moments: Moments | None = None

    def add(self, x: Tensor) -> None:
        """More rows."""
        if not self._dense:
            self._moments = Moments.of(x) if self._moments is None else self._moments.merge(Moments.of(x, self._moments.origin))
            return
        derivatives = Derivatives(self._model, self._model.residuals(x), batch_shape(x, 1))
        more = Sums.of([(derivatives.rows, None)], self._model.batch)
        self._sums = more if self._sums is None else self._sums + more

    def expected(self) -> list[float]:
        """From n times the Fisher information; NaN where there are no rows, or no such number."""
        variances: dict[str, float] = {}
        for names in self._complete():
            operator = fisher_of(self._model, names)
            if self._dense or operator.shape[-1] <= MOST_INVERTED:
                variances |= self._by_column(operator, operator.inverse_diagonal())
        return [math.sqrt(v / self._count) if (v := variances.get(name, math.nan)) > 0 else math.nan for name in self._columns]

    def observed(self) -> list[float]:
        """From minus the Hessian at these rows; NaN where it is no information: away from a maximum it can be indefinite, and
        beyond `MOST_INVERTED` parameters it is not inverted."""
        variances: dict[str, float] = {}
        for names in self._complete():
            operator = self._hessian(names)
            if operator.shape[-1] > MOST_INVERTED:
                continue
            try:
                inverse = operator.inverse_diagonal()
            except SingularError:
                continue
            variances |= self._by_column(operator, -inverse)
        return [math.sqrt(v) if (v := variances.get(name, math.nan)) > 0 else math.nan for name in self._columns]

    @property
    def _count(self) -> float:
        if self._sums is not None:
            return float(self._sums.count)
        return 0.0 if self._moments is None else float(self._moments.count)

    def _hessian(self, names: list[str]) -> Hessian:
        if self._sums is not None:
            return hessian_from(self._model, names, self._sums)
        assert self._moments is not None
        sample = Sample.of_moments(self._moments, self._model.namer)  # rows that stand for all
        return hessian_of(self._model, sample.origin + sample.rows, names, sample.weights, True)

    def _by_column(self, operator: Operator, variances: Tensor) -> dict[str, float]:
        """What is known up to a convention only has none."""
        left_out = tuple(f"{name}[" for name in self._model.covariance.unidentified)
        pairs = zip(operator.columns(), variances.tolist(), strict=True)
        return {name: variance for name, variance in pairs if not name.startswith(left_out)}

    def _complete(self) -> list[list[str]]:
        """The complete parametrisations that the columns belong to, for which there are rows. A structure that is no dense
        parametrisation has its own only: as elements of an unrestricted Σ its estimates are not."""
        if not self._count:
            return []
        asked = dict.fromkeys(name.partition("[")[0] for name in self._columns)
        if not self._dense:
            own = {"mean", *self._model.covariance.fields}
            return [self._model.default_names()] if own & set(asked) else []
        owners = dict.fromkeys(dense_parameters()[name] for name in asked if name != "mean")
        if not owners:
            return [["mean"]]
        return [[*([] if owner.canonical else ["mean"]), *owner.fields] for owner in owners]
