"""The sentences and panels of the page."""

from __future__ import annotations

from mvnjac._version import __version__
from mvnjac.errors import counted
from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.stability import LEVEL
from mvnjac.report.analysis.unavailable import Unavailable
from mvnjac.report.html import panels_data, panels_stability
from mvnjac.report.html.formatting import digits, probability, short
from mvnjac.report.html.markup import Markup, join, tag

Panel = tuple[str, str, list[Markup]]


def panels(content: Content) -> list[Panel]:
    """(id, heading, parts) of each, in the order of the page."""
    return [
        ("influence", "The most influential rows", panels_stability.influence(content)),
        ("breaks", "Have the parameters changed?", panels_stability.breaks(content)),
        ("heat-map", _heat_heading(content), panels_data.heat(content)),
        ("missing", "Missing entries", panels_data.missing(content)),
        ("conditioning", "The condition of Σ, and the digits", panels_data.conditioning(content)),
        ("parameters", _parameters_heading(content), panels_data.parameters(content)),
    ]


def lead(content: Content) -> Markup:
    """What was computed, with its conventions."""
    data, d, p = content.data, len(content.names), len(content.parameters.names)
    what = "log returns (differences of the logarithms of consecutive rows)" if data.log_returns else "rows"
    span = f", {content.labels[0]} to {content.labels[-1]}" if data.index else ""
    gaps = "; missing entries are marginalised: each row counts with what it observes" if data.missing else ""
    likelihood = f"{content.log_likelihood:,.2f}".replace("-", "−")
    first = tag(
        "p",
        f"The scores (derivatives of the log-density of each row by the parameters) of a multivariate normal distribution of {d} "
        f"variables over {content.rows:,} {what}{span}{gaps}. {_origin(content)} The log-likelihood is "
        f"{likelihood}.",
        class_="lead",
    )
    order = (
        f"Rows are in ascending order of {data.index}."
        if content.sorted
        else "Rows are in the order of the file, which is taken for that of time."
    )
    divisor = "The covariance is the maximum-likelihood one (divisor n, not n − 1). " if content.estimate else ""
    second = tag(
        "p",
        f"Conventions: {p} parameters, of Σ its unique elements (column after column of the lower triangle; a derivative by an "
        f"off-diagonal element changes both of its entries). {divisor}{order} Arithmetic is in float64.",
        class_="soft",
    )
    return join([first, second])


def _origin(content: Content) -> str:
    request, p = content.request, len(content.parameters.names)
    if request.model is not None:
        words = f"Mean and covariance ({content.structure}, {p} parameters) are those of the model {request.model.name}"
        return words + (
            ", estimated from these rows by maximum likelihood."
            if content.estimate
            else ", taken as given: the file does not say that it was estimated from these rows."
        )
    given = [
        f"the {name} from {path.name}" for name, path in (("mean", request.mean), ("covariance", request.covariance)) if path
    ]
    if given:
        rest = "" if len(given) == 2 else "; the other is estimated at it"
        return f"Given: {' and '.join(given)}{rest} ({p} parameters)."
    return f"Mean and covariance ({content.structure}, {p} parameters) are estimated from these rows by maximum likelihood."


def facts(content: Content) -> Markup:
    """The findings in numbers."""
    found = [_influence_fact(content), _score_fact(content), _condition_fact(content), _missing_fact(content)]
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", big, tag("small", _breakable(more)))) for name, big, more in found),
        class_="facts",
    )


def _breakable(words: str) -> Markup:
    """A narrow column may break a name before its brackets."""
    first, *rest = words.split("[")
    return join([first, *(join([tag("wbr"), "[", part]) for part in rest)])


def _influence_fact(content: Content) -> tuple[str, object, str]:
    if isinstance(content.influence, Unavailable):
        return "Most influential row", "–", "see below"
    top = content.influence.top[0]
    return "Most influential row", top.label, f"moves {top.most_changed} by {short(abs(top.standard_errors))} standard errors"


def _score_fact(content: Content) -> tuple[str, object, str]:
    if not content.estimate:
        total = content.total
        return (
            "Score test of the given parameters",
            f"p {_equals(total.p_value)}",
            f"χ² = {short(total.statistic)}, {total.df} df",
        )
    if isinstance(content.cusum, Unavailable):
        return "Change of the parameters", "–", "see below"
    cusum = content.cusum
    if cusum.p_value < LEVEL:
        return "Parameters changed about", cusum.date, f"{cusum.column}, p {_equals(cusum.p_value)}"
    return "Change of the parameters", "not found", f"largest about {cusum.date}, p {_equals(cusum.p_value)}"


def _equals(p_value: float) -> str:
    shown = probability(p_value)
    return shown if shown.startswith("<") else f"= {shown}"


def _condition_fact(content: Content) -> tuple[str, object, str]:
    condition = content.conditioning
    return (
        "Condition of the correlations",
        f"κ = {short(condition.correlation)}",
        f"about {condition.digits64:.0f} of 16 digits hold",
    )


def _missing_fact(content: Content) -> tuple[str, object, str]:
    missing = content.missing
    if not missing.entries:
        return "Missing entries", "none", f"{content.rows:,} complete rows"
    return "Missing entries", f"{missing.share:.1%}", counted(missing.count, "pattern", ",")


def _heat_heading(content: Content) -> str:
    return "The errors of Σ: robust over classical variance" if content.estimate else "The scaled score over Σ"


def _parameters_heading(content: Content) -> str:
    return "Estimates and standard errors" if content.estimate else "Parameters and their total scores"


def closing(content: Content) -> Markup:
    """The last line."""
    total = content.total
    return tag(
        "p",
        f"mvnjac {__version__}. The total score, in units of its information, is √(sᵀ I⁻¹ s) = "
        f"{digits(max(total.statistic, 0.0) ** 0.5)}"
        f"{' (0 but for rounding, at a maximum)' if content.estimate else ''}. All numbers are in this file as JSON (mvnjac-data); "
        "it loads nothing.",
    )
