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
from mvnjac.derivatives import Derivatives
from mvnjac.errors import SingularError
from mvnjac.gaussian import Gaussian
from mvnjac.information import fisher_of, hessian_from
from mvnjac.whitened import Sums

#: the most parameters for which the observed information is inverted here
MOST_OBSERVED = 4000


class StandardErrors:
    """Of rows that come batch by batch: sums of whitened residuals are kept, no row is."""

    def __init__(self, gaussian: Gaussian, columns: Sequence[str]) -> None:
        self._model, self._columns = gaussian._model, list(columns)
        self._sums: Sums | None = None

    def add(self, x: Tensor) -> None:
        """More rows."""
        x = self._model.flat(x)
        derivatives = Derivatives(self._model, self._model.residuals(x), batch_shape(x, 1))
        more = Sums.of([(derivatives.rows, None)], self._model.batch)
        self._sums = more if self._sums is None else self._sums + more

    def expected(self) -> list[float]:
        """From n times the Fisher information; NaN where there are no rows."""
        count = 0.0 if self._sums is None else float(self._sums.count)
        variances: dict[str, float] = {}
        for names in self._complete():
            operator = fisher_of(self._model, names)
            variances |= dict(zip(operator.columns(), operator.inverse_diagonal().tolist(), strict=True))
        return [math.sqrt(variances[name] / count) if count else math.nan for name in self._columns]

    def observed(self) -> list[float]:
        """From minus the Hessian at these rows; NaN where it is no information: away from a maximum it can be indefinite, and
        beyond `MOST_OBSERVED` parameters it is not inverted."""
        variances: dict[str, float] = {}
        for names in self._complete():
            if self._sums is None:
                break
            operator = hessian_from(self._model, names, self._sums)
            if operator.shape[-1] > MOST_OBSERVED:
                continue
            try:
                inverse = operator.inverse_diagonal()
            except SingularError:
                continue
            variances |= dict(zip(operator.columns(), (-inverse).tolist(), strict=True))
        return [math.sqrt(v) if (v := variances.get(name, math.nan)) > 0 else math.nan for name in self._columns]

    def _complete(self) -> list[list[str]]:
        """The complete parametrisations that the columns belong to."""
        asked = dict.fromkeys(name.partition("[")[0] for name in self._columns)
        owners = dict.fromkeys(dense_parameters()[name] for name in asked if name != "mean")
        if not owners:
            return [["mean"]]
        return [[*([] if owner.canonical else ["mean"]), *owner.fields] for owner in owners]
