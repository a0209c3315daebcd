"""Panels on the estimated distribution: correlations and standard deviations, and whether the rows follow a normal distribution."""

from __future__ import annotations

from mvnjac.errors import counted
from mvnjac.plots.axes import row_text
from mvnjac.plots.matrices import CELLS
from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.distances import EXTRAORDINARY, TOP
from mvnjac.report.html import charts
from mvnjac.report.html.formatting import digits, probability, short
from mvnjac.report.html.html_table import Number, sortable_table
from mvnjac.report.html.markup import Markup, tag

#: the number of rows that are labelled in the chart
_NAMED = 6


def correlation(content: Content) -> list[Markup]:
    """The map of the correlations, and the standard deviations with their intervals."""
    found, names = content.volatilities, content.names
    robust = found.robust_errors
    order = sorted(range(len(names)), key=lambda i: -found.values[i])
    rows = [
        [names[i], Number(found.values[i], digits(found.values[i]))]
        + ([] if robust is None else [Number(robust[i], digits(robust[i]))])
        for i in order
    ]
    headings = ["variable", "standard deviation", *([] if robust is None else ["robust error"])]
    unit = "of the log returns " if content.data.log_returns else "of the returns " if content.data.returns else ""
    lines = " The lines are 95% intervals from robust standard errors." if robust is not None else ""
    parts = []
    if len(names) > 1:
        hover = " Point at a cell for its value." if len(names) > CELLS else ""
        caption = tag("figcaption", f"Correlations of the variables in this model ({content.structure}).{hover}")
        parts = [tag("p", _extremes(content)), tag("figure", charts.correlation(content).markup(), caption)]
    return [
        *parts,
        tag("h3", "Standard deviations"),
        tag(
            "figure",
            charts.volatilities(content).markup(),
            tag("figcaption", f"Standard deviations {unit}per {content.row}, largest first.{lines}"),
        ),
        sortable_table("standard-deviations", headings, rows, "volatilities"),
    ]


def _extremes(content: Content) -> str:
    """The largest and the smallest correlation; some structures have one number for all."""
    values, names = content.volatilities.correlation, content.names
    pairs = [(values[i][j], names[j], names[i]) for i in range(len(names)) for j in range(i)]
    high, low = max(pairs), min(pairs)
    if len(pairs) > 1 and high[0] == low[0]:
        return f"All correlations are {short(high[0])}."
    text = f"The largest correlation is that of {high[1]} and {high[2]}: {short(high[0])}"
    return f"{text}." if len(pairs) == 1 else f"{text}; the smallest is that of {low[1]} and {low[2]}: {short(low[0])}."


def distances(content: Content) -> list[Markup]:
    """The quantile plot of the Mahalanobis distances, and the rows that are furthest from the mean."""
    found = content.distances
    n, d = len(found.observed), len(content.names)
    expected = EXTRAORDINARY * n
    text = (
        f"If the {content.row}s had a normal distribution with these parameters, the points would lie on the dashed line. "
        f"{counted(found.beyond, content.row, ',')} of {n:,} {'is' if found.beyond == 1 else 'are'} further from the mean than "
        f"one in {1 / EXTRAORDINARY:,.0f} would be; about {short(expected)} would be expected."
    )
    incomplete = (
        f" A {content.row} with missing entries is compared with the distribution for the number of its observed entries."
        if content.missing.entries
        else ""
    )
    caption = tag(
        "figcaption",
        f"Squared Mahalanobis distances (x − µ)ᵀ Σ⁻¹ (x − µ) against the quantiles of the χ² distribution with {d} degrees of freedom. "
        f"Above the line, extraordinary {content.row}s are more frequent than in a normal distribution.{incomplete}",
    )
    rows = [
        [
            row_text(row.label),
            Number(row.distance),
            Number(row.observed, str(row.observed)),
            Number(row.p_value, probability(row.p_value)),
        ]
        for row in found.top
    ]
    headings = [content.data.index or "row", "squared distance", "observed entries", "p"]
    return [
        tag("p", text),
        tag("figure", charts.quantiles(content, _NAMED).markup(), caption),
        sortable_table(f"the-{TOP}-most-extraordinary-rows", headings, rows, "distances.top"),
    ]
