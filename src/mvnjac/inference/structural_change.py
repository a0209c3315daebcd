"""Structural change: are the parameters the same all the time? Cumulated scores, and the tests on them.

At the estimate the scores sum to 0. Cumulated in time, each in the units of all scores' covariance, they wander like k independent
Brownian bridges if the parameters do not change, and further away if they do (Nyblom 1989; Hansen 1992; Zeileis & Hornik 2007,
*Generalized M-fluctuation tests for parameter instability*; Merkle & Zeileis 2013 for structural equation models).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.allocation import guarded
from mvnjac.errors import ArgumentError, NotIdentifiedError, SingularError
from mvnjac.inference import bridges
from mvnjac.inference.estimating_functions import FEWER, INFORMATIONS, SOLVED, EstimatingFunctions, require
from mvnjac.inference.labels import row_labels
from mvnjac.inference.named import NamedTable, place
from mvnjac.inference.ordering import order_of
from mvnjac.inference.variables import columns_of_variables
from mvnjac.information import Wrt
from mvnjac.jacobian import Jacobian
from mvnjac.words import counted

_NAME = "score_process"
#: a bridge ends at 0; a process that ends further away is no one's
_END = 0.1
TESTS = ("double_max", "nyblom_hansen", "sup_lm")


@dataclass(frozen=True)
class BreakTest:
    """A test of constant parameters.

    Attributes:
        test: "double_max", "nyblom_hansen" or "sup_lm".
        statistic, p_value: under constancy; small is evidence of change.
        components: k, the number of bridges.
        row, date: the last row before the break, if there is one: where the process is furthest away (of Nyblom–Hansen's
            statistic, an average, where the process's square is largest).
        column: whose process it is there ("double_max"); else None.
    """

    test: str
    statistic: float
    p_value: float
    components: int
    row: int
    date: Any
    column: str | None = None


@dataclass(frozen=True, repr=False, eq=False)
class ScoreProcess(NamedTable):
    """Cumulated scores. Made by `score_process`.

    Attributes:
        columns: the k names.
        process: (n + 1, k), in the order of time: 0 before the first row, 0 after the last.
        dates: (n,) the labels of the rows, in that order; row_numbers: (n,) which rows of J they are.
        variables: by variable, the columns that it stands in.
    """

    columns: tuple[str, ...]
    process: Float[Tensor, "m k"]
    dates: tuple[Any, ...]
    row_numbers: tuple[int, ...]
    variables: dict[str, tuple[str, ...]] = field(repr=False)

    @property
    def rows(self) -> int:
        """n."""
        return len(self.dates)

    def double_max(self) -> BreakTest:
        """The largest cumulated score over time and parameters: it says which, and when.

        R's strucchange: `sctest(process, functional = maxBB)`.
        """
        distance = self.process.abs()
        at = int(distance.amax(-1).argmax())
        statistic, k = float(distance.max()), self.process.shape[1]
        column = self.columns[int(distance[at].argmax())]
        return self._test("double_max", statistic, bridges.double_max_p_value(statistic, k), at, column)

    def nyblom_hansen(self) -> BreakTest:
        """The average over time of the squared length: against parameters that drift.

        R's strucchange: `sctest(process, functional = meanL2BB)`, whose p-values are interpolated in a simulated table.
        """
        squares = self.process[1:].square().sum(-1)
        statistic = float(squares.mean())
        p_value = bridges.mean_square_p_value(statistic, self.process.shape[1])
        return self._test("nyblom_hansen", statistic, p_value, 1 + int(squares.argmax()))

    def sup_lm(self, trim: float | tuple[float, float] = 0.15) -> BreakTest:
        """The largest Lagrange multiplier statistic of a single break, over the dates between these fractions of the rows.

        R's strucchange: `sctest(process, functional = supLM(trim))`, whose p-values are Hansen's (1997) approximation. Source:
        Andrews 1993, *Tests for parameter instability and structural change with unknown change point*.

        Args:
            trim: the fraction left out at both ends; or (from, to).
        """
        first, last = trim if isinstance(trim, tuple) else (trim, 1 - trim)
        if not 0 < first < last < 1:
            raise ArgumentError(
                f"sup_lm: trim is {trim!r}; expected a fraction between 0 and 0.5, or (from, to) between 0 and 1."
            )
        statistics = self.lm_statistics()
        low, high = max(int(first * self.rows), 1), min(int(last * self.rows), self.rows - 1)
        if low > high:
            raise NotIdentifiedError(f"sup_lm: no row lies between the fractions {first} and {last} of {self.rows} rows.")
        inside = statistics[low : high + 1]
        at, statistic = low + int(inside.argmax()), float(inside.max())
        return self._test("sup_lm", statistic, bridges.supremum_p_value(statistic, self.process.shape[1], (first, last)), at)

    def lm_statistics(self) -> Float[Tensor, "m"]:
        """(n + 1,) the Lagrange multiplier statistic of a break after each row, |B|²/(t(1 − t)); NaN at both ends."""
        t = torch.arange(self.rows + 1, dtype=self.process.dtype, device=self.process.device) / self.rows
        statistics = self.process.square().sum(-1) / (t * (1 - t))
        statistics[0], statistics[-1] = torch.nan, torch.nan
        return statistics

    def critical_value(self, level: float = 0.05, test: str = "double_max", trim: float = 0.15) -> float:
        """The line that a statistic crosses with this probability under constancy: the largest cumulated score (`double_max`), or
        the Lagrange multiplier statistics ("sup_lm") between the fractions `trim` and 1 − trim of the rows.
        """
        require("critical_value", "test", test, ("double_max", "sup_lm"))
        k = self.process.shape[1]
        if test == "double_max":
            return bridges.critical_value(lambda x: bridges.double_max_p_value(x, k), level)
        return bridges.critical_value(lambda x: bridges.supremum_p_value(x, k, (trim, 1 - trim)), level)

    def select(self, columns: str | Sequence[str]) -> ScoreProcess:
        """The process of some columns: whether these parameters changed, the others being whatever they are."""
        names = [columns] if isinstance(columns, str) else list(columns)
        chosen = [place("select", self.columns, name) for name in names]
        variables = {name: tuple(c for c in own if c in set(names)) for name, own in self.variables.items()}
        kept = {name: own for name, own in variables.items() if own}
        return replace(self, columns=tuple(names), process=self.process[:, chosen], variables=kept)

    def by_variable(self, test: str = "sup_lm") -> dict[str, BreakTest]:
        """A test for each variable, of all columns that it stands in."""
        return self._each(test, self.variables)

    def by_column(self, test: str = "sup_lm") -> dict[str, BreakTest]:
        """A test for each column alone."""
        return self._each(test, {name: (name,) for name in self.columns})

    def _each(self, test: str, groups: dict[str, tuple[str, ...]]) -> dict[str, BreakTest]:
        require("score_process", "test", test, TESTS)
        run: Callable[[ScoreProcess], BreakTest] = getattr(ScoreProcess, test)
        return {name: run(self.select(columns)) for name, columns in groups.items()}

    def _test(self, test: str, statistic: float, p_value: float, at: int, column: str | None = None) -> BreakTest:
        row = max(at - 1, 0)
        return BreakTest(test, statistic, p_value, self.process.shape[1], self.row_numbers[row], self.dates[row], column)

    def to_xarray(self) -> Any:
        """The process as an xarray.DataArray over "row" and "parameter", without the 0 it starts from (needs xarray)."""
        import xarray as xr

        coords = {"row": list(self.dates), "parameter": list(self.columns)}
        return xr.DataArray(self.process[1:].cpu().numpy(), coords=coords, dims=("row", "parameter"), name="score_process")

    def _title(self) -> str:
        return f"cumulated scores of {counted(len(self.columns), 'parameter')} over {counted(self.rows, 'row')}; the largest of each:"

    def _labels(self) -> Sequence[str]:
        return self.columns

    def _table(self) -> dict[str, Any]:
        distance = self.process.abs()
        rows = [max(int(i) - 1, 0) for i in distance.argmax(0)]
        largest = distance.amax(0)
        p_values = [bridges.double_max_p_value(float(x), 1) for x in largest]
        return {"largest": largest, "p_value": p_values, "date": [self.dates[i] for i in rows]}


@guarded(_NAME, FEWER)
def score_process(
    J: Jacobian,
    *,
    wrt: Wrt = None,
    known: Wrt = None,
    dates: Iterable[Any] | None = None,
    information: str = "opg",
    scores_covariance: Float[Tensor, "p p"] | None = None,
    decorrelate: bool = True,
    weights: Float[Tensor, "n"] | None = None,
) -> ScoreProcess:
    """Cumulated scores, decorrelated: W(t) = V^(−½) n^(−½) Σ_{i ≤ nt} sᵢ, with V the covariance of a score.

    Args:
        J: the Jacobian at the estimate by maximum likelihood, of n rows.
        wrt: the columns of the result; they are decorrelated together with all others.
        known: parameters that were not estimated.
        dates: (n,) what the rows are sorted by, and what breaks are named by; None: the rows are in order.
        information: V is a row's share of the "opg" (JᵀJ, as in R's `gefp` by default), "expected" or "observed" information.
        scores_covariance: V itself, in place of it: a HAC estimate, by `scores_covariance`.
        decorrelate: False scales each score by itself only; tests of several columns together are then not valid.
        weights: (n,) of the fit: the scores are w·sᵢ, as in R's estfun of a weighted model, and time goes by rows. The laws hold for
            weights that have nothing to do with time, and for the "opg" or a `scores_covariance`, which square them.

    Returns:
        A `ScoreProcess`: `.double_max()`, `.nyblom_hansen()`, `.sup_lm()`, `.select(columns)`, `.by_variable()`.

    Raises:
        NotIdentifiedError: the scores do not sum to 0: J is not at the estimate.
        SingularError: scores that are linearly dependent, or fewer rows than columns.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac import inference
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> x[120:] *= 3  # the variances change after row 119
        >>> test = inference.score_process(mvnjac.fit(x).gaussian.jacobian(x)).sup_lm()
        >>> test.p_value < 1e-6, abs(test.row - 119) < 5
        (True, True)
    """
    require(_NAME, "information", information, INFORMATIONS)
    if weights is not None and scores_covariance is None and information != "opg":
        raise ArgumentError(f"{_NAME}: with weights the covariance of the scores is no information; take information='opg'.")
    estimating = EstimatingFunctions(_NAME, J, wrt, weights, known)
    estimating.require_memory(5 * estimating.rows * estimating.size + SOLVED * estimating.size**2, False)
    dates = list(dates) if isinstance(dates, Iterator) else dates
    n, labels = estimating.rows, row_labels(_NAME, "dates", dates, estimating.rows)
    order = order_of(_NAME, dates, n, "dates")
    V = estimating.information(information) / n if scores_covariance is None else _valid(scores_covariance, estimating)
    cumulated = estimating.scores()[order.to(V.device)].cumsum(0) / n**0.5
    scaled = cumulated @ _inverse_root(V) if decorrelate else cumulated / V.diagonal().sqrt()
    process = torch.cat([scaled.new_zeros(1, scaled.shape[1]), scaled])[:, estimating.places]
    end = float(process[-1].abs().max())
    if not end < _END:
        raise NotIdentifiedError(
            f"{_NAME}: the scores do not sum to 0: the process of {estimating.asked[0]}, … ends {end:.3g} "
            "away from 0; take the Jacobian at the estimate by maximum likelihood (divisor n), with the weights= of the fit."
        )
    names = tuple(estimating.asked)
    rows = tuple(order.tolist())
    return ScoreProcess(names, process, tuple(labels[i] for i in rows), rows, columns_of_variables(estimating, names))


def _inverse_root(V: Tensor) -> Tensor:
    """V^(−½), symmetric."""
    scale = V.diagonal().abs().sqrt()
    correlation = V / torch.outer(scale, scale)
    smallest = float(torch.linalg.eigvalsh(correlation)[0])
    if not smallest > len(V) * torch.finfo(V.dtype).eps:
        raise SingularError(
            f"{_NAME}: the covariance of the scores is singular: the smallest eigenvalue, each in its own units, is {smallest:.3g}; "
            "there must be more rows than parameters, and no direction in which the density does not change: select other parameters."
        )
    values, Q = torch.linalg.eigh(V)
    return Q @ (Q.mT * values.rsqrt().unsqueeze(-1))


def _valid(V: Tensor, estimating: EstimatingFunctions) -> Tensor:
    if V.shape != (estimating.size, estimating.size):
        raise ArgumentError(
            f"{_NAME}: scores_covariance has shape {tuple(V.shape)}; expected that of all {estimating.size} parameters that were "
            f"estimated, ({estimating.size}, {estimating.size})."
        )
    return V.detach().to(estimating.values)
