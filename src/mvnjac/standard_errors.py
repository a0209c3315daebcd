"""Standard errors of estimated parameters: square roots of the diagonal of an inverse information, of the whole model.

A parameter's standard error says how much it varies when all others are estimated, too: so that the information is always that
of the mean and a complete parametrisation, whichever columns are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mvnjac.batches import batch_shape
from mvnjac.covariance import dense_parameters
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.derivatives import Derivatives
from mvnjac.errors import SingularError
from mvnjac.gaussian import Gaussian
from mvnjac.information import fisher_of, hessian_from, hessian_of
from mvnjac.model import Model
from mvnjac.solvers import dense_solution
from mvnjac.whitened import Sums

#: the most parameters for which an information that is no closed form is inverted here
MOST = 4000


class StandardErrors:
    """Of rows that come batch by batch: sums are kept, no row is."""

    def __init__(self, gaussian: Gaussian, columns: Sequence[str]) -> None:
        self._model, self._columns = gaussian._model, list(columns)
        every = [_Information(self._model, names) for names in self._complete()]
        self._parts = [part for part in every if part.size <= MOST or part.summed]

    def add(self, x: Tensor) -> None:
        """More rows."""
        for part in self._parts:
            part.add(x)

    def expected(self) -> list[float]:
        """From the Fisher information of all rows; NaN where it is singular, or there are no rows."""
        return self._errors(lambda part: part.expected())

    def observed(self) -> list[float]:
        """From minus the Hessian at these rows; NaN where it is no information: away from a maximum it can be indefinite, and
        beyond `MOST` parameters it is not inverted."""
        return self._errors(lambda part: part.observed())

    def _errors(self, variances_of: Callable[[_Information], Tensor]) -> list[float]:
        variances: dict[str, float] = {}
        for part in self._parts:
            try:
                found = variances_of(part)
            except SingularError:
                continue
            variances |= dict(zip(part.columns, found.tolist(), strict=True))
        return [math.sqrt(v) if (v := variances.get(name, math.nan)) > 0 else math.nan for name in self._columns]

    def _complete(self) -> list[list[str]]:
        """The complete parametrisations that the columns belong to."""
        covariance = self._model.covariance
        known = sorted(self._model.parameter_names(), key=len, reverse=True)
        asked = dict.fromkeys(next(name for name in known if column.startswith(name)) for column in self._columns)
        own = [name for name in asked if name in covariance.fields]
        others = dict.fromkeys(dense_parameters()[name] for name in asked if name != "mean" and name not in own)
        groups = [[*([] if owner.canonical else ["mean"]), *owner.fields] for owner in others]
        if own:
            groups.insert(0, self._model.default_names())
        return groups or [["mean"]]


class _Information:
    """Of the parameters of one parametrisation: the sums over rows that its informations follow from.

    summed: of complete rows, by a dense parametrisation, n, s and S are enough; else two p×p matrices are.
    """

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        self._model, self._names = model, list(names)
        once = fisher_of(model, names)
        self._once, self.columns, self.size = once, once.columns(), once.shape[-1]
        own = set(names) <= {"mean", *model.covariance.fields} and not isinstance(model.covariance, DenseParametrisation)
        self.summed = not own and model.missing is None
        self._count = 0
        self._sums: Sums | None = None
        self._fisher: Tensor | None = None
        self._hessian: Tensor | None = None

    def add(self, x: Tensor) -> None:
        self._count += len(x)
        if self.summed:
            derivatives = Derivatives(self._model, self._model.residuals(x), batch_shape(x, 1))
            more = Sums.of([(derivatives.rows, None)], self._model.batch)
            self._sums = more if self._sums is None else self._sums + more
            return
        self._hessian = _plus(self._hessian, hessian_of(self._model, x, self._names, None, True).matrix())
        if self._model.missing is not None:
            self._fisher = _plus(self._fisher, len(x) * fisher_of(self._model, self._names, ~torch.isnan(x)).matrix())

    def expected(self) -> Tensor:
        if self._fisher is not None:
            return self._inverted(self._fisher)
        return self._once.inverse_diagonal() / (self._count or math.nan)

    def observed(self) -> Tensor:
        if self._sums is not None and self.size <= MOST:
            return -hessian_from(self._model, self._names, self._sums).inverse_diagonal()
        return torch.full((self.size,), math.nan) if self._hessian is None else self._inverted(-self._hessian)

    def _inverted(self, A: Tensor) -> Tensor:
        identity = torch.eye(self.size, dtype=A.dtype, device=A.device)
        return dense_solution("information", A, identity, self._once.redundant).diagonal()


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total + more
