"""Panels over time: influential rows, and structural breaks."""

from __future__ import annotations

from mvnjac.inference.process_plots import LEVEL
from mvnjac.plots.axes import row_text
from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.stability import TOP, Break, Cusum, Influences
from mvnjac.report.analysis.unavailable import Unavailable
from mvnjac.report.html import charts
from mvnjac.report.html.formatting import equals, probability, short
from mvnjac.report.html.html_table import Number, sortable_table
from mvnjac.report.html.markup import Markup, tag

#: the number of rows that are labelled in the chart, and the largest number of variables with a chart
_NAMED, _DRAWN = 7, 12
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
    headings = [content.data.index or "row", "distance", "most changed estimate", "change in standard errors"]
    rows = [
        [row_text(row.label), Number(row.distance), content.in_words(row.most_changed), Number(row.standard_errors)]
        for row in found.top
    ]
    explanation = tag(
        "figcaption",
        f"Generalised Cook distance sᵀ I⁻¹ s of each {content.row} (logarithmic scale; if several share a pixel, the largest is "
        "drawn). At a distance of ",
        tag("span", "1", class_="dash"),
        ", the estimates move by one standard error in some direction. The smaller half of the distances is below the axis.",
    )
    text = tag("p", _influence_text(found, content))
    figure = tag("figure", charts.influence(content, found, _NAMED).markup(), explanation)
    return [text, figure, sortable_table(f"the-{TOP}-most-influential-rows", headings, rows, "influence.top")]


def _influence_text(found: Influences, content: Content) -> str:
    first, names = found.top[0], ", ".join(row_text(row.label) for row in found.top[:3])
    size, most = short(abs(first.standard_errors)), content.in_words(first.most_changed)
    if not content.estimate:
        return (
            f"How much does each {content.row} change the result of one estimation step from the given parameters? The largest "
            f"changes are those of {names}. For {row_text(first.label)}, the most affected parameter is the {most}: "
            f"{size} standard errors."
        )
    direction = "rise" if first.standard_errors > 0 else "fall"
    combined = any(row.distance > 1 and abs(row.standard_errors) < _SMALL for row in found.top)
    note = f" Some {content.row}s change no single estimate much, but a combination of several estimates." if combined else ""
    return (
        f"How much would the estimates change if a {content.row} were left out? The largest changes are those of {names}. Without "
        f"{row_text(first.label)}, the {most} would {direction} by {size} standard errors.{note}"
    )


def breaks(content: Content) -> list[Markup]:
    """The cumulative scores, and the test of each variable."""
    found = content.cusum
    if isinstance(found, Unavailable):
        return unavailable(found)
    tests = sorted(found.breaks, key=lambda test: (test.p_value, -test.statistic))
    rows = [
        [
            test.variable,
            row_text(test.date),
            Number(test.p_value, probability(test.p_value)),
            Number(test.corrected_p_value, probability(test.corrected_p_value)),
            Number(test.statistic),
            row_text(test.first),
            row_text(test.last),
            row_text(test.independent_date),
            Number(test.independent_p_value, probability(test.independent_p_value)),
        ]
        for test in tests
    ]
    headings = ["variable", "break after", "p", "p, corrected", "supLM", "tested from", "to"]
    headings += ["break, if independent", "p, if independent"]
    explanation = tag(
        "figcaption",
        f"Score CUSUM: the largest of the cumulative, decorrelated scores at each {content.row}. If no parameter changes, it always "
        "stays below the ",
        tag("span", "dashed line", class_="dash"),
        f" at {short(found.critical)} with probability 95%.{_left_out(found)}",
    )
    smalls = [_small(content, test, number) for number, test in enumerate(tests[:_DRAWN])]
    which = f"The {_DRAWN} variables with the smallest p-values: each" if len(tests) > _DRAWN else "Each"
    return [
        tag("p", _summary(found, content)),
        tag("figure", charts.cusum(content, found).markup(), explanation),
        tag("h3", "Variable by variable"),
        tag(
            "p",
            f"{which} chart shows the statistic of a single break after each {content.row}, with its 5% line.",
            class_="soft",
        ),
        tag("div", *smalls, class_="smalls"),
        sortable_table("breaks-by-variable", headings, rows, "breaks"),
        tag("p", _explanation(found), class_="soft"),
    ]


def _summary(found: Cusum, content: Content) -> str:
    changed = sorted((test for test in found.breaks if test.corrected_p_value < LEVEL), key=lambda test: test.p_value)
    names = ", ".join(f"{test.variable} ({row_text(test.date)})" for test in changed[:8])
    more = f" and {len(changed) - 8} more" if len(changed) > 8 else ""
    tested = len(found.breaks)
    independent = sum(test.independent_p_value < LEVEL for test in found.breaks)
    return (
        f"The largest cumulative score is that of the {content.in_words(found.column)}: {short(found.statistic)} after "
        f"{row_text(found.date)} (p {equals(found.p_value)}). Of {tested} variables, each tested for a single break in all of its "
        f"parameters, {f'a break is found in {names}{more}' if changed else 'no break is found in any'} at the 5% level, with Holm's "
        f"correction for {tested} tests. Without it, about {max(1, round(LEVEL * tested))} of {tested} variables would show a break by "
        f"chance; if the rows were independent, breaks would be found in {independent}."
    )


def _explanation(found: Cusum) -> str:
    untested = f" Not tested, because they have too few observations: {', '.join(found.untested)}." if found.untested else ""
    correction = "p and p, corrected, both have" if found.correction else "p is that of one test alone; p, corrected, has"
    return (
        "The statistic is the largest Lagrange multiplier statistic (supLM) between 15% and 85% of the information about a parameter; "
        f"the table shows the period in which a break was looked for. p-values are from {found.law}; {correction} Holm's correction "
        f"for the number of variables. Covariance of the scores: {found.covariance}. The last two columns assume that the rows are "
        "independent. If the volatility changes over time, as in returns, this assumption leads to false breaks; the Newey-West "
        "covariance is conservative, because a break inflates it. A break that both tests find is well supported; a break that only "
        f"the last columns show is uncertain.{untested}"
    )


def _left_out(found: Cusum) -> str:
    return f" Left out: {', '.join(found.left_out)} (identified only up to a convention)." if found.left_out else ""


def _small(content: Content, test: Break, number: int) -> Markup:
    return tag(
        "div",
        tag("h3", test.variable),
        tag("p", f"{row_text(test.date)}, p {equals(test.corrected_p_value)}"),
        charts.small_break(content, test, number).markup(),
    )
