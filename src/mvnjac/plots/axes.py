"""Axes: their style, the labels of rows, and labels that do not overlap."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from datetime import date, datetime
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.dates import AutoDateLocator, date2num, num2date
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import Formatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from mvnjac.plots.palette import Palette

#: the width of a label below an axis of rows, in points, with space on both sides
_LABEL_WIDTH = 58
#: the most characters of a name; longer ones are shortened
LONGEST_NAME = 22


def new_axes(ax: Axes | None, size: tuple[float, float] = (8.0, 4.0)) -> Axes:
    """The given axes, or those of a new pyplot figure of this size in inches."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def figure_of(ax: Axes) -> Figure:
    """The whole figure, also of axes in a part of it."""
    return ax.figure.canvas.figure


def style(ax: Axes, palette: Palette, *, grid: Literal["x", "y", "both"] | None = "y") -> None:
    """Axes with few lines: ticks in a soft colour, no upper and right spine, and a grid behind the data."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(palette.soft)
    ax.tick_params(which="both", color=palette.soft, labelcolor=palette.soft, length=3, width=0.8)
    ax.tick_params(axis="x", pad=6)  # the first label is below the lowest one of the vertical axis
    ax.set_axisbelow(True)
    if grid is not None:
        ax.grid(True, axis=grid, color=palette.grid, linewidth=0.8)
    for text in (ax.xaxis.label, ax.yaxis.label, ax.title):
        text.set_color(palette.ink)


def log_scale(ax: Axes, low: float, high: float) -> None:
    """A logarithmic y axis with at least two numbers: powers of ten; 1, 2 and 5 times these where there are too few."""
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    powers = math.floor(math.log10(high)) - math.ceil(math.log10(low)) + 1
    if powers < 2:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high / low >= 5 else MaxNLocator(4))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def plain(text: Text) -> Text:
    """The same text, whose dollar signs do not start a formula."""
    text.set_parse_math(False)
    return text


def shortened(name: object, longest: int = LONGEST_NAME) -> str:
    """A name of limited width, in one line; the end of a long one is replaced by an ellipsis."""
    words = " ".join(str(name).split()) or "(no name)"
    if text_width(words) <= longest:
        return words
    while text_width(words) > longest - 1:
        words = words[:-1]
    return words.rstrip() + "…"


def text_width(words: str) -> int:
    """The number of letters of an ordinary width; Chinese, Japanese and Korean letters count twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in words)


def name_ticks(axis: Axis, names: Sequence[object], longest: int = LONGEST_NAME) -> None:
    """One tick for each position 0, 1, …, with its name; below an axis, names are written upwards."""
    axis.set_ticks(np.arange(len(names)), [shortened(name, longest) for name in names])
    for label in axis.get_ticklabels():
        plain(label)
        if isinstance(axis, XAxis):
            label.set(rotation=90, ha="right", va="center", rotation_mode="anchor")


def row_text(label: Any) -> str:
    """The label of a row: a date without its time if that is midnight."""
    text = str(label)
    return text.removesuffix(" 00:00:00") if isinstance(label, datetime) else text.removesuffix("T00:00:00")


def row_positions(labels: Sequence[Any]) -> tuple[np.ndarray, str]:
    """(n,) the positions of rows on the axis of time, and their kind.

    The kind is "date" (positions of matplotlib's dates) if all labels are dates, also as text, in ascending order; "number" if they
    are ascending numbers; else "text", with the positions 0, 1, ….
    """
    for kind, convert in (("date", _dates), ("number", _numbers)):
        found = convert(labels)
        if found is not None and len(found) and bool(np.isfinite(found).all()) and bool((np.diff(found) >= 0).all()):
            return found, kind
    return np.arange(len(labels), dtype=float), "text"


def row_axis(ax: Axes, labels: Sequence[Any], palette: Palette) -> np.ndarray:
    """Set the horizontal axis to rows with these labels; returns their positions."""
    positions, kind = row_positions(labels)
    width = ax.get_window_extent().width * 72 / figure_of(ax).dpi
    count = max(2, min(9, int(width / _LABEL_WIDTH)))
    if kind == "date":
        ax.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=max(count, 4)))
        ax.xaxis.set_major_formatter(_DateFormatter())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(count, integer=True, steps=[1, 2, 5, 10]))
        words = [shortened(row_text(label), 12) for label in labels]
        by_place = FuncFormatter(lambda x, _: words[int(x)] if 0 <= x < len(words) and x == int(x) else "")
        ax.xaxis.set_major_formatter(by_place if kind == "text" else FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(*limits(positions))
    return positions


def row_fractions(labels: Sequence[Any]) -> np.ndarray:
    """(n,) the positions of rows along the axis that `row_axis` sets, from 0 at its left end to 1."""
    positions = row_positions(labels)[0]
    return fractions(positions, *limits(positions))


def limits(positions: np.ndarray, margin: float = 0.01) -> tuple[float, float]:
    """The ends of an axis over these ascending positions, with a margin at both, as a share of their range."""
    first, last = float(positions[0]), float(positions[-1])
    beyond = margin * (last - first) or 0.5
    return first - beyond, last + beyond


def fractions(positions: np.ndarray, first: float, last: float) -> np.ndarray:
    """Positions along an axis as shares of its length."""
    return (positions - first) / (last - first)


class _DateFormatter(Formatter):
    """Years, months, days or hours, as coarse as the ticks allow."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return num2date(x).strftime("%Y-%m-%d")

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        days = [num2date(value) for value in values]
        form = "%m-%d %H:%M"
        if all(day.hour == day.minute == 0 for day in days):
            form = "%Y-%m-%d"
            if all(day.day == 1 for day in days):
                form = "%Y" if all(day.month == 1 for day in days) else "%Y-%m"
        return [day.strftime(form) for day in days]


def _dates(labels: Sequence[Any]) -> np.ndarray | None:
    """Dates as numbers of days; None if the labels are not dates."""
    first = labels[0] if len(labels) else None
    try:
        if isinstance(first, date | datetime | np.datetime64):
            return np.asarray(date2num(list(labels)), dtype=float)
        if isinstance(first, str) and first[:4].isdigit() and len(first) >= 7 and all(isinstance(x, str) for x in labels):
            return np.asarray(date2num(np.array([label[:19] for label in labels], dtype="datetime64[s]")), dtype=float)
    except (ValueError, TypeError, OverflowError, AttributeError):
        return None
    return None


def _numbers(labels: Sequence[Any]) -> np.ndarray | None:
    if not all(isinstance(label, int | float | np.integer | np.floating) and not isinstance(label, bool) for label in labels):
        return None
    return np.asarray(labels, dtype=float)


def _line_box(text: Text) -> Bbox:
    """Where a text is, with the height of a line also if its letters are low; a text that is turned has that width."""
    figure = text.get_figure()
    assert figure is not None
    box = text.get_window_extent()
    line, sideways = 1.25 * float(text.get_fontsize()) * figure.dpi / 72, text.get_rotation() == 90
    missing = max(line - (box.width if sideways else box.height), 0) / 2
    return box.padded(missing, 0) if sideways else box.padded(0, missing)


def settle(ax: Axes) -> None:
    """Compute the layout of the figure, so that positions of texts are known."""
    figure = figure_of(ax)
    engine = figure.get_layout_engine()
    if engine is None:
        figure.draw_without_rendering()
    else:
        engine.execute(figure)


def thin_labels(axis: Axis) -> bool:
    """Hide the labels of ticks that would overlap another one: every second, third, … label stays.

    The layout must be known, see `settle`. Returns whether a label was hidden.
    """
    ticks = [tick for tick in axis.get_major_ticks() if tick.label1.get_visible() and tick.label1.get_text()]
    boxes = [_line_box(tick.label1) for tick in ticks]
    apart = 2.0 if isinstance(axis, XAxis) else 0.0

    def fits(step: int) -> bool:
        kept = boxes[::step]
        return not any(one.padded(apart).overlaps(other) for one, other in pairwise(kept))

    step = next((step for step in range(1, len(ticks)) if fits(step)), max(len(ticks), 1))
    for i, tick in enumerate(ticks):
        if i % step:
            tick.label1.set_visible(False)
    return step > 1 and len(ticks) > 1
