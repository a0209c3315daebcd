"""Panels on the covariance and the data: the map of Σ, missing entries, the condition number, and the parameters."""

from __future__ import annotations

import math

from mvnjac.errors import counted
from mvnjac.plots.axes import row_text
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
#: the most variables in the table of patterns
_PATTERN_VARIABLES = 30


def heat(content: Content) -> list[Markup]:
    """The map of Σ and its explanation."""
    found = content.heat
    if isinstance(found, Unavailable):
        return unavailable(found)
    if not any(math.isfinite(value) for row in found.values for value in row):
        return unavailable(Unavailable("No element of the covariance matrix has a value here."))
    chart = charts.heat_map(content, found).markup()
    return [tag("p", _heat_caption(found, content)), tag("figure", chart, tag("figcaption", *_legend(found)))]


def _heat_caption(found: HeatMap, content: Content) -> str:
    value, i, j = max(
        (abs(v), i, j) for i, row in enumerate(found.values) for j, v in enumerate(row[: i + 1]) if math.isfinite(v)
    )
    first, second = content.names[j], content.names[i]
    element = f"the variance of {second}" if i == j else f"the covariance of {first} and {second}"
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
    fixed = any(math.isnan(value) for row in found.values for value in row)
    rest = [" smaller (logarithmic scale), ", none, " fixed elements."] if fixed else [" smaller (logarithmic scale)."]
    return [high, " larger variance than the model assumes, ", low, *rest]


def missing(content: Content) -> list[Markup]:
    """Missing entries over time, when each variable is observed, and the most frequent patterns."""
    found, names = content.missing, content.names
    if found.timeline is None:
        size = f"{counted(content.rows, 'row', ',')} of {counted(len(names), 'variable')}"
        return [tag("p", f"No entry is missing ({size}).")]
    entries = f"{counted(found.entries, 'entry', ',')} ({found.share:.1%}) {'is' if found.entries == 1 else 'are'} missing"
    caption = tag(
        "figcaption",
        tag("span", "", class_="swatch high"),
        " missing; lighter: a part of the entries of that time is missing. Point at the chart for the share.",
    )
    rows = [
        [
            each.variable,
            Number(each.observed, f"{each.observed:,}"),
            Number(each.share, f"{each.share:.1%}"),
            "–" if each.first is None else row_text(each.first),
            "–" if each.last is None else row_text(each.last),
            Number(each.longest_gap, f"{each.longest_gap:,}"),
        ]
        for each in found.variables
    ]
    headings = ["variable", f"observed {content.row}s", "missing", "first", "last", "longest gap"]
    return [
        tag("p", f"{entries}, in {counted(found.count, 'pattern', ',')}."),
        tag("figure", charts.timeline(content, found.timeline).markup(), caption),
        sortable_table("observed-variables", headings, rows, "missing.variables"),
        *_patterns(content),
    ]


def _patterns(content: Content) -> list[Markup]:
    """The patterns with the most rows; of many variables, only those that are not always observed."""
    found, names = content.missing, content.names
    shown = [j for j, count in enumerate(found.by_variable) if count]
    if len(shown) > _PATTERN_VARIABLES:
        return []
    complete = len(names) - len(shown)
    counts = [tag("td", words, class_="n") for words in (f"{content.row}s", "share")]
    head = tag("tr", *counts, *(tag("th", names[j], scope="col") for j in shown), class_="names")
    rows = []
    for pattern in found.patterns:
        cells = [("observed", "box") if pattern.observed[j] else ("missing", "box gone") for j in shown]
        boxes = [tag("td", tag("span", "", class_=style, role="img", aria_label=word)) for word, style in cells]
        share = f"{pattern.rows / content.rows:.1%}"
        rows.append(tag("tr", tag("td", f"{pattern.rows:,}", class_="n"), tag("td", share, class_="n"), *boxes))
    table = tag("table", tag("tbody", head, *rows), class_="patterns")
    largest = f"The {len(found.patterns)} most frequent patterns. " if found.count > len(found.patterns) else ""
    rest = f" {counted(complete, 'variable')} without missing entries not shown." if complete else ""
    return [
        tag("h3", "Patterns of missing entries"),
        tag("p", f"{largest}Filled: observed; dashed: missing.{rest}", class_="soft"),
        tag("div", table, class_="table", tabindex="0", role="region", aria_label="patterns of missing entries"),
    ]


def conditioning(content: Content) -> list[Markup]:
    """The condition number, its effect on the accuracy, and the combination of variables with the smallest variance."""
    found = content.conditioning
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
    caption = tag("figcaption", "Eigenvalues of the correlation matrix, largest first (logarithmic scale).")
    return [*parts, tag("figure", charts.eigenvalues(content).markup(), caption)]


def parameters(content: Content) -> list[Markup]:
    """The table of all parameters."""
    table = content.parameters
    rows = [
        [name, *(Number(value, digits(value), exact=False) for value in values)]
        for name, *values in zip(table.words, *table.columns.values(), strict=True)
    ]
    notes = "; ".join(table.notes)
    return [
        tag(
            "p",
            f"{notes}. The CSV and the data inside this file have the exact names, such as {table.names[-1]}.",
            class_="soft",
        ),
        sortable_table("all-parameters", ["parameter", *table.columns], rows, "parameters", in_data="parameters"),
    ]
