"""The key figures, the panels and the end of the page."""

from __future__ import annotations

import platform
from importlib.metadata import version

from mvnjac._version import __version__
from mvnjac.errors import counted
from mvnjac.inference.process_plots import LEVEL
from mvnjac.plots.axes import row_text
from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.estimates_table import TotalScore
from mvnjac.report.analysis.unavailable import Unavailable
from mvnjac.report.html import panels_data, panels_normal, panels_stability
from mvnjac.report.html.formatting import digits, equals, short
from mvnjac.report.html.markup import Markup, join, tag

Panel = tuple[str, str, list[Markup]]


def panels(content: Content) -> list[Panel]:
    """(id, heading, parts) of each panel, in the order of the page."""
    return [
        ("influence", "The most influential rows", panels_stability.influence(content)),
        ("breaks", "Have the parameters changed?", panels_stability.breaks(content)),
        ("correlation", "Correlations and standard deviations", panels_normal.correlation(content)),
        ("distances", "Do the rows follow a normal distribution?", panels_normal.distances(content)),
        ("heat-map", _heat_heading(content), panels_data.heat(content)),
        ("missing", "Missing entries", panels_data.missing(content)),
        ("conditioning", "Condition number and accuracy", panels_data.conditioning(content)),
        ("parameters", _parameters_heading(content), panels_data.parameters(content)),
    ]


def about(content: Content) -> Markup:
    """The data, the parameters, and the conventions."""
    data, p = content.data, len(content.parameters.names)
    what = "rows"
    if data.log_returns or data.returns:
        logarithmic = "log returns (differences of the logarithms of consecutive rows)"
        what = logarithmic if data.log_returns else "returns (relative changes of consecutive rows)"
    span = f" ({row_text(content.labels[0])} to {row_text(content.labels[-1])})" if data.index else ""
    likelihood = f"{content.log_likelihood:,.2f}".replace("-", "−")
    sentences = [
        f"This report analyses {content.rows:,} {what} of {counted(len(content.names), 'variable')}{span} with a multivariate normal "
        "distribution. It is based on the scores of the rows: the derivatives of the log-density of each row with respect to the "
        "parameters."
    ]
    if data.missing:
        sentences.append("Missing entries are marginalised: each row contributes the density of its observed variables.")
    sentences += [_origin(content), f"The log-likelihood is {likelihood}."]
    sentences.append(
        f"There are {counted(p, 'parameter')}: of a symmetric matrix, only the unique elements are parameters (the lower triangle, "
        "column by column); a derivative with respect to an off-diagonal element changes both of its entries."
    )
    if content.estimate:
        sentences.append("The covariance is the maximum-likelihood estimate (divisor n, not n − 1).")
    sentences.append(
        f"The rows are in ascending order of {data.index}."
        if content.sorted
        else "The rows are in their original order, which is assumed to be their order in time."
    )
    sentences.append("All computations are in float64.")
    return tag("p", " ".join(sentences), class_="soft")


def _origin(content: Content) -> str:
    """A sentence about the origin of the parameters."""
    files = content.data.files
    parameters = f"({content.structure}, {counted(len(content.parameters.names), 'parameter')})"
    estimated = "estimated from these rows by maximum likelihood"
    if "model" in files:
        unknown = "taken as given, because the file does not say that they were estimated from these rows"
        how = estimated if content.estimate else unknown
        return f"The mean and the covariance {parameters} are those of the model {files['model']}, {how}."
    if files:
        given = " and ".join(f"the {name} from {file}" for name, file in files.items())
        rest = "" if len(files) == 2 else "; the other is estimated for it"
        return f"Given are {given}{rest} {parameters}."
    return f"The mean and the covariance {parameters} are {estimated if content.estimate else 'given values'}."


def facts(content: Content) -> Markup:
    """The key figures."""
    found = [_influence_fact(content), _score_fact(content), _condition_fact(content), _missing_fact(content)]
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", figure, tag("small", _breakable(note)))) for name, figure, note in found),
        class_="facts",
    )


def _breakable(words: str) -> Markup:
    """Text with optional line breaks before brackets, for narrow columns."""
    first, *rest = words.split("[")
    return join([first, *(join([tag("wbr"), "[", part]) for part in rest)])


def _influence_fact(content: Content) -> tuple[str, object, str]:
    if isinstance(content.influence, Unavailable):
        return "Most influential row", "–", "not available (see below)"
    top = content.influence.top[0]
    changed = content.in_words(top.most_changed)
    return (
        f"Most influential {content.row}",
        row_text(top.label),
        f"changes the {changed} by {short(abs(top.standard_errors))} standard errors",
    )


def _score_fact(content: Content) -> tuple[str, object, str]:
    total = content.total
    if not content.estimate and isinstance(total, Unavailable):
        return "Score test of the given parameters", "–", "not available"
    if not content.estimate and not isinstance(total, Unavailable):
        return (
            "Score test of the given parameters",
            f"p {equals(total.p_value)}",
            f"χ² = {short(total.statistic)}, {total.df} df",
        )
    if isinstance(content.cusum, Unavailable):
        return "Structural break", "–", "not available (see below)"
    cusum = content.cusum
    if cusum.p_value < LEVEL:
        return "Structural break after", row_text(cusum.date), f"{content.in_words(cusum.column)}, p {equals(cusum.p_value)}"
    return "Structural break", "not found", f"largest score after {row_text(cusum.date)}, p {equals(cusum.p_value)}"


def _condition_fact(content: Content) -> tuple[str, object, str]:
    condition = content.conditioning
    return (
        "Condition number (correlations)",
        f"κ = {short(condition.correlation)}",
        f"about {condition.digits64:.0f} of 16 digits are correct",
    )


def _missing_fact(content: Content) -> tuple[str, object, str]:
    missing = content.missing
    if not missing.entries:
        return "Missing entries", "none", f"{content.rows:,} complete rows"
    return "Missing entries", f"{missing.share:.1%}", counted(missing.count, "pattern", ",")


def _heat_heading(content: Content) -> str:
    return "Covariance: robust versus classical variances" if content.estimate else "Covariance: scaled total scores"


def _parameters_heading(content: Content) -> str:
    return "Estimates and standard errors" if content.estimate else "Parameters and their total scores"


def closing(content: Content) -> Markup:
    """How the report was made, and with which versions."""
    total = content.total
    size = (
        " The size of the total score s, in units of its standard deviation, is √(sᵀ I⁻¹ s) = "
        f"{digits(max(total.statistic, 0.0) ** 0.5)}"
        f"{' (0 up to rounding, at a maximum)' if content.estimate else ''}."
        if isinstance(total, TotalScore)
        else ""
    )
    versions = ", ".join(f"{name} {version}" for name, version in _versions())
    command = tag("p", "Made by ", tag("code", content.data.command), id="command") if content.data.command else ""
    text = (
        f"{versions}.{size} All numbers are also in this file as JSON (element mvnjac-data). The page works without a network."
    )
    return join([about(content), command, tag("p", text)])


def _versions() -> list[tuple[str, str]]:
    """The versions of this package and of what computes and draws."""
    others = [(name, version(name)) for name in ("torch", "numpy", "matplotlib")]
    return [("mvnjac", __version__), ("Python", platform.python_version()), *others]
