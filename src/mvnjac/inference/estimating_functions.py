"""The scores of all jointly estimated parameters at the estimate, and their information: the basis of this package.

Its functions are products with the n×p matrix of scores, and solutions with an information matrix. For a few columns out of
many neither the n×p nor, where the inverse has a closed form, the p×p matrix is formed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, ShapeError, UnknownNameError, counted
from mvnjac.gaussian import Gaussian
from mvnjac.inference.standard_errors import complete_parametrisations
from mvnjac.information.functions import Wrt, fisher_of, hessian_of
from mvnjac.information.operators import Operator
from mvnjac.linalg.solvers import conditional_solver, dense_solution
from mvnjac.parameters.boundary import free_columns
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.score.jacobian import Jacobian
from mvnjac.score.row_arguments import require_counts
from mvnjac.tensors import memory

#: the advice in the error message if the memory does not suffice
MEMORY_ADVICE = "take fewer rows, fewer variables, or a structure of fewer parameters."
INFORMATIONS = ("expected", "observed", "opg")
#: up to this many columns the matrix of scores is formed in chunks; beyond, products with single directions are computed
_MAX_COLUMNS = 2000
#: size of a chunk of an array with one row per observation, or per right-hand side
_CHUNK_BYTES = 64 * 2**20
#: measured peak memory in chunks of scores, in p×p matrices for a solution, and in k×p matrices for results for k columns
_CHUNK_ARRAYS, SOLVE_ARRAYS, RESULT_ARRAYS = 3, 8, 5

#: information operators of each Jacobian that is in use, by kind and parameters
_OPERATORS: WeakKeyDictionary[Jacobian, dict[tuple[str, tuple[str, ...]], Operator]] = WeakKeyDictionary()


class EstimatingFunctions:
    """The scores w ∂log p of n rows with respect to the p parameters of one complete parametrisation, float64, at the estimate.

    Attributes:
        jacobian: the Jacobian, float64, without an autograd graph.
        names: the parameters.
        columns: the p names of their elements.
        values: (p,) their values.
        requested: the columns of `wrt`.
        positions: their positions among all columns.
        rows, size: n and p.
        weights: (n,) or None.
        free: (p,) which columns are not at a bound; None if none is. All results are conditional on the columns at a bound.
    """

    def __init__(
        self,
        function: str,
        J: Jacobian,
        wrt: Wrt,
        weights: Tensor | None = None,
        known: Wrt = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.function, self.jacobian = function, _float64(function, J)
        self.model = self.jacobian.model
        self.names = self._estimated_names(self.jacobian.columns(wrt), known) if names is None else list(names)
        self.columns = self.jacobian.columns(self.names)
        if not self.columns:
            raise ArgumentError(
                f"{function}: {', '.join(self.names)} of {counted(self.model.d, 'variable')} has no elements; choose other "
                "parameters."
            )
        wrt = self.names if wrt is None else [wrt] if isinstance(wrt, str) else list(wrt)
        self.requested, self.positions = self.jacobian.columns(wrt), self.positions_of(wrt)
        self.values = self.jacobian.values(self.names)
        self.rows, self.size = self.jacobian.batch[0], len(self.columns)
        self.weights = self.jacobian.evaluation.row_weights(weights)
        if self.weights is not None:
            require_counts(function, self.weights)
        self.free = free_columns(self.columns, self.model.boundary, self.jacobian.device)

    def _estimated_names(self, requested: Sequence[str], known: Wrt) -> list[str]:
        """The parameters of the complete parametrisation that the requested columns belong to, without those that are known."""
        if any(name.startswith("x[") for name in requested):
            raise ArgumentError(f"{self.function}: wrt has x, which is not a parameter; leave it out.")
        complete = complete_parametrisations(self.model, requested)
        if len(complete) != 1:
            raise ArgumentError(
                f"{self.function}: wrt names {', '.join(requested[:3])}, …, which belong to {len(complete)} parametrisations "
                f"of {type(self.model.covariance).__name__}; expected the parameters of one (for functions of them use "
                "delta_method)."
            )
        excluded = [known] if isinstance(known, str) else list(known or ())
        unknown = [name for name in excluded if name not in complete[0]]
        if unknown:
            raise UnknownNameError(f"{self.function}: known has {unknown[0]!r}; the parameters are {', '.join(complete[0])}.")
        return [name for name in complete[0] if name not in excluded]

    def require_memory(self, numbers: float, chunks: bool = True) -> None:
        """Raise if this many numbers, and with `chunks` also chunks of scores, do not fit into memory."""
        n, p = self.rows, self.size
        what = f"{self.function}: scores of {n:,} rows by {p:,} parameters and results computed from them"
        needed = 8.0 * numbers + (_CHUNK_ARRAYS * min(_CHUNK_BYTES, 8 * n * p) if chunks else 0)
        memory.require_bytes(what, needed, self.jacobian.device, MEMORY_ADVICE)

    # --- scores --------------------------------------------------------------------------------------------------

    def scores(self, rows: slice = slice(None)) -> Tensor:
        """(n, p) the scores of some rows."""
        all_rows = len(range(self.rows)[rows]) == self.rows  # then results that the Jacobian has cached are used
        scores = (self.jacobian if all_rows else self.jacobian[rows]).matrix(self.names)
        return scores if self.weights is None else scores * self.weights[rows].unsqueeze(-1)

    def products(self, directions: Tensor) -> Tensor:
        """(n, k) the scores times directions (k, p)."""
        if self.size <= max(_MAX_COLUMNS, 2 * len(directions)):
            return torch.cat([self.scores(rows) @ directions.mT for rows in chunks(self.rows, self.size)])
        result = torch.stack([self.jacobian.matvec(v, self.names) for v in directions], -1)
        return result if self.weights is None else result * self.weights.unsqueeze(-1)

    def gram(self) -> Tensor:
        """(p, p) the sum of the outer products of the scores."""
        return self.jacobian.gram(None if self.weights is None else self.weights.square(), self.names)

    def total(self) -> Tensor:
        """(p,) the sum of the scores."""
        return self.jacobian.rmatvec(self.row_weights, self.names)

    @property
    def row_weights(self) -> Tensor:
        """(n,) the weights, or ones."""
        if self.weights is not None:
            return self.weights
        return torch.ones(self.rows, dtype=torch.float64, device=self.jacobian.device)

    # --- the information of all rows -----------------------------------------------------------------------------

    def solve(self, information: str, b: Tensor) -> Tensor:
        """I⁻¹ b for b (k, p), conditional on the columns at a bound, whose entries are 0."""
        redundant = self.model.covariance.redundant_among(self.names)
        if self.free is not None:
            self.require_memory(SOLVE_ARRAYS * self.size**2)
            return conditional_solver(self.information(information), self.free, redundant)(b)
        if information == "opg":
            self.require_memory(SOLVE_ARRAYS * self.size**2)
            return dense_solution(f"{self.function}: JᵀJ", self.gram(), b, redundant)
        operator, factor = self._operator(information)
        # a closed form holds a d×d matrix for each right-hand side
        return torch.cat([operator.solve(b[some]) for some in chunks(len(b), self.size)]) / factor

    def information(self, information: str) -> Tensor:
        """(p, p) the information matrix."""
        if information == "opg":
            return self.gram()
        operator, factor = self._operator(information)
        return factor * operator.matrix()

    def _operator(self, information: str) -> tuple[Operator, float]:
        """An operator, and the factor that turns it into the information."""
        require(self.function, "information", information, INFORMATIONS)
        return self._expected if information == "expected" else self._observed

    def _cached_operator(self, information: str, make: Callable[[], Operator]) -> Operator:
        """The operator of these parameters, which all computations with one Jacobian share since its factorisation is large."""
        if self.weights is not None:
            return make()
        operators, key = _OPERATORS.setdefault(self.jacobian, {}), (information, tuple(self.names))
        if key not in operators:
            operators[key] = make()
        return operators[key]

    @functools.cached_property
    def _expected(self) -> tuple[Operator, float]:
        count = float(self.rows) if self.weights is None else float(self.weights.sum())
        if self.model.arguments.missing is None:
            if self.weights is not None and self.model.arguments.mean_follows:
                raise ArgumentError(
                    f"{self.function}: with weights, the expected information is not available if the mean is a function of "
                    "the parameters; use information='observed'."
                )
            return fisher_of(self.model, self.names), count
        make = functools.partial(fisher_of, self.model, self.names, ~self.x.isnan(), self.weights)
        return self._cached_operator("expected", make), count

    @functools.cached_property
    def _observed(self) -> tuple[Operator, float]:
        make = functools.partial(hessian_of, self.model, self.x, self.names, self.weights, True)
        return self._cached_operator("observed", make), -1.0

    @property
    def x(self) -> Tensor:
        """(n, d) the observations."""
        return self.jacobian.evaluation.rows.x

    # --- columns -------------------------------------------------------------------------------------------------

    def unit_rows(self, positions: Sequence[int]) -> Tensor:
        """(k, p) unit vectors that select these columns."""
        selected = torch.zeros(len(positions), self.size, dtype=torch.float64, device=self.jacobian.device)
        selected[range(len(positions)), list(positions)] = 1
        return selected

    def positions_of(self, wrt: Wrt) -> list[int]:
        """The positions of the columns of wrt among all columns."""
        first = {part.name: at.start for part, at in self.jacobian.selection(self.names, "unique").slices()}
        positions: list[int] = []
        for part in self.jacobian.selection(wrt, "unique").parts:
            if part.name not in first:
                raise ArgumentError(
                    f"{self.function}: wrt has {part.name!r}, which is among the known parameters; leave it out."
                )
            positions += [first[part.name] + i for i in (range(part.size) if part.index is None else part.index)]
        return positions

    def columns_by_variable(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """For each variable, those of the columns that are about it, such as its mean, variance and covariances.

        Columns that belong to no variable are left out.
        """
        found: dict[str, list[str]] = {}
        for part in self.jacobian.selection(names, "unique").parts:
            coordinates, variables = part.coordinates, self.model.arguments.labels_of(part.name)
            indices = coordinates.indices()
            selected = indices if part.index is None else [indices[i] for i in part.index]
            labels = part.labels or [part.name + label for label in coordinates.labels(variables)]
            for index, label in zip(selected, labels, strict=True):
                for variable in dict.fromkeys(coordinates.variables(index)):
                    found.setdefault(str(variable) if variables is None else variables[variable], []).append(label)
        return {name: tuple(columns) for name, columns in found.items()}

    def identified(self) -> Tensor:
        """(p,) which columns are identified by more than a convention, and are not at a bound."""
        unidentified = tuple(f"{name}[" for name in self.model.covariance.unidentified)
        flags = [not (unidentified and name.startswith(unidentified)) for name in self.columns]
        identified = torch.tensor(flags, dtype=torch.bool, device=self.jacobian.device)
        return identified if self.free is None else identified & self.free


def chunks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows of an array (rows, columns) in chunks of limited size; at least one."""
    step = max(1, _CHUNK_BYTES // (8 * columns))
    for first in range(0, max(rows, 1), step):
        yield slice(first, first + step)


def require(function: str, argument: str, value: str, options: Sequence[str]) -> None:
    """Raise unless the value is one of the options."""
    if value not in options:
        raise ArgumentError(f"{function}: {argument} is {value!r}; expected one of {', '.join(map(repr, options))}.")


def _float64(function: str, J: Jacobian) -> Jacobian:
    if not isinstance(J, Jacobian):
        raise ArgumentError(f"{function}: J is a {type(J).__name__}; pass a Jacobian, such as fit(x).gaussian.jacobian(x).")
    model = J.model
    if len(J.batch) != 1 or not J.batch[0] or model.reduced_batch:
        raise ShapeError(f"{function}: J has the leading dimensions {tuple(J.batch)}; expected n ≥ 1 rows (n,) of one density.")
    if J.dtype is torch.float64 and not J.evaluation.rows.is_traced:
        return J
    mean = None if model.arguments.mean_follows else model.mean.detach().double().reshape(model.arguments.event)
    covariance = model.covariance.map(lambda t: t.detach().double())
    gaussian = Gaussian(mean, covariance, names=model.arguments.naming.argument, missing=model.arguments.missing)
    gaussian.boundary = model.boundary
    x = J.evaluation.rows.x.detach().double().reshape(-1, *model.arguments.event)
    return Jacobian(GeneralEvaluation.at(gaussian.model, x), J.row_index)
