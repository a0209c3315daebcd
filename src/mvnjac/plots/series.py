"""Rows over time: stems, and statistics with a critical value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mvnjac.plots.axes import log_scale, row_axis, row_text, settle, shortened, style
from mvnjac.plots.marks import label_points
from mvnjac.plots.palette import DEFAULT, Palette

#: the number of bins along the axis; of each bin the largest value is drawn
BINS = 720


def largest_by_bin(positions: np.ndarray, values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The rows to draw: of each of these bins along the axis, the row with the largest value; NaN is left out."""
    rows = np.flatnonzero(np.isfinite(values))
    if len(rows) <= bins:
        return rows
    span = float(positions[-1] - positions[0]) or 1.0
    bin_of = np.minimum((positions[rows] - positions[0]) / span * bins, bins - 1).astype(int)
    order = np.lexsort((-values[rows], bin_of))
    firsts = np.unique(bin_of[order], return_index=True)[1]
    return np.sort(rows[order[firsts]])


def draw_stems(
    ax: Axes,
    values: np.ndarray,
    labels: Sequence[Any],
    *,
    threshold: float | None = None,
    marked: int = 7,
    palette: Palette = DEFAULT,
) -> Axes:
    """One stem per row on a logarithmic scale, whose lower end is the median; the largest rows have labels."""
    style(ax, palette)
    positions = row_axis(ax, labels, palette)
    finite = values[np.isfinite(values)]
    highest = max(float(finite.max(initial=0)), 1e-300)
    lowest = max(float(np.median(finite)) if len(finite) else 0.0, highest * 1e-9)
    lowest = min(lowest, highest / 2)
    rows = largest_by_bin(positions, values)
    gaps = np.full(len(rows), np.nan)
    heights = np.stack([np.full(len(rows), lowest), np.maximum(values[rows], lowest), gaps], -1).ravel()
    ax.plot(np.repeat(positions[rows], 3), heights, color=palette.line, linewidth=1.0, solid_capstyle="butt")
    log_scale(ax, lowest, lowest * (highest / lowest) ** 1.22)
    if threshold is not None and lowest < threshold < highest:
        ax.axhline(threshold, color=palette.alert, linewidth=1, linestyle=(0, (5, 4)))
    largest = [int(i) for i in np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:marked]]
    label_points(ax, [(float(positions[i]), float(values[i]), shortened(row_text(labels[i]))) for i in largest], palette)
    return ax


def draw_statistic(
    ax: Axes,
    values: np.ndarray,
    labels: Sequence[Any],
    critical: float | None,
    at: int,
    *,
    critical_text: str = "5% line",
    palette: Palette = DEFAULT,
) -> Axes:
    """A statistic after each row, (n,), NaN where it is not defined, with its critical value; row `at` is labelled."""
    style(ax, palette)
    positions = row_axis(ax, labels, palette)
    rows = largest_by_bin(positions, values)
    ax.plot(positions[rows], values[rows], color=palette.line, linewidth=1.4)
    highest = max([float(np.nanmax(values, initial=0)), *([] if critical is None else [critical])])
    ax.set_ylim(0, 1.25 * (highest or 1.0))
    ax.plot([positions[at]] * 2, [0, values[at]], color=palette.soft, linewidth=1, linestyle=(0, (2, 3)))
    if critical is not None:
        ax.axhline(critical, color=palette.alert, linewidth=1, linestyle=(0, (5, 4)))
        _label_line(ax, critical, critical_text, values, positions, palette)
    label_points(ax, [(float(positions[at]), float(values[at]), shortened(row_text(labels[at])))], palette)
    return ax


def draw_small_statistic(
    ax: Axes, values: np.ndarray, labels: Sequence[Any], critical: float, at: int, *, palette: Palette = DEFAULT
) -> Axes:
    """The same without labels, for a small chart."""
    positions = row_axis(ax, labels, palette)
    ax.set_axis_off()
    rows = largest_by_bin(positions, values, 160)
    ax.axvline(positions[at], color=palette.soft, linewidth=1, linestyle=(0, (2, 3)))
    ax.axhline(critical, color=palette.alert, linewidth=1, linestyle=(0, (5, 4)))
    ax.axhline(0, color=palette.soft, linewidth=0.8)
    ax.plot(positions[rows], values[rows], color=palette.line, linewidth=1.2)
    ax.set_ylim(0, 1.06 * max(float(np.nanmax(values, initial=0)), critical))
    return ax


def _label_line(ax: Axes, y: float, words: str, values: np.ndarray, positions: np.ndarray, palette: Palette) -> None:
    """Name a horizontal line where the curve does not pass: at its left or right end, above or below; else nowhere."""
    settle(ax)
    finite = np.isfinite(values)
    curve = ax.transData.transform(np.stack([positions[finite], values[finite]], -1))
    for right, above in ((True, True), (False, True), (True, False), (False, False)):
        label = ax.annotate(
            words, (1 if right else 0, y), (-2 if right else 2, 3 if above else -3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right" if right else "left", va="bottom" if above else "top", color=palette.alert,
            fontsize="small",
        )  # fmt: skip
        box = label.get_window_extent().padded(3)
        across = curve[(curve[:, 0] >= box.x0) & (curve[:, 0] <= box.x1), 1]
        if not len(across) or across.max() < box.y0 or across.min() > box.y1:
            return
        label.remove()
