"""Standard errors of estimated parameters: square roots of the diagonal of an inverse information, of the whole model.

A parameter's standard error says how much it varies when all others are estimated, too: so that the information is always that
of the mean and a complete parametrisation, whichever columns are asked for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.derivatives import Derivatives
from mvnjac.errors import SingularError
from mvnjac.gaussian import Gaussian
from mvnjac.information import fisher_of, hessian_from, hessian_of
from mvnjac.merging import Bundle, Totals
from mvnjac.model import Model
from mvnjac.moments import Moments
from mvnjac.sample import Sample
from mvnjac.solvers import dense_solution
from mvnjac.whitened import Sums

#: the most parameters for which an information without a closed inverse is inverted here
MOST_INVERTED = 4000


class StandardErrors:
    """Of rows that come batch by batch: sums are kept, no row is."""

    def __init__(self, gaussian: Gaussian, columns: Sequence[str]) -> None:
        self._model, self._columns = gaussian._model, list(columns)
        dense = isinstance(self._model.covariance, DenseParametrisation)
        kind = _Incomplete if self._model.missing else _Dense if dense else _Structured
        self._parts = [kind(self._model, names) for names in complete_parametrisations(self._model, self._columns)]

    def sums(self, derivatives: Derivatives) -> Bundle:
        """What the errors need of some rows; that of all rows is merged. Of complete rows all parametrisations need the same."""
        return Bundle([part.sums(derivatives) for part in (self._parts if self._model.missing else self._parts[:1])])

    def expected(self, sums: Bundle | None) -> list[float]:
        """From the Fisher information of all rows; NaN where there are no rows, or no such number."""
        return self._errors(sums, lambda part, own: part.expected(own))

    def observed(self, sums: Bundle | None) -> list[float]:
        """From minus the Hessian at these rows; NaN where it is no information: away from a maximum it can be indefinite, and
        beyond `MOST_INVERTED` parameters it is not inverted."""
        return self._errors(sums, lambda part, own: part.observed(own))

    def _errors(self, sums: Bundle | None, variances_of: Callable[[Any, Any], Tensor | None]) -> list[float]:
        variances: dict[str, float] = {}
        of_parts = [] if sums is None else sums.parts if self._model.missing else [*sums.parts] * len(self._parts)
        for part, own in zip(self._parts, of_parts, strict=sums is not None):
            try:
                found = variances_of(part, own)
            except SingularError:
                continue
            if found is not None:
                variances |= dict(zip(part.columns, found.tolist(), strict=True))
        left_out = tuple(f"{name}[" for name in self._model.covariance.unidentified)  # what is known up to a convention only
        known = {name: v for name, v in variances.items() if v > 0 and not name.startswith(left_out)}
        return [math.sqrt(known[name]) if name in known else math.nan for name in self._columns]


def complete_parametrisations(model: Model, columns: Sequence[str]) -> list[list[str]]:
    """The complete parametrisations that the columns belong to. A structure that is no dense parametrisation has its own
    only: as elements of an unrestricted Σ its estimates are not."""
    known = sorted(model.parameter_names(), key=len, reverse=True)
    asked = dict.fromkeys(next(name for name in known if column.startswith(name)) for column in columns)
    if not isinstance(model.covariance, DenseParametrisation):
        own = {"mean", *model.covariance.fields}
        return [model.default_names()] if own & set(asked) else []
    owners = dict.fromkeys(dense_parameters()[name] for name in asked if name != "mean")
    if not owners:
        return [model.default_names()]
    return [[*([] if owner.canonical else ["mean"]), *owner.fields] for owner in owners]


class _Information(ABC):
    """The informations by the parameters of one parametrisation, from sums over rows."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        self._model, self._names = model, list(names)
        self._once = fisher_of(model, names)
        self.columns, self._size = self._once.columns(), self._once.shape[-1]

    @abstractmethod
    def sums(self, derivatives: Derivatives) -> Any:
        """What is needed of some rows."""

    @abstractmethod
    def expected(self, sums: Any) -> Tensor | None:
        """The diagonal of the inverse expected information; None where there is none."""

    @abstractmethod
    def observed(self, sums: Any) -> Tensor | None:
        """The diagonal of the inverse observed information; None where there is none."""


class _Dense(_Information):
    """Of complete rows, by a dense parametrisation: n, s and S of the whitened residuals."""

    def sums(self, derivatives: Derivatives) -> Sums:
        return Sums.of([(derivatives.rows, None)], self._model.batch)

    def expected(self, sums: Sums) -> Tensor | None:
        return self._once.inverse_diagonal() / sums.count

    def observed(self, sums: Sums) -> Tensor | None:
        if self._size > MOST_INVERTED:
            return None
        return -hessian_from(self._model, self._names, sums).inverse_diagonal()


class _Structured(_Information):
    """Of complete rows, by a structure's own parameters: mean and scatter, and rows that stand for all of that scatter."""

    def sums(self, derivatives: Derivatives) -> Moments:
        return Moments.of(derivatives.rows.x)

    def expected(self, sums: Moments) -> Tensor | None:
        if self._size > MOST_INVERTED:
            return None
        return self._once.inverse_diagonal() / sums.count

    def observed(self, sums: Moments) -> Tensor | None:
        if self._size > MOST_INVERTED:
            return None
        sample = Sample.of_moments(sums, self._model.naming)
        hessian = hessian_of(self._model, sample.origin + sample.rows, self._names, sample.weights, True)
        return -hessian.inverse_diagonal()


class _Incomplete(_Information):
    """Of rows with missing entries: the two informations themselves."""

    def sums(self, derivatives: Derivatives) -> Totals:
        if self._size > MOST_INVERTED:
            return Totals({})
        x = derivatives.rows.x
        fisher = len(x) * fisher_of(self._model, self._names, ~torch.isnan(x)).matrix()
        return Totals({"expected": fisher, "observed": -hessian_of(self._model, x, self._names, None, True).matrix()})

    def expected(self, sums: Totals) -> Tensor | None:
        return self._inverted(sums["expected"]) if sums.tensors else None

    def observed(self, sums: Totals) -> Tensor | None:
        return self._inverted(sums["observed"]) if sums.tensors else None

    def _inverted(self, A: Tensor) -> Tensor:
        identity = torch.eye(self._size, dtype=A.dtype, device=A.device)
        scale = self._once.matrix().diagonal().sqrt()
        return dense_solution("information", A, identity, self._once.redundant, scale).diagonal()
