"""Makes score processes: which covariance the scores have, and whether all columns have information at the same times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ArgumentError, NotIdentifiedError, SingularError, counted
from mvnjac.inference.estimating_functions import FEWER, INFORMATIONS, SOLVED, EstimatingFunctions, require
from mvnjac.inference.hac import LongRunScores
from mvnjac.inference.labels import row_labels
from mvnjac.inference.ordering import order_of
from mvnjac.inference.own_clocks import own_clocks
from mvnjac.inference.structural_change import LIMIT, ScoreProcess, inverse_root
from mvnjac.inference.variables import columns_of_variables
from mvnjac.information.functions import Wrt
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.patterns import distinct
from mvnjac.tensors.allocation import guarded
from mvnjac.tensors.tracing import to_numpy

_NAME = "score_process"
CLOCKS = ("auto", "rows", "information")
#: a process of an estimate ends at 0; one that ends further away is of other parameters
_END = 0.1
#: with fewer rows a parameter the covariance of all scores is too noisy to say what the estimate takes away
_ROWS_A_PARAMETER = 10
#: of more parameters the covariances up to each date are not formed together
_TOGETHER = 500


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
    clocks: str = "auto",
    lag: int | None = 0,
    multipliers: int = 999,
    seed: int = 0,
    weights: Float[Tensor, "n"] | None = None,
) -> ScoreProcess:
    """Cumulated scores, decorrelated: W(t) = V^(−½) n^(−½) Σ_{i ≤ nt} sᵢ, with V the covariance of a score.

    Where rows observe different variables the columns have information at different times, and W is not a Brownian bridge. Then each
    column is scaled by itself, its time is the share of the rows with information about it, and p-values are simulated: scores times
    random multipliers, less what the estimate takes away of them. With fewer than 10 rows a parameter (of complete rows, with no more
    rows than parameters) the covariance of all scores is too noisy or singular. Then a test of some columns takes these as the only
    ones that were estimated, which makes its p-value too large rather than too small, and p-values by variable and by column have
    Holm's correction.

    Args:
        J: the Jacobian at the estimate by maximum likelihood, of n rows.
        wrt: the columns of the result; they are decorrelated together with all others.
        known: parameters that were not estimated.
        dates: (n,) what the rows are sorted by, and what breaks are named by; None: the rows are in order.
        information: V is a row's share of the "opg" (JᵀJ, as in R's `gefp` by default), "expected" or "observed" information.
        scores_covariance: V itself, in place of it: a HAC estimate, by `scores_covariance`.
        decorrelate: False scales each score by itself only; tests of several columns together are then not valid where clocks are
            those of the rows.
        clocks: "rows": information comes with every row alike, as R's `gefp` has it; "information": each column has its own clock;
            "auto": "rows" if all rows observe the same variables.
        lag: rows up to this lag depend on each other: V, or the covariance of the multipliers, is Newey and West's without
            prewhitening. None: their choice of the lag.
        weights: (n,) of the fit: the scores are w·sᵢ, as in R's estfun of a weighted model, and time goes by rows. The laws hold for
            weights that have nothing to do with time, and for the "opg" or a `scores_covariance`, which square them.
        multipliers, seed: how many are drawn, and from which seed; the same numbers give the same p-values.

    Returns:
        A `ScoreProcess`: `.double_max()`, `.nyblom_hansen()`, `.sup_lm()`, `.select(columns)`, `.by_variable()`.

    Raises:
        NotIdentifiedError: the scores do not sum to 0: J is not at the estimate.
        SingularError: scores that are linearly dependent.
        ArgumentError: a covariance of the scores was given where clocks differ.

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
        raise ArgumentError(f"{_NAME}: multipliers is {multipliers!r}; expected a number of draws, 19 or more, such as 999.")
    if weights is not None and scores_covariance is None and information != "opg":
        raise ArgumentError(f"{_NAME}: with weights the covariance of the scores is no information; take information='opg'.")
    estimating = EstimatingFunctions(_NAME, J, wrt, weights, known)
    dates = list(dates) if isinstance(dates, Iterator) else dates
    own = clocks == "information" or (clocks == "auto" and _differ(estimating))
    estimating.require_memory(5 * estimating.rows * estimating.size + (0 if own else SOLVED * estimating.size**2), False)
    n, labels = estimating.rows, row_labels(_NAME, "dates", dates, estimating.rows)
    order = order_of(_NAME, dates, n, "dates").to(estimating.jacobian.device)
    names, rows = tuple(estimating.asked), tuple(order.tolist())
    variables = columns_of_variables(estimating, names)
    if lag != 0:
        series = LongRunScores(estimating, lag, 0, dates)
        lag = series.lag
    ordered = tuple(labels[i] for i in rows)
    if own:
        _require_opg(information, scores_covariance)
        return _with_own_clocks(estimating, order, (names, ordered, rows, variables), lag or 0, multipliers, seed)
    if scores_covariance is not None:
        V = _valid(scores_covariance, estimating)
    elif lag:
        V = series.covariance_of_sum(estimating.unit_rows(range(estimating.size))) / n
    else:
        V = estimating.information(information) / n
    cumulated = estimating.scores()[order.to(V.device)].cumsum(0) / n**0.5
    alone = decorrelate and estimating.size >= n
    scale = V.diagonal().sqrt()
    scaled = cumulated @ inverse_root(V) if decorrelate and not alone else cumulated / scale
    process = torch.cat([scaled.new_zeros(1, scaled.shape[1]), scaled])[:, estimating.places]
    _require_bridge(estimating, process)
    if not alone:
        return ScoreProcess(names, process, ordered, rows, variables)
    at = estimating.places
    correlation = (V / torch.outer(scale, scale))[at][:, at]
    law = f"{LIMIT}; {_alone_because(estimating)}"
    return ScoreProcess(names, process, ordered, rows, variables, law, True, correlation=correlation)


def _with_own_clocks(
    estimating: EstimatingFunctions,
    order: Tensor,
    labels: tuple[tuple[str, ...], tuple[Any, ...], tuple[int, ...], dict[str, tuple[str, ...]]],
    lag: int,
    multipliers: int,
    seed: int,
) -> ScoreProcess:
    names, dates, rows, variables = labels
    alone = estimating.rows < _ROWS_A_PARAMETER * estimating.size or estimating.size > _TOGETHER
    scores = estimating.scores()
    scores = scores if rows == tuple(range(len(rows))) else scores[order]
    unknown = (scores == 0).all(0).nonzero().flatten().tolist()
    if unknown:
        raise SingularError(f"{_NAME}: no row has information about {estimating.columns[unknown[0]]}; select other parameters.")
    own = own_clocks(scores, _patterns(estimating)[order], lag=lag, alone=alone, multipliers=multipliers, seed=seed)
    whole = estimating.places == list(range(estimating.size))
    process = own.cumulated if whole else own.cumulated[:, estimating.places]
    _require_bridge(estimating, process)
    law = f"{multipliers} Gaussian multipliers of the scores, each column in the clock of its own information"
    law += f"; rows depend on each other up to lag {lag}" if lag else ""
    law += f"; {_alone_because(estimating)}" if alone else ""
    return ScoreProcess(names, process, dates, rows, variables, law, alone, own, tuple(estimating.places))


def _alone_because(estimating: EstimatingFunctions) -> str:
    return (
        "a test of some columns takes these as the only ones that were estimated, since there are "
        f"{counted(estimating.rows, 'row')} for {counted(estimating.size, 'parameter')}"
    )


def _patterns(estimating: EstimatingFunctions) -> Tensor:
    """(n,) which pattern of observed variables a row has."""
    _, of_row = distinct(to_numpy(~estimating.x.isnan().flatten(1)))
    return torch.from_numpy(of_row).to(estimating.jacobian.device)


def _differ(estimating: EstimatingFunctions) -> bool:
    """Whether rows observe different variables."""
    if estimating.model.arguments.missing is None:
        return False
    gaps = estimating.x.isnan()
    return bool((gaps != gaps[:1]).any())


def _require_opg(information: str, scores_covariance: Tensor | None) -> None:
    if scores_covariance is not None or information != "opg":
        got = f"information={information!r}" if scores_covariance is None else "scores_covariance"
        raise ArgumentError(
            f"{_NAME}: got {got}, but rows observe different variables, so that the covariance of the scores up to each date is "
            'needed, which information="opg" gives; for rows that depend on each other pass lag= (None: Newey and West\'s choice), '
            'or clocks="rows" for tests that take all rows as equally informative.'
        )


def _require_bridge(estimating: EstimatingFunctions, process: Tensor) -> None:
    end = float(process[-1].abs().max())
    if not end < _END:
        raise NotIdentifiedError(
            f"{_NAME}: the scores do not sum to 0: the process of {estimating.asked[0]}, … ends {end:.3g} "
            "away from 0; take the Jacobian at the estimate by maximum likelihood (divisor n), with the weights= of the fit."
        )


def _valid(V: Tensor, estimating: EstimatingFunctions) -> Tensor:
    if V.shape != (estimating.size, estimating.size):
        raise ArgumentError(
            f"{_NAME}: scores_covariance has shape {tuple(V.shape)}; expected that of all {estimating.size} parameters that were "
            f"estimated, ({estimating.size}, {estimating.size})."
        )
    return V.detach().to(estimating.values)
