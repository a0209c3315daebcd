"""Panels of the covariance and of the data: the map of Σ, missing entries, condition, the parameters."""

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

#: from this condition on it is worth saying which variables depend on each other
_DEPENDENT = 10


def heat(content: Content) -> list[Markup]:
    """The map of Σ, and what its colours mean."""
    found = content.heat
    if isinstance(found, Unavailable):
        return unavailable(found)
    caption = _heat_caption(found, content)
    drawn = charts.both(lambda width: charts.heat_map(found, content.names, caption, width))
    return [tag("p", caption), tag("figure", drawn, tag("figcaption", *_legend(found)))]


def _heat_caption(found: HeatMap, content: Content) -> str:
    value, i, j = max(
        (abs(v), i, j) for i, row in enumerate(found.values) for j, v in enumerate(row[: i + 1]) if math.isfinite(v)
    )
    element = f"covariance_matrix[{content.names[i]},{content.names[j]}]"
    if found.diverging:
        return (
            "The total score by each element of Σ, in units of its standard deviation: positive where the rows ask for a "
            f"larger covariance than was given, negative for a smaller one; beyond ±2 they speak against the value. Furthest from 0: "
            f"{element}, {short(found.values[i][j])}."
        )
    return (
        "At the estimate every total score is 0. Shown instead is what the scores say of the errors: the variance of each estimated "
        "element of Σ that their spread gives (sandwich) over the one that normality promises (information). 1 is agreement; at 4, "
        f"classical standard errors are half of what they should be. Largest: {element}, {short(value)}."
    )


def _legend(found: HeatMap) -> list[object]:
    high, low = tag("span", "", class_="swatch high"), tag("span", "", class_="swatch low")
    if found.diverging:
        return [high, " rows ask for more, ", low, " for less; the strength of the colour is the size of the scaled score."]
    none = tag("span", "", class_="swatch none")
    return [
        high, " more variance than the model promises, ", low, " less, logarithmic; ", none,
        " elements that the structure fixes.",
    ]  # fmt: skip


def missing(content: Content) -> list[Markup]:
    """The largest patterns, a row each."""
    found = content.missing
    if not found.entries:
        return [
            tag(
                "p",
                f"No entry is missing: {_all(content.rows, 'row')} {'observes' if content.rows == 1 else 'observe'} "
                f"{_all(len(content.names), 'variable')}.",
            )
        ]
    names = content.names
    shown = [j for j, count in enumerate(found.by_variable) if count]
    whole = len(names) - len(shown)
    head = tag(
        "tr", tag("td", "rows", class_="n"), tag("td", "share", class_="n"), *(tag("th", names[j], scope="col") for j in shown),
        class_="names",
    )  # fmt: skip
    rows = []
    for pattern in found.patterns:
        says = [("observed", "box") if pattern.observed[j] else ("missing", "box gone") for j in shown]
        boxes = [tag("td", tag("span", "", class_=look, role="img", aria_label=word)) for word, look in says]
        share = f"{pattern.rows / content.rows:.1%}"
        rows.append(tag("tr", tag("td", f"{pattern.rows:,}", class_="n"), tag("td", share, class_="n"), *boxes))
    table = tag("table", tag("tbody", head, *rows), class_="patterns")
    more = f" The {len(found.patterns)} largest:" if found.count > len(found.patterns) else ""
    rest = f" {whole} variables without gaps are not shown." if whole else ""
    return [
        tag(
            "p",
            f"{counted(found.entries, 'entry', ',')} ({found.share:.1%}) {'is' if found.entries == 1 else 'are'} "
            f"missing, in {counted(found.count, 'pattern', ',')}.{more}",
        ),
        tag("div", table, class_="table", tabindex="0", role="region", aria_label="patterns of missing entries"),
        tag("p", f"Filled: observed; dashed: missing.{rest}", class_="soft"),
    ]


def conditioning(content: Content) -> list[Markup]:
    """κ, the digits that it leaves, and the combination of variables that is nearly constant."""
    found = content.conditioning
    named = found.correlation > _DEPENDENT
    terms = " ".join(
        f"{'−' if weight < 0 else '+'} {abs(weight):.2f} {name}" for name, weight in found.combination if abs(weight) >= 0.05
    ).removeprefix("+ ")
    caption = "Eigenvalues of the correlation matrix, the largest first"
    drawn = charts.both(lambda width: charts.bars(found.eigenvalues, caption, width))
    return [
        tag(
            "p",
            f"κ(Σ) = {short(found.covariance)}; with each variable in units of its standard deviation κ = {short(found.correlation)}, "
            "and it is this number that costs digits, for a Cholesky factorisation does not see units: the scores are good to "
            f"about {found.digits64:.0f} of 16 decimal digits in float64, as here, and would be to "
            f"{found.digits32:.0f} of 7 in float32.",
        ),
        *(
            [tag("p", f"The combination of standardised variables that varies least (largest terms): {terms}.")]
            if named
            else []
        ),
        tag("figure", drawn, tag("figcaption", caption + " (logarithmic scale).")),
    ]


def parameters(content: Content) -> list[Markup]:
    """All of them, in a table."""
    table = content.parameters
    rows = [
        [name, *(Number(value, digits(value)) for value in values)]
        for name, *values in zip(table.names, *table.columns.values(), strict=True)
    ]
    return [
        tag("p", "; ".join(table.notes) + ". Click a heading to sort.", class_="soft"),
        sortable_table("all-parameters", ["parameter", *table.columns], rows, tall=True),
    ]


def _all(count: int, noun: str) -> str:
    """ "the only row", "all 3 rows"."""
    return f"the only {noun}" if count == 1 else f"all {counted(count, noun, ',')}"
