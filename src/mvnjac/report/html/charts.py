"""The charts of the report: which numbers of the content are drawn, in which size, and what is shown on hover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from mvnjac.plots import diagnostics, estimates, matrices, series
from mvnjac.plots.axes import row_fractions, row_text
from mvnjac.plots.palette import DEFAULT
from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.diagnostics import Timeline
from mvnjac.report.analysis.estimates_table import HeatMap
from mvnjac.report.analysis.stability import Break, Cusum, Influences
from mvnjac.report.html.figures import PALETTE, Chart
from mvnjac.report.html.formatting import short

#: the height of a line with a name, and the largest height of a chart (a page of paper), in pixels
_LINE, _TALLEST = 15, 960
_BINS = 480


def influence(content: Content, found: Influences, marked: int) -> Chart:
    """One stem per row."""
    values = np.array(found.distances)

    def draw(ax: Axes, names: Sequence[str], narrow: bool) -> object:
        return series.draw_stems(ax, values, content.labels, threshold=1.0, marked=marked, palette=PALETTE)

    caption = f"Influence of each {content.row} over time"
    return Chart("influence-chart", caption, draw, lambda width: (width, 300), hover=_rows(content, values))


def cusum(content: Content, found: Cusum) -> Chart:
    """The largest cumulative score after each row."""
    values = np.array(found.path)

    def draw(ax: Axes, names: Sequence[str], narrow: bool) -> object:
        return series.draw_statistic(ax, values, content.labels, found.critical, found.row, palette=PALETTE)

    caption = f"Largest cumulative score over time, with its 5% line; maximum after {found.date}"
    return Chart("cusum-chart", caption, draw, lambda width: (width, 260), hover=_rows(content, values))


def small_break(content: Content, test: Break, number: int) -> Chart:
    """The statistic of a break in one variable, without labels."""

    def draw(ax: Axes, names: Sequence[str], narrow: bool) -> object:
        path = np.array(test.path)
        return series.draw_small_statistic(ax, path, content.labels, test.critical, test.row, palette=PALETTE)

    caption = f"{test.variable}: statistic of a break over time, largest after {test.date}"
    return Chart(f"break-{number}", caption, draw, lambda width: (width, 64), widths={"small": 220})


def correlation(content: Content) -> Chart:
    """The correlation matrix."""
    values, scale = np.array(content.volatilities.correlation), matrices.correlations()
    return _matrix("correlation", "Correlation matrix", content, values, scale, "correlation")


def heat_map(content: Content, found: HeatMap) -> Chart:
    """A number for each element of Σ."""
    values = np.array(found.values)
    scale, title = (
        (matrices.signed(values), "scaled total score")
        if found.diverging
        else (matrices.ratios(values), "robust / classical variance")
    )
    return _matrix("heat-map", f"Map of the covariance matrix: {title}", content, values, scale, title)


def _matrix(name: str, caption: str, content: Content, values: np.ndarray, scale: matrices.Scale, title: str) -> Chart:
    d = len(content.names)
    titles = [f"{content.names[i]}, {content.names[j]}: {short(float(values[i, j]))}" for i in range(d) for j in range(i + 1)]

    def draw(ax: Axes, names: Sequence[str], narrow: bool) -> object:
        return matrices.draw_matrix(
            ax, values, names, scale, palette=PALETTE, image_palette=DEFAULT, bar_title=title, horizontal_bar=narrow
        )

    def size(width: float) -> tuple[float, float]:
        if width < 500:
            return width, 1.25 * width
        return min(width, 260 + 40 * d), min(0.93 * width, 130 + 40 * d)

    as_image = d > matrices.CELLS
    return Chart(
        f"{name}-chart", caption, draw, size, content.names, () if as_image else titles, cells=name if as_image else None
    )


def volatilities(content: Content) -> Chart:
    """The standard deviations in descending order, with intervals if there are errors."""
    found = content.volatilities
    values = np.array(found.values)
    errors = np.full(len(values), math.nan) if found.robust_errors is None else np.array(found.robust_errors)
    order = np.argsort(-values, kind="stable")
    names = [content.names[i] for i in order]
    lower, upper = values - 1.96 * errors, values + 1.96 * errors
    titles = [f"{name}: {short(values[i])}{_interval(lower[i], upper[i])}" for name, i in zip(names, order, strict=True)]

    def draw(ax: Axes, shown: Sequence[str], narrow: bool) -> object:
        if np.isfinite(errors).any():
            return estimates.draw_intervals(ax, shown, values[order], lower[order], upper[order], palette=PALETTE)
        return estimates.draw_bars(ax, shown, values[order], palette=PALETTE)

    caption = "Standard deviations of the variables, largest first"
    return Chart("volatility-chart", caption, draw, partial(_lines, len(names)), names, titles)


def quantiles(content: Content, marked: int) -> Chart:
    """Mahalanobis distances against their quantiles under the model."""
    found = content.distances
    expected, observed = np.array(found.expected), np.array(found.observed)
    places = diagnostics.quantile_fractions(expected)
    hover = [
        (places[i], f"{row_text(found.labels[i])}: {short(observed[i])}, expected {short(expected[i])}")
        for i in diagnostics.quantile_rows(len(expected))
    ]

    def draw(ax: Axes, names: Sequence[str], narrow: bool) -> object:
        diagnostics.draw_quantiles(ax, expected, observed, found.labels, marked=marked, palette=PALETTE)
        ax.set_xlabel("expected quantile")
        return ax.set_ylabel("squared distance")

    caption = "Quantiles of the squared Mahalanobis distances against those of the model"
    return Chart("quantile-chart", caption, draw, lambda width: (min(width, 560), min(width, 400)), hover=hover)


def timeline(content: Content, found: Timeline) -> Chart:
    """The share of missing entries of each variable over time."""

    def draw(ax: Axes, names: Sequence[str], narrow: bool) -> object:
        shares = np.array(found.shares)
        return diagnostics.draw_timeline(ax, shares, names, content.labels, palette=PALETTE, image_palette=DEFAULT)

    caption = "Missing entries of each variable over time"
    return Chart("missing-chart", caption, draw, partial(_lines, len(content.names)), content.names, cells="missing")


def eigenvalues(content: Content) -> Chart:
    """The eigenvalues of the correlation matrix."""
    values = np.array(content.conditioning.eigenvalues)
    titles = [f"{i + 1}: {short(value)}" for i, value in enumerate(values)]

    def draw(ax: Axes, names: Sequence[str], narrow: bool) -> object:
        return estimates.draw_eigenvalues(ax, values, palette=PALETTE)

    caption = "Eigenvalues of the correlation matrix, largest first"
    return Chart("eigenvalue-chart", caption, draw, lambda width: (width, 180), titles=titles)


def _lines(count: int, width: float) -> tuple[float, float]:
    """The size of a chart with a line for each of several names."""
    return width, min(50 + _LINE * max(count, 3), _TALLEST)


def _rows(content: Content, values: np.ndarray) -> list[tuple[float, str]]:
    """The texts on hover of rows over time; of each part of the axis, that of the largest value."""
    places = row_fractions(content.labels)
    return [
        (places[i], f"{row_text(content.labels[i])}: {short(float(values[i]))}")
        for i in series.largest_by_bin(places, values, _BINS)
    ]


def _interval(low: float, high: float) -> str:
    return f" ({short(low)} to {short(high)})" if math.isfinite(low) else ""
