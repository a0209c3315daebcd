"""Score tests (Rao; Lagrange multiplier tests): would the likelihood rise if constraints were lifted? They need the restricted
estimate only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mvnjac.covariance import dense_parameters
from mvnjac.errors import ArgumentError, NeverRejectsWarning, NotIdentifiedError, SingularError, warn
from mvnjac.inference.estimating_functions import FEWER, EstimatingFunctions, require
from mvnjac.inference.named_table import NamedTable, place
from mvnjac.inference.tangents import tangents
from mvnjac.information.functions import Wrt
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.tail_probabilities import chi_squared_p_value
from mvnjac.tensors.allocation import guarded

_NAME = "score_test"
#: the restricted estimate satisfies its constraints, and is a maximum among them, to so much of a standard error
_ENOUGH = 1e-3
#: a test that cannot reject at this level is no test
_LEVEL = 0.05
#: an eigenvalue of a correlation matrix below this, times its size, is 0
_SINGULAR = 1e-14


@dataclass(frozen=True, repr=False)
class ScoreTest(NamedTable):
    """A score test of constraints. Made by `score_test`.

    Attributes:
        statistic, df, p_value: of all constraints that are lifted together.
        constraints: what each says; statistics, p_values: of lifting each alone (one degree of freedom), the others kept.
        expected_changes: by how much what is 0 by each constraint would change, about, if it alone were lifted: the parameter itself
            (R: lavaan's `modindices`, epc), or of two that are equal the first minus the second. One Newton step, sign included.
        bound: the largest value that the statistic can have, whatever the data: the number of rows where it is robust or by "opg".
    """

    statistic: float
    df: int
    p_value: float
    constraints: tuple[str, ...]
    statistics: tuple[float, ...]
    p_values: tuple[float, ...]
    expected_changes: tuple[float, ...] = ()
    bound: float = math.inf

    def _title(self) -> str:
        return f"score test: {self.statistic:.6g} on {self.df} degrees of freedom, p = {self.p_value:.4g}"

    def _labels(self) -> Sequence[str]:
        return self.constraints

    def _table(self) -> dict[str, Any]:
        return {"statistic": self.statistics, "p_value": self.p_values, "expected_change": self.expected_changes}


@guarded(_NAME, FEWER)
def score_test(
    J: Jacobian,
    *,
    zero: str | Iterable[str] = (),
    equal: Iterable[Sequence[str]] = (),
    wrt: Wrt = None,
    information: str = "expected",
    robust: bool = False,
    lift: Iterable[str] | None = None,
    weights: Tensor | None = None,
) -> ScoreTest:
    """Tests constraints by the score at the estimate that satisfies them.

    sᵀ I⁻¹ s with s the total score and I the information by the parameters of the unrestricted model: χ² with as many degrees of
    freedom as there are constraints, if they hold. One constraint alone is tested with the others kept (R: lavaan's `lavTestScore`).

    Args:
        J: the Jacobian at the restricted estimate by maximum likelihood.
        zero: elements that are 0 by the constraints, such as "covariance_matrix[MSFT,AAPL]".
        equal: groups of elements that are equal to each other: [("mean[AAPL]", "mean[MSFT]")].
        wrt: the parameters of the unrestricted model, by default the complete parametrisation that the constraints are about. With
            neither `zero` nor `equal` J's structure is the constraint, and it is tested within these, by default ("mean",
            "covariance_matrix"): of a fitted `Diagonal`, that nothing is correlated.
        information: "expected", "observed" or "opg".
        robust: sᵀ I⁻¹Rᵀ (R I⁻¹ JᵀJ I⁻¹ Rᵀ)⁻¹ R I⁻¹ s, R the constraints: right for independent rows that are not normal. It is at most
            n, and so is the statistic by "opg": with many constraints and few rows they can never reject.
        lift: the constraints that are tested together, as they are called in the result ("mean[AAPL] = mean[MSFT]"), the others
            kept; None: all.
        weights: (n,) one a row.

    Returns:
        A `ScoreTest`.

    Raises:
        NotIdentifiedError: J is not at an estimate under these constraints: they do not hold there, or the score along them is not 0;
            no fewer constraints than rows where the statistic is robust.

    Warns:
        NeverRejectsWarning: n itself would not be significant at 5%.

    Source: Rao 1948; Boos 1992, *On generalized score tests*.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac import inference
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0]], dtype=torch.float64)
        >>> J = mvnjac.fit(x, "diagonal").gaussian.jacobian(x)
        >>> inference.score_test(J, zero="covariance_matrix[1,0]")
        score test: 0.0571429 on 1 degrees of freedom, p = 0.8111
                                    statistic  p_value  expected_change
        covariance_matrix[1,0] = 0  0.0571429  0.81107            -0.25
    """
    require(_NAME, "information", information, ("expected", "observed", "opg"))
    zero, equal = [zero] if isinstance(zero, str) else list(zero), [list(group) for group in equal]
    short = [group for group in equal if len(group) < 2]
    if short:
        raise ArgumentError(f"{_NAME}: equal has the group {short[0]!r}; expected two elements or more.")
    names = [*zero, *(name for group in equal for name in group)]
    estimating = EstimatingFunctions(_NAME, J, None, weights, names=_unrestricted(J, names, wrt))
    words, R = _constraints(estimating, zero, equal)
    if not words:
        words, R = _structure(estimating)
    problem = _Problem(estimating, information, robust)
    problem.require_restricted(R, words)
    lifted = list(range(len(R))) if lift is None else [place(_NAME, words, name) for name in lift]
    bound = _bound(estimating, robust or information == "opg", len(lifted))
    statistic, _ = problem.lifted(R, lifted)
    each = [problem.lifted(R, [i]) for i in range(len(R))] if names else []
    return ScoreTest(
        statistic,
        len(lifted),
        chi_squared_p_value(statistic, len(lifted)),
        tuple(words) if names else (),
        tuple(one for one, _ in each),
        tuple(chi_squared_p_value(one, 1) for one, _ in each),
        tuple(float(change) for _, change in each),
        bound,
    )


def _bound(estimating: EstimatingFunctions, bounded: bool, df: int) -> float:
    """The largest value of a statistic 1ᵀU (UᵀU)⁻¹ Uᵀ1, U (n, df): it projects n ones. A warning where that is too little."""
    if not bounded:
        return math.inf
    rows = estimating.rows if estimating.weights is None else int((estimating.weights != 0).sum())
    if df >= rows:
        raise NotIdentifiedError(
            f"{_NAME}: {df} constraints are tested by the scores of {rows} rows, of which the covariance is then singular, or the "
            f"statistic {rows} whatever the data: take robust=False and information='expected', or lift fewer constraints."
        )
    smallest = chi_squared_p_value(float(rows), df)
    if smallest > _LEVEL:
        warn(
            f"{_NAME}: the statistic can be at most the number of rows, {rows}, where χ² with {df} degrees of freedom has "
            f"p = {smallest:.3g}: the test can never reject at {_LEVEL:.0%}. Take robust=False and information='expected', or lift "
            "fewer constraints.",
            NeverRejectsWarning,
        )
    return float(rows)


def _unrestricted(J: Jacobian, names: Sequence[str], wrt: Wrt) -> list[str]:
    if wrt is not None:
        whole = [wrt] if isinstance(wrt, str) else list(wrt)
        elements = [part.labels[0] for part in J.selection(whole, "unique").parts if part.index is not None]
        if elements:
            raise ArgumentError(
                f"{_NAME}: wrt has {elements[0]!r}; it names whole parameters here, those of the unrestricted model."
            )
        return whole
    own = ["mean", "covariance_matrix"]
    parameters = (
        [part.name for part in J.selection(dict.fromkeys(names), "unique").parts if part.name != "mean"] if names else []
    )
    for name in parameters:
        if name not in dense_parameters():
            return J.model.arguments.default_names()
        own = ["mean", *dense_parameters()[name].fields]
    return own


def _constraints(
    estimating: EstimatingFunctions, zero: Sequence[str], equal: Sequence[Sequence[str]]
) -> tuple[list[str], Tensor]:
    """What each says, and (m, p) R with R θ = 0."""
    words = [f"{name} = 0" for name in zero]
    rows = [estimating.unit_rows(estimating.places_of([name]))[0] for name in zero]
    for group in equal:
        places = estimating.unit_rows([estimating.places_of([name])[0] for name in group])
        words += [f"{group[0]} = {name}" for name in group[1:]]
        rows += [places[0] - other for other in places[1:]]
    return words, torch.stack(rows) if rows else estimating.unit_rows([])


def _structure(estimating: EstimatingFunctions) -> tuple[list[str], Tensor]:
    """The directions that the model's own parameters do not reach."""
    K = tangents(estimating)
    scale = estimating.information("expected").diagonal().sqrt()
    if not bool((scale > 0).all()):
        name = estimating.columns[int((~(scale > 0)).nonzero()[0])]
        raise SingularError(
            f"{_NAME}: there is no information on {name}: nothing that is about it is observed; leave it out by wrt=."
        )
    U, values, _ = torch.linalg.svd(scale.unsqueeze(-1) * K, full_matrices=True)
    rank = int((values > 1e-10 * values[0]).sum())
    if rank == estimating.size:
        raise ArgumentError(f"{_NAME}: {estimating.model.covariance!r} is no restriction; name constraints by zero= or equal=.")
    return [repr(estimating.model.covariance)], (U[:, rank:] * scale.unsqueeze(-1)).mT


class _Problem:
    """The total score and the informations, in units in which the information has the diagonal 1."""

    def __init__(self, estimating: EstimatingFunctions, information: str, robust: bool) -> None:
        A = estimating.information(information)
        self.scale = A.diagonal().abs().sqrt()
        self.A = A / torch.outer(self.scale, self.scale)
        self.B = estimating.gram() / torch.outer(self.scale, self.scale) if robust else self.A
        self.score, self.values = estimating.total() / self.scale, estimating.values * self.scale

    def lifted(self, R: Tensor, lifted: Sequence[int]) -> tuple[float, Tensor]:
        """The statistic of lifting some of the constraints, in the directions that the others leave; and the Newton step of what
        they say is 0."""
        R = R / self.scale
        kept = [i for i in range(len(R)) if i not in lifted]
        N, r = _null_space(R[kept]), R[list(lifted)]
        A, B, score, r = N.mT @ self.A @ N, N.mT @ self.B @ N, N.mT @ self.score, r @ N
        if float(torch.linalg.eigvalsh(A)[0]) <= len(A) * torch.finfo(A.dtype).eps * float(A.diagonal().max()):
            raise SingularError(
                f"{_NAME}: the information of the unrestricted model is singular there; lift fewer constraints."
            )
        reached, step = torch.linalg.solve(A, r.mT).mT, torch.linalg.solve(A, score)
        multiplier = r @ step
        middle = reached @ B @ reached.mT
        units = middle.diagonal().sqrt()
        if not bool((units > 0).all()) or _smallest(middle / torch.outer(units, units)) <= _SINGULAR * len(middle):
            raise SingularError(
                f"{_NAME}: the covariance of the scores along the constraints is singular: too few rows differ in them; lift fewer "
                "constraints, or take robust=False."
            )
        return float(multiplier @ torch.linalg.solve(middle, multiplier)), multiplier

    def require_restricted(self, R: Tensor, words: Sequence[str]) -> None:
        """The values satisfy the constraints, and no direction within them leads uphill."""
        R = R / self.scale
        off = (R @ self.values).abs() / R.norm(dim=-1) if len(words) == len(R) else R.new_zeros(1)
        if bool(off.max() > _ENOUGH):
            raise NotIdentifiedError(
                f"{_NAME}: {words[int(off.argmax())]} does not hold at J, by {float(off.max()):.3g} of a standard error: take the "
                "Jacobian at the restricted estimate."
            )
        N = _null_space(R)
        score = N.mT @ self.score
        left = float(score @ torch.linalg.solve(N.mT @ self.A @ N, score)) if N.shape[1] else 0.0
        if not left < _ENOUGH**2 * max(N.shape[1], 1):
            raise NotIdentifiedError(
                f"{_NAME}: J is not at the maximum of the likelihood under the constraints: the score within them is "
                f"{max(left, 0.0) ** 0.5:.3g} of the root of its information. "
                "Name all constraints that the estimate satisfies; lift= says which of them are tested."
            )


def _smallest(A: Tensor) -> float:
    return float(torch.linalg.eigvalsh(A)[0]) if len(A) else 1.0


def _null_space(R: Tensor) -> Tensor:
    """(p, p − m) an orthonormal basis of the directions that R (m, p) does not see."""
    if not len(R):
        return torch.eye(R.shape[1], dtype=R.dtype, device=R.device)
    unit = R / R.norm(dim=-1, keepdim=True)
    _, values, Vh = torch.linalg.svd(unit, full_matrices=True)
    if float(values.min()) < 1e-10:
        raise ArgumentError(
            f"{_NAME}: the constraints are not independent of each other; leave out those that follow from others."
        )
    return Vh[len(R) :].mT
