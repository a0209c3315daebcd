"""The opening of the page: three sentences on what matters, and alerts."""

from __future__ import annotations

import math
from statistics import median

from mvnjac.errors import counted
from mvnjac.inference.process_plots import LEVEL
from mvnjac.plots.axes import row_text
from mvnjac.report.analysis.alerts import FEW_ENTRIES, FEW_ROWS
from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.stability import Cusum
from mvnjac.report.analysis.unavailable import Unavailable
from mvnjac.report.html.formatting import equals, short
from mvnjac.report.html.markup import Markup, join, tag

#: an eigenvalue of the correlation matrix below which a combination of variables is nearly constant
_NEARLY_CONSTANT = 0.01
#: the most alerts of one kind that are written out
_MOST = 5


def opening(content: Content) -> Markup:
    """Three sentences, on extraordinary rows, breaks and precision; and the alerts, if there are any."""
    sentences = [_extraordinary(content), _breaks(content), _precision(content)]
    found = _alerts(content)
    alerts = tag("ul", *(tag("li", text) for text in found), class_="alerts") if found else ""
    return join([*(tag("p", sentence, class_="lead") for sentence in sentences), alerts])


def _extraordinary(content: Content) -> Markup:
    found, beyond = content.influence, content.distances.beyond
    share = (
        f"{counted(beyond, content.row, ',')} of {content.rows:,} {'is' if beyond == 1 else 'are'} more extraordinary than one in "
        "1,000 of a normal distribution"
    )
    if isinstance(found, Unavailable):
        return join([tag("strong", "Extraordinary "), f"{content.row}s: {share}."])
    top, first = [row_text(row.label) for row in found.top[:3]], found.top[0]
    names = top[0] if len(top) == 1 else f"{', '.join(top[:-1])} and {top[-1]}"
    verb, change = "influences" if len(top) == 1 else "influence", first.standard_errors
    effect = (
        f"; without {top[0]}, the {content.in_words(first.most_changed)} would {'rise' if change > 0 else 'fall'} by "
        f"{short(abs(change))} standard errors"
        if math.isfinite(change)
        else ""
    )
    return join(
        [
            tag("strong", f"Extraordinary {content.row}s: "),
            f"{names} {verb} the estimates most{effect}. {share[0].upper()}{share[1:]}.",
        ]
    )


def _breaks(content: Content) -> Markup:
    found = content.cusum
    if not content.estimate:
        return _given(content)
    if isinstance(found, Unavailable):
        return join([tag("strong", "Breaks: "), f"not tested. {found.reason}"])
    return join([tag("strong", "Breaks: "), _breaks_text(content, found)])


def _breaks_text(content: Content, found: Cusum) -> str:
    tested = counted(len(found.breaks), "variable")
    changed = sorted((test for test in found.breaks if test.corrected_p_value < LEVEL), key=lambda test: test.p_value)
    if not changed:
        whole = (
            f", although the parameters together change after {row_text(found.date)} (p {equals(found.p_value)})"
            if found.p_value < LEVEL
            else ""
        )
        where = f"any of {tested}" if len(found.breaks) != 1 else found.breaks[0].variable
        return f"none is found in {where} (5% level, corrected for the number of tests){whole}."
    names = ", ".join(f"{test.variable} (after {row_text(test.date)})" for test in changed[:3])
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    level = "5% level, corrected for the number of tests"
    return f"the parameters of {len(changed)} of {tested} change over time ({level}): {names}{more}."


def _given(content: Content) -> Markup:
    total = content.total
    title = tag("strong", "Given parameters: ")
    if isinstance(total, Unavailable):
        return join([title, f"not tested. {total.reason}"])
    verdict = "do not fit the rows" if total.p_value < LEVEL else "are compatible with the rows"
    return join(
        [title, f"they {verdict} (score test: χ² = {short(total.statistic)}, {total.df} df, p {equals(total.p_value)})."]
    )


def _precision(content: Content) -> Markup:
    title = tag("strong", "Precision: ")
    errors, values = content.volatilities.robust_errors, content.volatilities.values
    if not content.estimate:
        return join([title, "the parameters are given; the table shows the errors that estimates of them would have."])
    found = [1.96 * error / value for error, value in zip(errors or [], values, strict=False) if math.isfinite(error)]
    if not found:
        return join([title, "robust standard errors are not available from these rows."])
    table = content.parameters.columns
    pairs = zip(table.get("classical error", []), table.get("robust error", []), strict=False)
    ratios = [robust / classical for classical, robust in pairs if classical > 0 and math.isfinite(robust)]
    compared = f"; robust standard errors are {short(median(ratios))} times the classical ones (median)" if ratios else ""
    return join(
        [
            title,
            f"the standard deviations are known to within ±{100 * median(found):.2g}% (95%, median of the variables){compared}.",
        ]
    )


def _alerts(content: Content) -> list[str]:
    """What may make the results misleading, in sentences."""
    alerts, condition = content.alerts, content.conditioning
    found = [
        f"{run.variable} does not change for {counted(run.rows, content.row, ',')} in a row, from {row_text(run.first)} to "
        f"{row_text(run.last)}: the series may be stale."
        for run in alerts.stale[:_MOST]
    ]
    if len(alerts.stale) > _MOST:
        found.append(
            f"{counted(len(alerts.stale) - _MOST, 'other variable')} also stand still for five {content.row}s or more."
        )
    smallest = condition.eigenvalues[-1] if len(condition.eigenvalues) > 1 else 1.0
    if smallest < _NEARLY_CONSTANT:
        names = ", ".join(name for name, weight in condition.combination if abs(weight) >= 0.2)
        found.append(
            f"A combination of {names} is nearly constant: its variance is {100 * max(smallest, 0.0):.2g}% of that of one variable "
            "(each in units of its standard deviation)."
        )
    if alerts.rows_per_parameter < FEW_ROWS:
        found.append(
            f"There are only {short(alerts.rows_per_parameter)} {content.row}s per parameter: standard errors and tests, which hold "
            "for many rows, are rough."
        )
    found += [f"{name} has only {counted(count, 'entry')} (fewer than {FEW_ENTRIES})." for name, count in alerts.few[:_MOST]]
    if len(alerts.few) > _MOST:
        found.append(f"{counted(len(alerts.few) - _MOST, 'other variable')} also have fewer than {FEW_ENTRIES} entries.")
    if content.boundary:
        names = ", ".join(content.in_words(name) for name in content.boundary[:_MOST])
        found.append(f"At their lower bound, where standard errors are conditional: {names}.")
    return found
