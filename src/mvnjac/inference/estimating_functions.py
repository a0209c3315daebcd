"""The estimating functions of an estimate: the scores of all parameters that were estimated together, and their information.

Everything in `mvnjac.inference` is made of these: products with the n×p matrix of scores, and solutions with an information.
Neither p×p nor n×p is formed for a few columns out of many.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, ShapeError, UnknownNameError, counted
from mvnjac.gaussian import Gaussian
from mvnjac.inference.standard_errors import complete_parametrisations
from mvnjac.information.functions import Wrt, fisher_of, hessian_of
from mvnjac.information.operators import Operator
from mvnjac.linalg.solvers import conditional_solver, dense_solution
from mvnjac.score.jacobian import Jacobian
from mvnjac.score.row_arguments import require_counts
from mvnjac.tensors import memory

#: what a function of this package says that could have no memory
FEWER = "take fewer rows, fewer variables, or a structure of fewer parameters."
INFORMATIONS = ("expected", "observed", "opg")
#: a matrix of scores of so many columns is formed at once; of more, products with single directions are taken
_COLUMNS = 2000
#: rows of scores that are held at once
_CHUNK_BYTES = 64 * 2**20
#: arrays of that size beside them, measured
_IN_CHUNK = 3
#: measured: p×p matrices held at once by a solution with one of them, and k×p matrices by what is made of such solutions for k columns
SOLVED, PROPAGATED = 8, 5


#: the operators of informations that have been made for a Jacobian, as long as it lives
_OPERATORS: WeakKeyDictionary[Jacobian, dict[tuple[str, tuple[str, ...]], Operator]] = WeakKeyDictionary()


class EstimatingFunctions:
    """n rows of scores w ∂log p by the p parameters of one complete parametrisation, float64, at one estimate.

    Attributes:
        jacobian: the Jacobian, float64, without a graph.
        names: the parameters; columns: the p names of their elements; values: (p,) their values.
        asked: the columns that are wanted, as they were asked for; places: where these are among all.
        rows, size: n and p.
        weights: (n,) or None.
        free: (p,) which columns are not at a bound of the estimate; None where none is. What follows is conditional on those that are.
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
        self.names = self._complete(self.jacobian.columns(wrt), known) if names is None else list(names)
        self.columns = self.jacobian.columns(self.names)
        if not self.columns:
            raise ArgumentError(f"{function}: {', '.join(self.names)} of {counted(self.model.d, 'variable')} has no elements.")
        wrt = self.names if wrt is None else [wrt] if isinstance(wrt, str) else list(wrt)
        self.asked, self.places = self.jacobian.columns(wrt), self.places_of(wrt)
        self.values = self.jacobian.values(self.names)
        self.rows, self.size = self.jacobian.batch[0], len(self.columns)
        self.weights = self.jacobian.evaluation.row_weights(weights)
        if self.weights is not None:
            require_counts(function, self.weights)
        at_bound = [name in self.model.boundary for name in self.columns]
        self.free = ~torch.tensor(at_bound, dtype=torch.bool, device=self.jacobian.device) if any(at_bound) else None

    def _complete(self, asked: Sequence[str], known: Wrt) -> list[str]:
        """All parameters that were estimated together with these."""
        if any(name.startswith("x[") for name in asked):
            raise ArgumentError(f"{self.function}: x is no parameter; leave it out of wrt.")
        complete = complete_parametrisations(self.model, asked)
        if len(complete) != 1:
            raise ArgumentError(
                f"{self.function}: wrt names {', '.join(asked[:3])}, …, which belong to {len(complete)} parametrisations of "
                f"{type(self.model.covariance).__name__}; expected the parameters of one (for functions of them: delta_method)."
            )
        left_out = [known] if isinstance(known, str) else list(known or ())
        unknown = [name for name in left_out if name not in complete[0]]
        if unknown:
            raise UnknownNameError(f"{self.function}: known has {unknown[0]!r}; the parameters are {', '.join(complete[0])}.")
        return [name for name in complete[0] if name not in left_out]

    def require_memory(self, numbers: float, chunks: bool = True) -> None:
        """Refuse what holds so many numbers at once, beside chunks of scores if there are such, if they cannot fit."""
        n, p = self.rows, self.size
        what = f"{self.function}: scores of {n:,} rows by {p:,} parameters and what is made of them"
        needed = 8.0 * numbers + (_IN_CHUNK * min(_CHUNK_BYTES, 8 * n * p) if chunks else 0)
        memory.require_bytes(what, needed, self.jacobian.device, FEWER)

    # --- scores --------------------------------------------------------------------------------------------------

    def scores(self, rows: slice = slice(None)) -> Tensor:
        """(n, p) those of some rows."""
        whole = len(range(self.rows)[rows]) == self.rows  # what has been computed of all rows is used again
        scores = (self.jacobian if whole else self.jacobian[rows]).matrix(self.names)
        return scores if self.weights is None else scores * self.weights[rows].unsqueeze(-1)

    def products(self, directions: Tensor) -> Tensor:
        """(n, k) the scores times directions (k, p)."""
        if self.size <= max(_COLUMNS, 2 * len(directions)):
            step = max(1, _CHUNK_BYTES // (8 * self.size))
            return torch.cat([self.scores(slice(at, at + step)) @ directions.mT for at in range(0, self.rows, step)])
        result = torch.stack([self.jacobian.matvec(v, self.names) for v in directions], -1)
        return result if self.weights is None else result * self.weights.unsqueeze(-1)

    def gram(self) -> Tensor:
        """(p, p) the sum of the outer products of the scores."""
        return self.jacobian.gram(None if self.weights is None else self.weights.square(), self.names)

    def total(self) -> Tensor:
        """(p,) the sum of the scores."""
        each = torch.ones(self.rows, dtype=torch.float64, device=self.jacobian.device) if self.weights is None else self.weights
        return self.jacobian.rmatvec(each, self.names)

    # --- informations, of all rows together ----------------------------------------------------------------------

    def solve(self, information: str, b: Tensor) -> Tensor:
        """I⁻¹ b for b (k, p); conditional on what is at a bound, which has 0."""
        if self.free is not None:
            self.require_memory(SOLVED * self.size**2)
            redundant = self.model.covariance.redundant_among(self.names)
            return conditional_solver(self.information(information), self.free, redundant)(b)
        if information == "opg":
            redundant = self.model.covariance.redundant_among(self.names)
            self.require_memory(SOLVED * self.size**2)
            return dense_solution(f"{self.function}: JᵀJ", self.gram(), b, redundant)
        operator, factor = self._operator(information)
        step = max(1, _CHUNK_BYTES // (8 * self.size))  # a closed form holds d×d for each
        return torch.cat([operator.solve(b[at : at + step]) for at in range(0, len(b), step)]) / factor

    def information(self, information: str) -> Tensor:
        """(p, p)."""
        if information == "opg":
            return self.gram()
        operator, factor = self._operator(information)
        return factor * operator.matrix()

    def _operator(self, information: str) -> tuple[Operator, float]:
        """An operator and the factor that makes it the information."""
        require(self.function, "information", information, INFORMATIONS)
        return self._expected if information == "expected" else self._observed

    def _kept(self, information: str, make: Callable[[], Operator]) -> Operator:
        """The operator of these parameters, which all that is computed from one Jacobian shares: its factor is as large as it."""
        if self.weights is not None:
            return make()
        kept = _OPERATORS.setdefault(self.jacobian, {})
        key = information, tuple(self.names)
        if key not in kept:
            kept[key] = make()
        return kept[key]

    @functools.cached_property
    def _expected(self) -> tuple[Operator, float]:
        x, count = self.x, float(self.rows) if self.weights is None else float(self.weights.sum())
        if self.model.arguments.missing is None:
            if self.weights is not None and self.model.arguments.mean_follows:
                raise ArgumentError(
                    f"{self.function}: there is no expected information with weights where the mean is a function of parameters; "
                    "take the observed one."
                )
            return fisher_of(self.model, self.names), count
        make = functools.partial(fisher_of, self.model, self.names, ~x.isnan(), self.weights)
        return self._kept("expected", make), count

    @functools.cached_property
    def _observed(self) -> tuple[Operator, float]:
        make = functools.partial(hessian_of, self.model, self.x, self.names, self.weights, True)
        return self._kept("observed", make), -1.0

    @property
    def x(self) -> Tensor:
        """(n, d) the observations."""
        return self.jacobian.evaluation.rows.x

    # --- columns -------------------------------------------------------------------------------------------------

    def unit_rows(self, places: Sequence[int]) -> Tensor:
        """(k, p) what picks these columns."""
        picked = torch.zeros(len(places), self.size, dtype=torch.float64, device=self.jacobian.device)
        picked[range(len(places)), list(places)] = 1
        return picked

    def places_of(self, wrt: Wrt) -> list[int]:
        """Where the columns of wrt are among all."""
        first = {part.name: at.start for part, at in self.jacobian.selection(self.names, "unique").slices()}
        places: list[int] = []
        for part in self.jacobian.selection(wrt, "unique").parts:
            if part.name not in first:
                raise ArgumentError(f"{self.function}: wrt has {part.name!r}, which is said to be known.")
            places += [first[part.name] + i for i in (range(part.size) if part.index is None else part.index)]
        return places

    def identified(self) -> Tensor:
        """(p,) which columns are known by more than a convention, and are not at a bound."""
        left_out = tuple(f"{name}[" for name in self.model.covariance.unidentified)
        known = [not (left_out and name.startswith(left_out)) for name in self.columns]
        identified = torch.tensor(known, dtype=torch.bool, device=self.jacobian.device)
        return identified if self.free is None else identified & self.free


def require(function: str, argument: str, got: str, known: Sequence[str]) -> None:
    """One of the words there are."""
    if got not in known:
        raise ArgumentError(f"{function}: {argument} is {got!r}; expected one of {', '.join(map(repr, known))}.")


def _float64(function: str, J: Jacobian) -> Jacobian:
    if not isinstance(J, Jacobian):
        raise ArgumentError(f"{function}: got a {type(J).__name__}; pass a Jacobian, such as fit(x).gaussian.jacobian(x).")
    model = J.model
    if len(J.batch) != 1 or not J.batch[0] or model.reduced_batch:
        raise ShapeError(f"{function}: J has the leading dimensions {tuple(J.batch)}; it takes n ≥ 1 rows (n,) of one density.")
    if J.dtype is torch.float64 and not J.evaluation.rows.is_traced:
        return J
    mean = None if model.arguments.mean_follows else model.mean.detach().double().reshape(model.arguments.event)
    covariance = model.covariance.map(lambda t: t.detach().double())
    gaussian = Gaussian(mean, covariance, names=model.arguments.naming.argument, missing=model.arguments.missing)
    gaussian.boundary = model.boundary
    return gaussian.jacobian(J.evaluation.rows.x.detach().double().reshape(-1, *model.arguments.event))
