"""Standard errors of estimated parameters: square roots of the diagonal of an inverse information, of the whole model.

A parameter's standard error says how much it varies when all others are estimated, too: so that the information is always that
of the mean and a complete parametrisation, whichever columns are asked for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import SingularError
from mvnjac.gaussian import Gaussian
from mvnjac.information.functions import fisher_of, hessian_from, hessian_of
from mvnjac.information.operators import Hessian
from mvnjac.linalg.solvers import conditional_solver, dense_solution
from mvnjac.model.elements import elements
from mvnjac.model.model import Model
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.statistics.moments import Moments
from mvnjac.statistics.pairwise import NamedSums, SumTuple
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.whitening.sums import WhitenedMoments

Solve = Callable[[Tensor], Tensor]
#: the informations and covariances of scores that errors can be taken from, of rows that come batch by batch
KINDS = ("expected", "observed", "sandwich")
#: the most parameters for which an information without a closed inverse is inverted here
MOST_INVERTED = 4000


@dataclass(frozen=True)
class Functions:
    """Columns that are functions of the parameters: their names, and (k, p) their derivatives by the parameters."""

    columns: list[str]
    gradients: Tensor


class StandardErrors:
    """Of rows that come batch by batch: sums are kept, no row is.

    kinds: those of `KINDS` that are wanted; what the others need is not formed.
    """

    def __init__(self, gaussian: Gaussian, columns: Sequence[str], kinds: Sequence[str]) -> None:
        self._model, self._columns, self.kinds = gaussian.model, list(columns), tuple(kinds)
        dense = isinstance(self._model.covariance, DenseParametrisation)
        kind = _Incomplete if self._model.arguments.missing else _Dense if dense else _Structured
        complete, functions = complete_parametrisations(self._model, self._columns), self._functions(gaussian)
        if functions is not None:
            complete = [self._model.arguments.default_names()]
        self._parts = [kind(self._model, names, self.kinds, gaussian.boundary, functions) for names in complete]

    def _functions(self, gaussian: Gaussian) -> Functions | None:
        """The columns that are functions of a structure's own parameters, unless there are too many of them."""
        own = tuple(f"{name}[" for name in self._model.covariance.fields)
        others = [name for name in self._columns if not name.startswith(("mean[", *own)) and name not in own]
        if isinstance(self._model.covariance, DenseParametrisation) or not 0 < len(others) <= MOST_INVERTED:
            return None
        selection = gaussian.jacobian(self._model.mean.new_zeros(0, self._model.d)).selection(others, "unique")
        gradients = elements(self._model, self._model.arguments.default_names(), selection.parts)[1]
        return Functions(others, gradients.to(self._model.working))

    def sums(self, derivatives: GeneralEvaluation, informations: bool = True) -> SumTuple:
        """What the errors need of some rows; that of all rows is merged.

        informations: whether the sums that the informations follow from are among them; of complete rows all parametrisations need
            the same.
        """
        needed = [] if not informations else self._parts if self._model.arguments.missing else self._parts[:1]
        meats = [part.meat(derivatives) for part in self._parts] if "sandwich" in self.kinds else []
        return SumTuple([SumTuple([part.sums(derivatives) for part in needed]), SumTuple(meats)])

    def errors(self, kind: str, informations: SumTuple | None, meats: SumTuple | None) -> list[float]:
        """One a column, by the kind of `KINDS`; NaN where there are no rows, or no such number.

        Minus the Hessian is an information at a maximum; elsewhere it can be indefinite. Beyond `MOST_INVERTED` parameters no
        information without a closed inverse is inverted.
        """
        variances: dict[str, float] = {}
        of_parts = (
            []
            if informations is None
            else informations.parts
            if self._model.arguments.missing
            else [*informations.parts] * len(self._parts)
        )
        of_meats = meats.parts if kind == "sandwich" and meats is not None else [None] * len(of_parts)
        for part, own, meat in zip(self._parts, of_parts, of_meats, strict=informations is not None):
            try:
                found = part.variances(kind, own, meat)
            except SingularError:
                continue
            if found is not None:
                variances |= dict(zip(part.columns, found.tolist(), strict=True))
        left_out = tuple(f"{name}[" for name in self._model.covariance.unidentified)  # what is known up to a convention only
        known = {name: v for name, v in variances.items() if v >= 0 and not name.startswith(left_out)}
        return [math.sqrt(known[name]) if name in known else math.nan for name in self._columns]


def complete_parametrisations(model: Model, columns: Sequence[str]) -> list[list[str]]:
    """The complete parametrisations that the columns belong to. A structure that is no dense parametrisation has its own
    only: as elements of an unrestricted Σ its estimates are not."""
    known = sorted(model.arguments.parameter_names(), key=len, reverse=True)
    asked = dict.fromkeys(next(name for name in known if column.startswith(name)) for column in columns)
    if not isinstance(model.covariance, DenseParametrisation):
        own = {"mean", *model.covariance.fields}
        return [model.arguments.default_names()] if own & set(asked) else []
    owners = dict.fromkeys(dense_parameters()[name] for name in asked if name != "mean")
    if not owners:
        return [model.arguments.default_names()]
    return [[*([] if owner.canonical else ["mean"]), *owner.fields] for owner in owners]


class _Information(ABC):
    """The informations by the parameters of one parametrisation, from sums over rows. Of parameters at a bound there are no errors;
    those of the others are conditional on them."""

    def __init__(
        self,
        model: Model,
        names: Sequence[str],
        kinds: Sequence[str],
        boundary: Sequence[str] = (),
        functions: Functions | None = None,
    ) -> None:
        self._model, self._names, self._kinds, self._functions = model, list(names), kinds, functions
        self._once = fisher_of(model, names)
        self._size = self._once.shape[-1]
        own = self._once.columns()
        self.columns = [*own, *([] if functions is None else functions.columns)]
        bound = [column in boundary for column in own]
        self._free = ~torch.tensor(bound, dtype=torch.bool, device=self._once.device) if any(bound) else None

    def _solver(self, A: Callable[[], Tensor], otherwise: Solve) -> Solve:
        """b → A⁻¹ b: conditional on what stands at a bound, or, where nothing does, otherwise."""
        return otherwise if self._free is None else conditional_solver(A(), self._free, self._once.redundant)

    def _variances(self, solve: Solve, meat: Tensor | None = None, diagonal: Callable[[], Tensor] | None = None) -> Tensor:
        """The diagonal of A⁻¹, or with a meat B of A⁻¹ B A⁻¹, of the parameters and after them of the functions (the delta method).

        diagonal: that of A⁻¹, where it is known without solving.
        """
        if meat is not None:
            variances = solve(solve(meat).mT).diagonal()
        elif diagonal is not None and self._free is None:
            variances = diagonal()
        else:
            unit = torch.eye(self._size, dtype=self._model.working, device=self._once.device)
            variances = solve(unit).diagonal()
        if self._free is not None:
            variances = torch.where(self._free, variances, torch.nan)
        if self._functions is None:
            return variances
        G = self._functions.gradients
        solved = solve(G)
        return torch.cat([variances, (solved * (G if meat is None else solved @ meat)).sum(-1)])

    def _of_hessian(self, hessian: Hessian, meat: Tensor | None) -> Tensor:
        """With −H as A."""
        solve = self._solver(lambda: -hessian.matrix(), lambda b: -hessian.solve(b))
        return self._variances(solve, meat, lambda: -hessian.inverse_diagonal())

    @abstractmethod
    def sums(self, derivatives: GeneralEvaluation) -> Any:
        """What is needed of some rows."""

    @abstractmethod
    def expected(self, sums: Any) -> Tensor | None:
        """The diagonal of the inverse expected information; None where there is none."""

    @abstractmethod
    def observed(self, sums: Any, meat: Tensor | None = None) -> Tensor | None:
        """The diagonal of the inverse observed information A, or with a meat B of A⁻¹ B A⁻¹; None where there is none."""

    def meat(self, derivatives: GeneralEvaluation) -> NamedSums:
        """Σ s sᵀ of some rows' scores."""
        if self._size > MOST_INVERTED:
            return NamedSums({})
        return NamedSums({"meat": derivatives.gram(self._once.selection)})

    def variances(self, kind: str, sums: Any, meat: NamedSums | None) -> Tensor | None:
        """The variance of each estimate, by the kind of `KINDS`."""
        if kind == "expected":
            return self.expected(sums)
        observed = self.observed(sums)
        if kind == "observed" or observed is None or meat is None:
            return observed if kind == "observed" else None
        robust = self.observed(sums, meat["meat"])
        return (
            None if robust is None else torch.where(observed >= 0, robust, torch.nan)
        )  # away from a maximum there is no such thing


class _Dense(_Information):
    """Of complete rows, by a dense parametrisation: n, s and S of the whitened residuals."""

    def sums(self, derivatives: GeneralEvaluation) -> WhitenedMoments:
        return WhitenedMoments.of([(derivatives.rows, None)], self._model.batch)

    def expected(self, sums: WhitenedMoments) -> Tensor | None:
        solve = self._solver(self._once.matrix, self._once.solve)
        return self._variances(solve, diagonal=self._once.inverse_diagonal) / sums.count

    def observed(self, sums: WhitenedMoments, meat: Tensor | None = None) -> Tensor | None:
        if self._size > MOST_INVERTED:
            return None
        return self._of_hessian(hessian_from(self._model, self._names, sums), meat)


class _Structured(_Information):
    """Of complete rows, by a structure's own parameters: mean and scatter, and rows that stand for all of that scatter."""

    def sums(self, derivatives: GeneralEvaluation) -> Moments:
        return Moments.of(derivatives.rows.x)

    def expected(self, sums: Moments) -> Tensor | None:
        if self._size > MOST_INVERTED:
            return None
        solve = self._solver(self._once.matrix, self._once.solve)
        return self._variances(solve, diagonal=self._once.inverse_diagonal) / sums.count

    def observed(self, sums: Moments, meat: Tensor | None = None) -> Tensor | None:
        if self._size > MOST_INVERTED:
            return None
        sample = SufficientStatistics.of_moments(sums, self._model.arguments.naming)
        hessian = hessian_of(self._model, sample.origin + sample.rows, self._names, sample.weights, True)
        return self._of_hessian(hessian, meat)


class _Incomplete(_Information):
    """Of rows with missing entries: the informations themselves, those that are wanted."""

    def sums(self, derivatives: GeneralEvaluation) -> NamedSums:
        if self._size > MOST_INVERTED:
            return NamedSums({})
        x, found = derivatives.rows.x, dict[str, Tensor]()
        if "expected" in self._kinds:
            found["expected"] = len(x) * fisher_of(self._model, self._names, ~torch.isnan(x)).matrix()
        if not {"observed", "sandwich"}.isdisjoint(self._kinds):
            found["observed"] = -hessian_of(self._model, x, self._names, None, True).matrix()
        return NamedSums(found)

    def expected(self, sums: NamedSums) -> Tensor | None:
        return self._inverted(sums["expected"], None) if sums.tensors else None

    def observed(self, sums: NamedSums, meat: Tensor | None = None) -> Tensor | None:
        if not sums.tensors:
            return None
        return self._inverted(sums["observed"], meat)

    def _inverted(self, A: Tensor, meat: Tensor | None) -> Tensor:
        return self._variances(self._solver(lambda: A, lambda b: self._solution(A, b)), meat)

    def _solution(self, A: Tensor, b: Tensor) -> Tensor:
        scale = self._once.matrix().diagonal().sqrt()
        return dense_solution("information", A, b, self._once.redundant, scale)
