"""`score_process`: cumulative scores, with the covariance of the scores and the clocks of the columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ArgumentError, NotIdentifiedError, SingularError, counted
from mvnjac.inference.break_test import LIMIT
from mvnjac.inference.estimating_functions import INFORMATIONS, MEMORY_ADVICE, SOLVE_ARRAYS, EstimatingFunctions, require
from mvnjac.inference.hac import LongRunScores
from mvnjac.inference.information_clocks import InformationClocks, information_clocks
from mvnjac.inference.process_statistics import inverse_root
from mvnjac.inference.row_labels import dates_of, row_labels, sort_order
from mvnjac.inference.structural_change import ScoreProcess
from mvnjac.information.functions import Wrt
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.patterns import distinct
from mvnjac.tensors.allocation import guarded
from mvnjac.tensors.tracing import to_numpy

_NAME = "score_process"
CLOCKS = ("auto", "rows", "information")
#: the process ends at 0 at the estimate; if it ends further away than this, the parameters are not the estimate
_MAX_END = 0.1
#: with fewer rows per parameter the covariance of all scores is too noisy for the regression on the total scores
_ROWS_PER_PARAMETER = 10
#: with more parameters the joint covariances up to each date are not formed
_MAX_JOINT = 500


@guarded(_NAME, MEMORY_ADVICE)
def score_process(
    J: Jacobian,
    *,
    wrt: Wrt = None,
    known: Wrt = None,
    dates: Iterable[Any] | None = None,
    information: str = "opg",
    scores_covariance: Float[Tensor, "p p"] | None = None,
    decorrelate: bool = True,
    clocks: str = "auto",
    lag: int | None = 0,
    multipliers: int = 999,
    seed: int = 0,
    weights: Float[Tensor, "n"] | None = None,
) -> ScoreProcess:
    """Cumulative scores for tests of structural change.

    The process is W(t) = V^(−½) n^(−½) Σ_{i ≤ nt} sᵢ, with V the covariance of a score.

    If rows observe different variables, the columns have information at different times, and W is not a Brownian bridge. Then
    each column is divided by its own standard deviation, its clock is the share of its information in the rows so far, and
    p-values are simulated: the scores are replaced by normal ones with the same covariance, minus their regression on their
    total.

    With fewer than 10 rows per parameter (for complete rows, with no more rows than parameters) the covariance of all scores is
    too noisy or singular. A test of some columns then treats these as the only estimated ones, so its p-value is too large
    rather than too small, and p-values by variable and by column have Holm's correction.

    Args:
        J: the Jacobian at the maximum-likelihood estimate, of n rows.
        wrt: the columns of the result; they are decorrelated jointly with all others.
        known: parameters that were not estimated.
        dates: (n,) labels by which the rows are sorted and breaks are dated; None: the dates of `J.index`, otherwise the rows
            are in order.
        information: V is 1/n of the "opg" (JᵀJ, the default of R's `gefp`), "expected" or "observed" information.
        scores_covariance: V itself, such as a HAC estimate by `scores_covariance`.
        decorrelate: False divides each score by its standard deviation only; joint tests of several columns are then not valid,
            unless each column has its own clock.
        clocks: "rows": all rows are equally informative, as in R's `gefp`; "information": each column has its own clock;
            "auto": "rows" if all rows observe the same variables.
        lag: rows up to this lag depend on each other: V, or the covariance of the simulated scores, is that of Newey and West
            without prewhitening. None: their automatic lag.
        weights: (n,) the weights of the fit: the scores are w·sᵢ, as in R's estfun of a weighted model, and time is measured in
            rows. The limiting distributions hold for weights that are unrelated to time, with the "opg" or a
            `scores_covariance`.
        multipliers, seed: the number of simulated processes, and the seed of the random numbers.

    Returns:
        A `ScoreProcess`: `.double_max()`, `.nyblom_hansen()`, `.sup_lm()`, `.select(columns)`, `.by_variable()`.

    Raises:
        NotIdentifiedError: the scores do not sum to 0, so J is not at the estimate.
        SingularError: the scores are linearly dependent.
        ArgumentError: arguments are invalid, or a covariance of the scores was given where clocks differ.

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
    require(_NAME, "clocks", clocks, CLOCKS)
    if isinstance(multipliers, bool) or not isinstance(multipliers, int) or multipliers < 19:
        raise ArgumentError(
            f"{_NAME}: multipliers is {multipliers!r}; expected a number of simulated processes, 19 or more, such as 999."
        )
    if weights is not None and scores_covariance is None and information != "opg":
        raise ArgumentError(
            f"{_NAME}: with weights, information={information!r} is not the covariance of the scores; pass information='opg'."
        )
    estfun = EstimatingFunctions(_NAME, J, wrt, weights, known)
    dates = dates_of(J.index) if dates is None else list(dates) if isinstance(dates, Iterator) else dates
    by_information = clocks == "information" or (clocks == "auto" and _patterns_differ(estfun))
    n, p, positions = estfun.rows, estfun.size, estfun.positions
    estfun.require_memory(5 * n * p + (0 if by_information else SOLVE_ARRAYS * p**2), False)
    labels = row_labels(_NAME, "dates", dates, n)
    order = sort_order(_NAME, dates, n, "dates").to(estfun.jacobian.device)
    names, rows = tuple(estfun.requested), tuple(order.tolist())
    variables, ordered = estfun.columns_by_variable(names), tuple(labels[i] for i in rows)
    if lag != 0:
        series = LongRunScores(estfun, lag, 0, dates)
        lag = series.lag
    if by_information:
        _require_opg(information, scores_covariance)
        alone = n < _ROWS_PER_PARAMETER * p or p > _MAX_JOINT
        tests = _tests_by_information(estfun, order, lag=lag or 0, group_only=alone, multipliers=multipliers, seed=seed)
        process = tests.cumulative if positions == list(range(p)) else tests.cumulative[:, positions]
        _require_bridge(estfun, process)
        law = f"{multipliers} Gaussian multipliers of the scores, each column in the clock of its own information"
        law += f"; rows depend on each other up to lag {lag}" if lag else ""
        law += f"; {_reason_for_alone(estfun)}" if alone else ""
        return ScoreProcess(names, process, ordered, rows, variables, law, alone, tests, tuple(positions))
    if scores_covariance is not None:
        V = _valid_covariance(scores_covariance, estfun)
    elif lag:
        V = series.covariance_of_sum(estfun.unit_rows(range(p))) / n
    else:
        V = estfun.information(information) / n
    cumulative = estfun.scores()[order.to(V.device)].cumsum(0) / n**0.5
    alone = decorrelate and p >= n
    scale = V.diagonal().sqrt()
    scaled = cumulative @ inverse_root(V) if decorrelate and not alone else cumulative / scale
    process = torch.cat([scaled.new_zeros(1, p), scaled])[:, positions]
    _require_bridge(estfun, process)
    if not alone:
        return ScoreProcess(names, process, ordered, rows, variables)
    correlation = (V / torch.outer(scale, scale))[positions][:, positions]
    law = f"{LIMIT}; {_reason_for_alone(estfun)}"
    return ScoreProcess(names, process, ordered, rows, variables, law, True, correlation=correlation)


def _tests_by_information(estfun: EstimatingFunctions, order: Tensor, **options: Any) -> InformationClocks:
    scores = estfun.scores()
    scores = scores if bool((order.diff() > 0).all()) else scores[order]
    uninformative = (scores == 0).all(0).nonzero().flatten().tolist()
    if uninformative:
        raise SingularError(
            f"{_NAME}: no row has information about {estfun.columns[uninformative[0]]}; select other parameters."
        )
    return information_clocks(scores, _patterns(estfun)[order], **options)


def _reason_for_alone(estfun: EstimatingFunctions) -> str:
    return (
        "a test of some columns treats these as the only estimated ones, since there are "
        f"{counted(estfun.rows, 'row')} for {counted(estfun.size, 'parameter')}"
    )


def _patterns(estfun: EstimatingFunctions) -> Tensor:
    """(n,) the number of the pattern of observed variables of each row."""
    _, of_row = distinct(to_numpy(~estfun.x.isnan().flatten(1)))
    return torch.from_numpy(of_row).to(estfun.jacobian.device)


def _patterns_differ(estfun: EstimatingFunctions) -> bool:
    if estfun.model.arguments.missing is None:
        return False
    missing = estfun.x.isnan()
    return bool((missing != missing[:1]).any())


def _require_opg(information: str, scores_covariance: Tensor | None) -> None:
    if scores_covariance is not None or information != "opg":
        got = f"information={information!r}" if scores_covariance is None else "scores_covariance"
        raise ArgumentError(
            f"{_NAME}: got {got}, but rows observe different variables, so the covariance of the scores up to each date is "
            "needed, which information='opg' gives. For rows that depend on each other pass lag= (None: the automatic lag of "
            "Newey and West); or pass clocks='rows' for tests that treat all rows as equally informative."
        )


def _require_bridge(estfun: EstimatingFunctions, process: Tensor) -> None:
    end = float(process[-1].abs().max())
    if not end < _MAX_END:
        raise NotIdentifiedError(
            f"{_NAME}: the scores do not sum to 0: the process of {estfun.requested[0]}, … ends at a distance of {end:.3g} "
            "from 0; pass the Jacobian at the maximum-likelihood estimate (divisor n), with the weights= of the fit."
        )


def _valid_covariance(V: Tensor, estfun: EstimatingFunctions) -> Tensor:
    if V.shape != (estfun.size, estfun.size):
        raise ArgumentError(
            f"{_NAME}: scores_covariance has shape {tuple(V.shape)}; expected ({estfun.size}, {estfun.size}) for all "
            f"{estfun.size} estimated parameters."
        )
    return V.detach().to(estfun.values)
