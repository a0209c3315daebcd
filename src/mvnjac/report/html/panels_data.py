"""Panels on the covariance and the data: the map of Σ, missing entries, the condition number, and the parameters."""

from __future__ import annotations

import math

from mvnjac.errors import counted
from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.estimates_table import HeatMap
from mvnjac.report.analysis.unavailable import Unavailable
from mvnjac.report.html import charts
from mvnjac.report.html.formatting import digits, short
from mvnjac.report.html.html_table import Number, sortable_table
from mvnjac.report.html.markup import Markup, tag
from mvnjac.report.html.panels_stability import unavailable

#: the condition number from which the nearly dependent variables are named
_DEPENDENT = 10


def heat(content: Content) -> list[Markup]:
    """The map of Σ and its explanation."""
    found = content.heat
    if isinstance(found, Unavailable):
        return unavailable(found)
    caption = _heat_caption(found, content)
    chart = charts.both(lambda width: charts.heat_map(found, content.names, caption, width))
    return [tag("p", caption), tag("figure", chart, tag("figcaption", *_legend(found)))]


def _heat_caption(found: HeatMap, content: Content) -> str:
    value, i, j = max(
        (abs(v), i, j) for i, row in enumerate(found.values) for j, v in enumerate(row[: i + 1]) if math.isfinite(v)
    )
    element = f"covariance_matrix[{content.names[i]},{content.names[j]}]"
    if found.diverging:
        return (
            "The total score of each element of the covariance matrix Σ, in units of its standard deviation. It is positive if the "
            "rows suggest a larger covariance than the given one, and negative if they suggest a smaller one. Beyond ±2, the rows are "
            f"evidence against the given value. Furthest from 0: {element}, {short(found.values[i][j])}."
        )
    return (
        "At the estimate, every total score is 0. The map therefore shows how reliable the classical standard errors are: for each "
        "element of the covariance matrix Σ, the robust variance of its estimate (sandwich, from the spread of the scores) divided by "
        "the classical variance (from the information, which assumes a normal distribution). 1 means that they agree; at 4, the "
        f"classical standard error is half of the robust one. Largest: {element}, {short(value)}."
    )


def _legend(found: HeatMap) -> list[object]:
    high, low, none = (tag("span", "", class_=f"swatch {side}") for side in ("high", "low", "none"))
    if found.diverging:
        return [high, " the rows suggest a larger value, ", low, " a smaller value; stronger colours mean larger scores."]
    return [high, " larger variance than the model assumes, ", low, " smaller (logarithmic scale), ", none, " fixed elements."]


def missing(content: Content) -> list[Markup]:
    """The patterns of missing entries with the most rows."""
    found, names = content.missing, content.names
    if not found.entries:
        size = f"{counted(content.rows, 'row', ',')} of {counted(len(names), 'variable')}"
        return [tag("p", f"No entry is missing ({size}).")]
    shown = [j for j, count in enumerate(found.by_variable) if count]
    complete = len(names) - len(shown)
    head = tag(
        "tr", tag("td", "rows", class_="n"), tag("td", "share", class_="n"), *(tag("th", names[j], scope="col") for j in shown),
        class_="names",
    )  # fmt: skip
    rows = []
    for pattern in found.patterns:
        cells = [("observed", "box") if pattern.observed[j] else ("missing", "box gone") for j in shown]
        boxes = [tag("td", tag("span", "", class_=style, role="img", aria_label=word)) for word, style in cells]
        share = f"{pattern.rows / content.rows:.1%}"
        rows.append(tag("tr", tag("td", f"{pattern.rows:,}", class_="n"), tag("td", share, class_="n"), *boxes))
    table = tag("table", tag("tbody", head, *rows), class_="patterns")
    largest = f" The {len(found.patterns)} most frequent patterns:" if found.count > len(found.patterns) else ""
    rest = f" {counted(complete, 'variable')} without missing entries not shown." if complete else ""
    entries = f"{counted(found.entries, 'entry', ',')} ({found.share:.1%}) {'is' if found.entries == 1 else 'are'} missing"
    return [
        tag("p", f"{entries}, in {counted(found.count, 'pattern', ',')}.{largest}"),
        tag("div", table, class_="table", tabindex="0", role="region", aria_label="patterns of missing entries"),
        tag("p", f"Filled: observed; dashed: missing.{rest}", class_="soft"),
    ]


def conditioning(content: Content) -> list[Markup]:
    """The condition number, its effect on the accuracy, and the combination of variables with the smallest variance."""
    found = content.conditioning
    caption = "Eigenvalues of the correlation matrix, largest first"
    chart = charts.both(lambda width: charts.bars(found.eigenvalues, caption, width))
    text = (
        f"The condition number of the covariance matrix is {short(found.covariance)}; with each variable in units of its standard "
        f"deviation it is {short(found.correlation)}. The second number determines the accuracy, because a Cholesky factorisation does "
        f"not depend on the units: about {found.digits64:.0f} of the 16 decimal digits of the scores are correct in float64 (used "
        f"here), and about {found.digits32:.0f} of 7 would be correct in float32."
    )
    parts = [tag("p", text)]
    if found.correlation > _DEPENDENT:
        terms = " ".join(
            f"{'−' if weight < 0 else '+'} {abs(weight):.2f} {name}"
            for name, weight in found.combination
            if abs(weight) >= 0.05
        )
        parts.append(
            tag(
                "p",
                f"The linear combination of standardised variables with the smallest variance (largest terms): "
                f"{terms.removeprefix('+ ')}.",
            )
        )
    return [*parts, tag("figure", chart, tag("figcaption", caption + " (logarithmic scale)."))]


def parameters(content: Content) -> list[Markup]:
    """The table of all parameters."""
    table = content.parameters
    rows = [
        [name, *(Number(value, digits(value)) for value in values)]
        for name, *values in zip(table.names, *table.columns.values(), strict=True)
    ]
    return [
        tag("p", "; ".join(table.notes) + ". Click a heading to sort.", class_="soft"),
        sortable_table("all-parameters", ["parameter", *table.columns], rows, tall=True),
    ]
