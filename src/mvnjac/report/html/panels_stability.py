"""Panels over time: influential rows, and structural breaks."""

from __future__ import annotations

from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.stability import LEVEL, TOP, Break, Cusum, Influences
from mvnjac.report.analysis.unavailable import Unavailable
from mvnjac.report.html import charts
from mvnjac.report.html.formatting import probability, short
from mvnjac.report.html.html_table import Number, sortable_table
from mvnjac.report.html.markup import Markup, tag

#: the number of rows that are labelled in the chart, and the largest number of variables with a chart
_NAMED, _DRAWN = 7, 24
#: a change of an estimate, in standard errors, below which it counts as small
_SMALL = 0.5


def unavailable(found: Unavailable) -> list[Markup]:
    """The reason why a panel is empty."""
    return [tag("p", found.reason, class_="why")]


def influence(content: Content) -> list[Markup]:
    """The influence of each row, and a table of the most influential rows."""
    found = content.influence
    if isinstance(found, Unavailable):
        return unavailable(found)
    at = sorted(range(content.rows), key=lambda i: -found.distances[i])[:_NAMED]
    marked = [(row, str(content.labels[row])) for row in at]
    caption = f"Influence of each row over time; the largest: {', '.join(text for _, text in marked)}"
    chart = charts.both(lambda width: charts.stems(found.distances, content.labels, marked, caption, width))
    headings = [content.data.index or "row", "distance", "most changed estimate", "change in standard errors"]
    rows = [[row.label, Number(row.distance), row.most_changed, Number(row.standard_errors)] for row in found.top]
    explanation = tag(
        "figcaption",
        "Generalised Cook distance sᵀ I⁻¹ s of each row (logarithmic scale; if several rows share a pixel, the largest is drawn). At a "
        "distance of ",
        tag("span", "1", class_="dash"),
        ", the estimates move by one standard error in some direction. The smaller half of the distances is below the axis.",
    )
    text = tag("p", _influence_text(found, content.estimate))
    return [text, tag("figure", chart, explanation), sortable_table(f"the-{TOP}-most-influential-rows", headings, rows)]


def _influence_text(found: Influences, estimate: bool) -> str:
    first, names = found.top[0], ", ".join(str(row.label) for row in found.top[:3])
    size = short(abs(first.standard_errors))
    if not estimate:
        return (
            "How much does each row change the result of one estimation step from the given parameters? The largest changes are those "
            f"of {names}. For {first.label}, the most affected parameter is {first.most_changed}: {size} standard errors."
        )
    direction = "rise" if first.standard_errors > 0 else "fall"
    combined = any(row.distance > 1 and abs(row.standard_errors) < _SMALL for row in found.top)
    note = " Some rows change no single estimate much, but a combination of several estimates." if combined else ""
    return (
        f"How much would the estimates change if a row were left out? The largest changes are those of {names}. Without {first.label}, "
        f"{first.most_changed} would {direction} by {size} standard errors.{note}"
    )


def breaks(content: Content) -> list[Markup]:
    """The cumulative scores, and the test of each variable."""
    found = content.cusum
    if isinstance(found, Unavailable):
        return unavailable(found)
    caption = f"Largest cumulative score over time, with its 5% line; maximum after {found.date}"
    mark = (found.row, str(found.date))
    chart = charts.both(lambda width: charts.curve(found.path, content.labels, found.critical, mark, caption, width))
    tests = sorted(found.breaks, key=lambda test: test.p_value)
    rows = [
        [
            test.variable,
            test.first,
            test.last,
            test.date,
            Number(test.statistic),
            Number(test.p_value, probability(test.p_value)),
            Number(test.parameters, str(test.parameters)),
            test.independent_date,
            Number(test.independent_p_value, probability(test.independent_p_value)),
        ]
        for test in tests
    ]
    headings = ["variable", "tested from", "to", "break after", "supLM", "p‑value", "parameters"]
    headings += ["break, if independent", "p‑value, if independent"]
    explanation = tag(
        "figcaption",
        "Score CUSUM: the largest of the cumulative, decorrelated scores at each row. If no parameter changes, it always stays below "
        "the ",
        tag("span", "dashed line", class_="dash"),
        f" at {short(found.critical)} with probability 95%.{_left_out(found)}",
    )
    return [
        tag("p", _summary(found)),
        tag("figure", chart, explanation),
        tag("h3", "Variable by variable"),
        tag("p", _explanation(found), class_="soft"),
        tag("div", *(_small(test) for test in tests[:_DRAWN]), class_="smalls"),
        sortable_table("breaks-by-variable", headings, rows),
    ]


def _summary(found: Cusum) -> str:
    changed = sorted((test for test in found.breaks if test.p_value < LEVEL), key=lambda test: test.p_value)
    names = ", ".join(f"{test.variable} ({test.date})" for test in changed)
    p = f"p {'' if found.p_value < 1e-15 else '= '}{probability(found.p_value)}"
    independent = sum(test.independent_p_value < LEVEL for test in found.breaks)
    return (
        f"The largest cumulative score is that of {found.column}: {short(found.statistic)} after {found.date} ({p}). In the tests of "
        f"single variables at the 5% level, {f'a break is found in {names}' if changed else 'no break is found'}; if the rows were "
        f"independent, breaks would be found in {independent} of {len(found.breaks)} variables."
    )


def _explanation(found: Cusum) -> str:
    untested = f" Not tested, because they have too few observations: {', '.join(found.untested)}." if found.untested else ""
    return (
        "Each chart shows the Lagrange multiplier statistic of a single break after each row, in all parameters of a variable, with "
        "its 5% line; the test statistic is the maximum (supLM) between 15% and 85% of the information about a parameter. The table "
        f"shows the period in which a break was looked for. p-values are from {found.law}; "
        f"{found.correction or 'they are for one test at a time'}. Covariance of the scores: {found.covariance}. The last two columns "
        "assume that the rows are independent. If the volatility changes over time, as in returns, this assumption leads to false "
        "breaks; the Newey-West covariance is conservative, because a break inflates it. A break that both tests find is well "
        f"supported; a break that only the last columns show is uncertain.{untested}"
    )


def _left_out(found: Cusum) -> str:
    return f" Left out: {', '.join(found.left_out)} (identified only up to a convention)." if found.left_out else ""


def _small(test: Break) -> Markup:
    caption = f"{test.variable}: statistic of a break over time, largest after {test.date}"
    p = probability(test.p_value)
    return tag(
        "div",
        tag("h3", test.variable),
        tag("p", f"{test.date}, p {p if p.startswith('<') else '= ' + p}"),
        charts.small_curve(test.path, test.critical, test.row, caption),
    )
