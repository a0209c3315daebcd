"""Score tests (Rao tests, Lagrange multiplier tests) of constraints, which need the restricted estimate only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mvnjac.covariance import dense_parameters
from mvnjac.errors import ArgumentError, NeverRejectsWarning, NotIdentifiedError, SingularError, warn
from mvnjac.inference.delta import Parameters
from mvnjac.inference.estimating_functions import INFORMATIONS, MEMORY_ADVICE, EstimatingFunctions, require
from mvnjac.inference.result_table import ResultTable, position
from mvnjac.information.functions import Wrt
from mvnjac.linalg.correlation import smallest_eigenvalue
from mvnjac.model.elements import gradients, leaves
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.tail_probabilities import chi_squared_p_value
from mvnjac.tensors.allocation import guarded

_NAME = "score_test"
#: the tolerance, in standard errors, for the constraints and for the first-order condition within them
_TOLERANCE = 1e-3
#: a warning is given if a test can never reject at this level
_LEVEL = 0.05
#: a correlation matrix is singular if its smallest eigenvalue is at most this, times its size
_SINGULAR = 1e-14


@dataclass(frozen=True, repr=False)
class ScoreTest(ResultTable):
    """A score test of constraints; returned by `score_test`.

    Attributes:
        statistic, df, p_value: the joint test of the lifted constraints.
        constraints: the k constraints in words.
        statistics, p_values: for each alone (df = 1), with the others imposed.
        expected_changes: the approximate change, by one signed Newton step, of the constrained quantity if that constraint
            alone is lifted: of the parameter (R: lavaan's `modindices`, epc), or of the difference of two equal parameters.
        bound: the largest possible value of the statistic: the number of rows if it is robust or by "opg", else infinity.
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


@guarded(_NAME, MEMORY_ADVICE)
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
    """Test constraints by the score at the restricted estimate.

    The statistic is sᵀ I⁻¹ s, with s the total score and I the information with respect to the parameters of the unrestricted
    model. Under the constraints it is asymptotically χ² with as many degrees of freedom as there are constraints. Each
    constraint is also tested alone, with the others imposed (R: lavaan's `lavTestScore`).

    Args:
        J: the Jacobian at the restricted maximum-likelihood estimate, of n rows.
        zero: elements that the constraints set to 0, such as "covariance_matrix[MSFT,AAPL]".
        equal: groups of elements that the constraints set equal: [("mean[AAPL]", "mean[MSFT]")].
        wrt: the parameters of the unrestricted model, by default the complete parametrisation of the constrained elements. With
            neither `zero` nor `equal` the constraint is J's structure, which is tested within these parameters, by default
            ("mean", "covariance_matrix"): for a fitted `Diagonal`, the hypothesis of no correlation.
        information: "expected", "observed" or "opg".
        robust: use sᵀ I⁻¹Rᵀ (R I⁻¹ JᵀJ I⁻¹ Rᵀ)⁻¹ R I⁻¹ s, R the constraints, which is valid for independent rows that are not
            normal. It is at most n, as is the statistic by "opg": with many constraints and few rows these can never reject.
        lift: the constraints that are tested jointly, as named in the result ("mean[AAPL] = mean[MSFT]"), with the others
            imposed; None: all constraints.
        weights: (n,) weights of the rows.

    Returns:
        A `ScoreTest`.

    Raises:
        NotIdentifiedError: J is not at a restricted estimate (the constraints do not hold, or the score within them is not 0);
            or the statistic is robust or by "opg", with at least as many constraints as rows.
        SingularError: an information or the covariance of the scores is singular.
        ArgumentError, UnknownNameError: invalid arguments, or constraints that are not independent.

    Warns:
        NeverRejectsWarning: the largest possible statistic, n, is not significant at 5%.

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
    require(_NAME, "information", information, INFORMATIONS)
    zero, equal = [zero] if isinstance(zero, str) else list(zero), [list(group) for group in equal]
    short = [group for group in equal if len(group) < 2]
    if short:
        raise ArgumentError(f"{_NAME}: equal has the group {short[0]!r}; expected groups of two elements or more.")
    names = [*zero, *(name for group in equal for name in group)]
    estfun = EstimatingFunctions(_NAME, J, None, weights, names=_unrestricted(J, names, wrt))
    words, R = _constraints(estfun, zero, equal)
    if not words:
        words, R = _structure(estfun)
    problem = _Problem(estfun, information, robust)
    problem.require_restricted(R, words)
    lifted = list(range(len(R))) if lift is None else [position(_NAME, words, name) for name in lift]
    bound = _bound(estfun, robust or information == "opg", len(lifted))
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


def _bound(estfun: EstimatingFunctions, bounded: bool, df: int) -> float:
    """The largest value of 1ᵀU (UᵀU)⁻¹ Uᵀ1, U (n, df), a projection of n ones; with a warning if it is not significant."""
    if not bounded:
        return math.inf
    rows = estfun.rows if estfun.weights is None else int((estfun.weights != 0).sum())
    if df >= rows:
        raise NotIdentifiedError(
            f"{_NAME}: {df} constraints are tested by the scores of {rows} rows, so the covariance of the scores is singular, "
            f"or the statistic is always {rows}; pass robust=False and information='expected', or lift fewer constraints."
        )
    smallest = chi_squared_p_value(float(rows), df)
    if smallest > _LEVEL:
        warn(
            f"{_NAME}: the statistic is at most the number of rows, {rows}, where χ² with {df} degrees of freedom has p = "
            f"{smallest:.3g}, so the test can never reject at {_LEVEL:.0%}. Pass robust=False and information='expected', or "
            "lift fewer constraints.",
            NeverRejectsWarning,
        )
    return float(rows)


def _unrestricted(J: Jacobian, names: Sequence[str], wrt: Wrt) -> list[str]:
    """The parameters of the unrestricted model."""
    if wrt is not None:
        parameters = [wrt] if isinstance(wrt, str) else list(wrt)
        elements = [part.labels[0] for part in J.selection(parameters, "unique").parts if part.index is not None]
        if elements:
            raise ArgumentError(
                f"{_NAME}: wrt has {elements[0]!r}; expected names of whole parameters of the unrestricted model."
            )
        return parameters
    constrained = [part.name for part in J.selection(dict.fromkeys(names), "unique").parts] if names else []
    constrained = [name for name in constrained if name != "mean"] or ["covariance_matrix"]
    if not set(constrained) <= set(dense_parameters()):
        return J.model.arguments.default_names()
    return ["mean", *dense_parameters()[constrained[-1]].fields]


def _constraints(estfun: EstimatingFunctions, zero: Sequence[str], equal: Sequence[Sequence[str]]) -> tuple[list[str], Tensor]:
    """The constraints in words, and (m, p) R with R θ = 0."""
    words = [f"{name} = 0" for name in zero]
    rows = [estfun.unit_rows(estfun.positions_of([name]))[0] for name in zero]
    for group in equal:
        members = estfun.unit_rows([estfun.positions_of([name])[0] for name in group])
        words += [f"{group[0]} = {name}" for name in group[1:]]
        rows += [members[0] - other for other in members[1:]]
    return words, torch.stack(rows) if rows else estfun.unit_rows([])


def _structure(estfun: EstimatingFunctions) -> tuple[list[str], Tensor]:
    """The restriction to J's structure: R is orthogonal to the derivatives with respect to the structure's parameters."""
    K = _structure_derivatives(estfun)
    scale = estfun.information("expected").diagonal().sqrt()
    if not bool((scale > 0).all()):
        name = estfun.columns[int((~(scale > 0)).nonzero()[0])]
        raise SingularError(
            f"{_NAME}: there is no information about {name}, since no observed entry depends on it; leave it out by wrt=."
        )
    U, values, _ = torch.linalg.svd(scale.unsqueeze(-1) * K, full_matrices=True)
    rank = int((values > 1e-10 * values[0]).sum())
    if rank == estfun.size:
        raise ArgumentError(f"{_NAME}: {estfun.model.covariance!r} is not a restriction; name constraints by zero= or equal=.")
    return [repr(estfun.model.covariance)], (U[:, rank:] * scale.unsqueeze(-1)).mT


def _structure_derivatives(estfun: EstimatingFunctions) -> Tensor:
    """(p, q) the derivatives of the p columns with respect to the q parameters of J's structure."""
    model = estfun.model
    with torch.enable_grad():
        changes, moved = leaves(model, model.arguments.default_names())
        theta = Parameters(moved)
        values = [(name, theta[name].reshape(-1) if name == "mean" else theta[name]) for name in estfun.names]
        return gradients(torch.cat([model.arguments.coordinates(name).pack(value) for name, value in values]), changes)


class _Problem:
    """The total score and the information, scaled so that the information has the diagonal 1."""

    def __init__(self, estfun: EstimatingFunctions, information: str, robust: bool) -> None:
        A = estfun.information(information)
        self.scale = A.diagonal().abs().sqrt()
        self.A = A / torch.outer(self.scale, self.scale)
        self.B = estfun.gram() / torch.outer(self.scale, self.scale) if robust else self.A
        self.score, self.values = estfun.total() / self.scale, estfun.values * self.scale

    def lifted(self, R: Tensor, lifted: Sequence[int]) -> tuple[float, Tensor]:
        """The statistic for lifting some of the constraints, the others imposed, and the Newton step of these quantities."""
        R = R / self.scale
        imposed = [i for i in range(len(R)) if i not in lifted]
        N, r = _null_space(R[imposed]), R[list(lifted)]
        A, B, score, r = N.mT @ self.A @ N, N.mT @ self.B @ N, N.mT @ self.score, r @ N
        if float(torch.linalg.eigvalsh(A)[0]) <= len(A) * torch.finfo(A.dtype).eps * float(A.diagonal().max()):
            raise SingularError(
                f"{_NAME}: the information of the unrestricted model is singular at the estimate; lift fewer constraints."
            )
        rA, step = torch.linalg.solve(A, r.mT).mT, r @ torch.linalg.solve(A, score)
        covariance = rA @ B @ rA.mT
        if not bool((covariance.diagonal() > 0).all()) or smallest_eigenvalue(covariance) <= _SINGULAR * len(covariance):
            raise SingularError(
                f"{_NAME}: the covariance of the scores along the constraints is singular, since too few rows differ in them; "
                "lift fewer constraints, or pass robust=False."
            )
        return float(step @ torch.linalg.solve(covariance, step)), step

    def require_restricted(self, R: Tensor, words: Sequence[str]) -> None:
        """Require that the values satisfy the constraints, and that the score within the constraints is 0."""
        R = R / self.scale
        off = (R @ self.values).abs() / R.norm(dim=-1) if len(words) == len(R) else R.new_zeros(1)
        if bool(off.max() > _TOLERANCE):
            raise NotIdentifiedError(
                f"{_NAME}: {words[int(off.argmax())]} does not hold at J, by {float(off.max()):.3g} of a standard error; pass "
                "the Jacobian at the restricted estimate."
            )
        N = _null_space(R)
        score = N.mT @ self.score
        left = float(score @ torch.linalg.solve(N.mT @ self.A @ N, score)) if N.shape[1] else 0.0
        if not left < _TOLERANCE**2 * max(N.shape[1], 1):
            raise NotIdentifiedError(
                f"{_NAME}: J is not at the maximum of the likelihood under the constraints: the score within them is "
                f"{max(left, 0.0) ** 0.5:.3g} times the square root of its information. Name all constraints that the estimate "
                "satisfies; lift= selects those that are tested."
            )


def _null_space(R: Tensor) -> Tensor:
    """(p, p − m) an orthonormal basis of the null space of R (m, p)."""
    if not len(R):
        return torch.eye(R.shape[1], dtype=R.dtype, device=R.device)
    unit = R / R.norm(dim=-1, keepdim=True)
    _, values, Vh = torch.linalg.svd(unit, full_matrices=True)
    if float(values.min()) < 1e-10:
        raise ArgumentError(
            f"{_NAME}: the constraints are not independent of each other; leave out those that follow from others."
        )
    return Vh[len(R) :].mT
