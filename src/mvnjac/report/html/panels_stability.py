"""Panels over time: influential rows, and breaks."""

from __future__ import annotations

from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.stability import LEVEL, TOP, Break, Cusum, Influences
from mvnjac.report.analysis.unavailable import Unavailable
from mvnjac.report.html import charts
from mvnjac.report.html.formatting import probability, short
from mvnjac.report.html.html_table import Number, sortable_table
from mvnjac.report.html.markup import Markup, tag

#: as many rows are named in the chart, and as many variables are drawn
_NAMED, _DRAWN = 7, 24
#: an estimate that moves by fewer of its standard errors than this hardly moves by itself
_ALONE = 0.5


def unavailable(found: Unavailable) -> list[Markup]:
    """Why a panel is empty."""
    return [tag("p", found.reason, class_="why")]


def influence(content: Content) -> list[Markup]:
    """A stem a row, and the largest in a table."""
    found = content.influence
    if isinstance(found, Unavailable):
        return unavailable(found)
    at = sorted(range(content.rows), key=lambda i: -found.distances[i])[:_NAMED]
    marked = [(row, str(content.labels[row])) for row in at]
    caption = f"Influence of each row over time; the largest: {', '.join(text for _, text in marked)}"
    chart = charts.both(lambda width: charts.stems(found.distances, content.labels, marked, caption, width))
    rows = [
        [
            row.label,
            Number(row.distance, short(row.distance)),
            row.most_changed,
            Number(row.standard_errors, short(row.standard_errors)),
        ]
        for row in found.top
    ]
    return [
        tag("p", _who(found, content.estimate)),
        tag(
            "figure",
            chart,
            tag(
                "figcaption",
                "Generalised Cook distance sᵀ I⁻¹ s of each row (logarithmic scale; of the rows behind one pixel the largest is "
                "drawn). At ",
                tag("span", "1", class_="dash"),
                " the estimates move by one standard error in some direction. The smaller half of all is below the axis.",
            ),
        ),
        sortable_table(
            f"the-{TOP}-most-influential-rows",
            [content.data.index or "row", "distance", "most moved estimate", "by standard errors"],
            rows,
        ),
    ]


def _who(found: Influences, estimate: bool) -> str:
    first, names = found.top[0], ", ".join(str(row.label) for row in found.top[:3])
    size = short(abs(first.standard_errors))
    if not estimate:
        return (
            f"How far would one step of estimation, from the given parameters, move for a row's sake? Furthest: {names}. That of "
            f"{first.label} is mostly {first.most_changed}, {size} of its standard errors."
        )
    direction = "rise" if first.standard_errors > 0 else "fall"
    together = any(row.distance > 1 and abs(row.standard_errors) < _ALONE for row in found.top)
    combined = " Where all move far and none does by itself, they move along a combination of variables." if together else ""
    return (
        f"How far would all estimates together move if a row were left out? Furthest: {names}. Without {first.label}, "
        f"{first.most_changed} would {direction} by {size} of its standard errors.{combined}"
    )


def breaks(content: Content) -> list[Markup]:
    """The cumulated scores, and a test a variable."""
    found = content.cusum
    if isinstance(found, Unavailable):
        return unavailable(found)
    caption = f"Largest cumulated score over time with its line at 5%; largest on {found.date}"
    mark = (found.row, str(found.date))
    chart = charts.both(lambda width: charts.curve(found.path, content.labels, found.critical, mark, caption, width))
    most = sorted(found.breaks, key=lambda test: test.p_value)
    rows = [
        [
            test.variable,
            test.first,
            test.last,
            test.date,
            Number(test.statistic, short(test.statistic)),
            Number(test.p_value, probability(test.p_value)),
            Number(test.parameters, str(test.parameters)),
            test.independent_date,
            Number(test.independent_p_value, probability(test.independent_p_value)),
        ]
        for test in most
    ]
    headings = [
        "variable",
        "tested from",
        "to",
        "break after",
        "supLM",
        "p‑value",
        "parameters",
        "break, if independent",
        "p‑value, if independent",
    ]
    return [
        tag("p", _verdict(found)),
        tag(
            "figure",
            chart,
            tag(
                "figcaption",
                "Score CUSUM: at each row the largest of the cumulated, decorrelated scores. If no parameter changes it stays "
                "below the ",
                tag("span", "dashed line", class_="dash"),
                f" at {short(found.critical)} all the time with probability 95%.{_left_out(found)}",
            ),
        ),
        tag("h3", "Variable by variable"),
        tag("p", _explained(found), class_="soft"),
        tag("div", *(_small(test) for test in most[:_DRAWN]), class_="smalls"),
        sortable_table("breaks-by-variable", headings, rows),
    ]


def _verdict(found: Cusum) -> str:
    changed = [test for test in found.breaks if test.p_value < LEVEL]
    names = ", ".join(f"{test.variable} ({test.date})" for test in sorted(changed, key=lambda test: test.p_value))
    first = (
        f"The cumulated score of {found.column} is the largest, {short(found.statistic)} after {found.date} "
        f"(p {'' if found.p_value < 1e-15 else '= '}{probability(found.p_value)})."
    )
    where = f"a break is found at 5% in {names}" if changed else "no break is found at 5%"
    independent = sum(test.independent_p_value < LEVEL for test in found.breaks)
    return f"{first} Variable by variable, {where}; if the rows were independent, it would be in {independent} of {len(found.breaks)}."


def _explained(found: Cusum) -> str:
    untested = f" Not tested, since there are too few rows with it: {', '.join(found.untested)}." if found.untested else ""
    one_at_a_time = found.correction or "p-values are for one test at a time"
    return (
        "The Lagrange multiplier statistic of a single break after each row (between 15% and 85% of the information about a parameter: "
        "supLM), of all parameters that a variable stands in, with its 5% line; the table says from when to when a break "
        f"was looked for. p-values are from {found.law}; {one_at_a_time}. "
        f"Covariance of the scores: {found.covariance}. The last two columns take rows as independent. Where volatility comes and "
        "goes, as in returns, that finds breaks everywhere; Newey and West's is cautious, for a break that is there inflates it. What "
        f"both find is a break; what only the last columns find may be either.{untested}"
    )


def _left_out(found: Cusum) -> str:
    return f" Without {', '.join(found.left_out)}, known up to a convention only." if found.left_out else ""


def _small(test: Break) -> Markup:
    caption = f"{test.variable}: statistic of a break over time, largest after {test.date}"
    p = probability(test.p_value)
    return tag(
        "div",
        tag("h3", test.variable),
        tag("p", f"{test.date}, p {p if p.startswith('<') else '= ' + p}"),
        charts.small_curve(test.path, test.critical, test.row, caption),
    )
