"""Standard errors of estimates from sums over batches of rows: square roots of the diagonal of an inverse information.

The standard error of an estimate depends on the other estimated parameters, so the information is always that of the mean and a
complete parametrisation, for any selection of columns.
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
from mvnjac.parameters.boundary import free_columns
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.statistics.moments import Moments
from mvnjac.statistics.pairwise import NamedSums, SumTuple
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.whitening.sums import WhitenedMoments

Solve = Callable[[Tensor], Tensor]
#: the kinds of standard errors
KINDS = ("expected", "observed", "sandwich")
#: the most parameters for which an information without a closed-form inverse is inverted
MOST_INVERTED = 4000


@dataclass(frozen=True)
class Functions:
    """Columns that are functions of the parameters: their names, and (k, p) their derivatives."""

    columns: list[str]
    gradients: Tensor


class StandardErrors:
    """Standard errors from sums over batches of rows; the rows themselves are not stored.

    kinds: the requested ones of `KINDS`; sums that only others need are not formed.
    """

    def __init__(self, gaussian: Gaussian, columns: Sequence[str], kinds: Sequence[str]) -> None:
        self._model, self._columns, self.kinds = gaussian.model, list(columns), tuple(kinds)
        dense = isinstance(self._model.covariance, DenseParametrisation)
        information = _Incomplete if self._model.arguments.missing else _Dense if dense else _Structured
        complete, functions = complete_parametrisations(self._model, self._columns), self._functions(gaussian)
        if functions is not None:
            complete = [self._model.arguments.default_names()]
        self._parts = [information(self._model, names, self.kinds, gaussian.boundary, functions) for names in complete]

    def _functions(self, gaussian: Gaussian) -> Functions | None:
        """The columns that are functions of the structure's parameters; None if there are none, or too many."""
        prefixes = ("mean[", *(f"{name}[" for name in self._model.covariance.fields))
        others = [name for name in self._columns if not name.startswith(prefixes)]
        if isinstance(self._model.covariance, DenseParametrisation) or not 0 < len(others) <= MOST_INVERTED:
            return None
        selection = gaussian.jacobian(self._model.mean.new_zeros(0, self._model.d)).selection(others, "unique")
        gradients = elements(self._model, self._model.arguments.default_names(), selection.parts)[1]
        return Functions(others, gradients.to(self._model.working))

    def sums(self, derivatives: GeneralEvaluation, informations: bool = True) -> SumTuple:
        """The sums over a batch of rows, which are then merged.

        informations: whether to include their sums; with complete rows these are the same in all parametrisations.
        """
        needed = [] if not informations else self._parts if self._model.arguments.missing else self._parts[:1]
        meats = [part.meat(derivatives) for part in self._parts] if "sandwich" in self.kinds else []
        return SumTuple([SumTuple([part.sums(derivatives) for part in needed]), SumTuple(meats)])

    def errors(self, kind: str, informations: SumTuple | None, meats: SumTuple | None) -> list[float]:
        """The standard error of each column; NaN if there are no rows, or the variance is not available or negative.

        Minus the Hessian is positive semidefinite at a maximum, but can be indefinite elsewhere. With more than `MOST_INVERTED`
        parameters only informations with a closed-form inverse are inverted.
        """
        variances: dict[str, float] = {}
        sums = (
            [] if informations is None else [*informations.parts] * (1 if self._model.arguments.missing else len(self._parts))
        )
        meat_sums = meats.parts if kind == "sandwich" and meats is not None else [None] * len(sums)
        for part, information_sums, meat in zip(self._parts, sums, meat_sums, strict=informations is not None):
            try:
                found = part.variances(kind, information_sums, meat)
            except SingularError:
                continue
            if found is not None:
                variances |= dict(zip(part.columns, found.tolist(), strict=True))
        unidentified = tuple(f"{name}[" for name in self._model.covariance.unidentified)
        valid = {name: v for name, v in variances.items() if v >= 0 and not name.startswith(unidentified)}
        return [math.sqrt(valid[name]) if name in valid else math.nan for name in self._columns]


def complete_parametrisations(model: Model, columns: Sequence[str]) -> list[list[str]]:
    """The complete parametrisations that the columns belong to.

    A structure that is not a dense parametrisation has only its own: its estimates are not those of an unrestricted Σ.
    """
    names = sorted(model.arguments.parameter_names(), key=len, reverse=True)
    requested = dict.fromkeys(next(name for name in names if column.startswith(name)) for column in columns)
    if not isinstance(model.covariance, DenseParametrisation):
        return [model.arguments.default_names()] if {"mean", *model.covariance.fields} & set(requested) else []
    classes = dict.fromkeys(dense_parameters()[name] for name in requested if name != "mean")
    if not classes:
        return [model.arguments.default_names()]
    return [[*([] if cls.canonical else ["mean"]), *cls.fields] for cls in classes]


class _Information(ABC):
    """The informations of one parametrisation, from sums over rows.

    Parameters at a bound have no standard errors; those of the others are conditional on them.
    """

    def __init__(
        self,
        model: Model,
        names: Sequence[str],
        kinds: Sequence[str],
        boundary: Sequence[str] = (),
        functions: Functions | None = None,
    ) -> None:
        self._model, self._names, self._kinds, self._functions = model, list(names), kinds, functions
        self._fisher = fisher_of(model, names)
        self._size = self._fisher.shape[-1]
        columns = self._fisher.columns()
        self.columns = [*columns, *([] if functions is None else functions.columns)]
        self._free = free_columns(columns, boundary, self._fisher.device)

    def _solver(self, A: Callable[[], Tensor], unconditional: Solve) -> Solve:
        """b → A⁻¹ b, conditional on the parameters at a bound if there are any."""
        return unconditional if self._free is None else conditional_solver(A(), self._free, self._fisher.redundant)

    def _variances(self, solve: Solve, meat: Tensor | None = None, diagonal: Callable[[], Tensor] | None = None) -> Tensor:
        """The diagonal of A⁻¹, or with a meat B that of A⁻¹ B A⁻¹: the parameters, then the functions (by the delta method).

        diagonal: that of A⁻¹, if it is available without solving.
        """
        if meat is not None:
            variances = solve(solve(meat).mT).diagonal()
        elif diagonal is not None and self._free is None:
            variances = diagonal()
        else:
            unit = torch.eye(self._size, dtype=self._model.working, device=self._fisher.device)
            variances = solve(unit).diagonal()
        if self._free is not None:
            variances = torch.where(self._free, variances, torch.nan)
        if self._functions is None:
            return variances
        G = self._functions.gradients
        solved = solve(G)
        return torch.cat([variances, (solved * (G if meat is None else solved @ meat)).sum(-1)])

    def _variances_by_hessian(self, hessian: Hessian, meat: Tensor | None) -> Tensor:
        """The variances with A = −H."""
        solve = self._solver(lambda: -hessian.matrix(), lambda b: -hessian.solve(b))
        return self._variances(solve, meat, lambda: -hessian.inverse_diagonal())

    @abstractmethod
    def sums(self, derivatives: GeneralEvaluation) -> Any:
        """The sums over a batch of rows."""

    @abstractmethod
    def expected(self, sums: Any) -> Tensor | None:
        """The diagonal of the inverse expected information; None if it is not available."""

    @abstractmethod
    def observed(self, sums: Any, meat: Tensor | None = None) -> Tensor | None:
        """The diagonal of the inverse observed information A, or with a meat B that of A⁻¹ B A⁻¹; None if not available."""

    def meat(self, derivatives: GeneralEvaluation) -> NamedSums:
        """Σ s sᵀ, s the score of a row."""
        if self._size > MOST_INVERTED:
            return NamedSums({})
        return NamedSums({"meat": derivatives.gram(self._fisher.selection)})

    def variances(self, kind: str, sums: Any, meat: NamedSums | None) -> Tensor | None:
        """The variance of each estimate, for a kind of `KINDS`; NaN for a sandwich if the observed variance is negative."""
        if kind == "expected":
            return self.expected(sums)
        observed = self.observed(sums)
        if kind == "observed" or observed is None or meat is None:
            return observed if kind == "observed" else None
        robust = self.observed(sums, meat["meat"])
        return None if robust is None else torch.where(observed >= 0, robust, torch.nan)


class _Dense(_Information):
    """Complete rows and a dense parametrisation: the sums are n, s and S of the whitened residuals."""

    def sums(self, derivatives: GeneralEvaluation) -> WhitenedMoments:
        return WhitenedMoments.of([(derivatives.rows, None)], self._model.batch)

    def expected(self, sums: WhitenedMoments) -> Tensor | None:
        solve = self._solver(self._fisher.matrix, self._fisher.solve)
        return self._variances(solve, diagonal=self._fisher.inverse_diagonal) / sums.count

    def observed(self, sums: WhitenedMoments, meat: Tensor | None = None) -> Tensor | None:
        if self._size > MOST_INVERTED:
            return None
        return self._variances_by_hessian(hessian_from(self._model, self._names, sums), meat)


class _Structured(_Information):
    """Complete rows and the parameters of a structure: the sums are mean and scatter, which pseudo-observations represent."""

    def sums(self, derivatives: GeneralEvaluation) -> Moments:
        return Moments.of(derivatives.rows.x)

    def expected(self, sums: Moments) -> Tensor | None:
        if self._size > MOST_INVERTED:
            return None
        solve = self._solver(self._fisher.matrix, self._fisher.solve)
        return self._variances(solve, diagonal=self._fisher.inverse_diagonal) / sums.count

    def observed(self, sums: Moments, meat: Tensor | None = None) -> Tensor | None:
        if self._size > MOST_INVERTED:
            return None
        sample = SufficientStatistics.of_moments(sums, self._model.arguments.naming)
        hessian = hessian_of(self._model, sample.origin + sample.rows, self._names, sample.weights, True)
        return self._variances_by_hessian(hessian, meat)


class _Incomplete(_Information):
    """Rows with missing entries: the sums are the requested information matrices."""

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
        def solve(b: Tensor) -> Tensor:
            scale = self._fisher.matrix().diagonal().sqrt()
            return dense_solution("information", A, b, self._fisher.redundant, scale)

        return self._variances(self._solver(lambda: A, solve), meat)
