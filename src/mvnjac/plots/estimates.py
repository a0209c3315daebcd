"""Estimates with their intervals, and bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mvnjac.plots.axes import LONGEST_NAME, log_scale, name_ticks, style
from mvnjac.plots.palette import DEFAULT, Palette

#: the name of the artist of bars and points, by which a writer of SVG finds them
ITEMS_ID = "mvnjac-items"


def draw_intervals(
    ax: Axes,
    names: Sequence[object],
    values: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    *,
    longest_name: int = LONGEST_NAME,
    palette: Palette = DEFAULT,
) -> Axes:
    """One line per estimate from its lower to its upper bound, from top to bottom; NaN bounds: the estimate alone."""
    at = np.arange(len(names))
    style(ax, palette, grid="x")
    for y, value, low, high in zip(at, values, lower, upper, strict=True):
        ends = (low, high) if np.isfinite(low + high) else (value, value)
        ax.plot(ends, (y, y), color=palette.line, linewidth=2, gid=ITEMS_ID, solid_capstyle="butt")
    ax.plot(values, at, "o", color=palette.line, markersize=4.5)
    bounds = np.concatenate([np.asarray(part, dtype=float) for part in (values, lower, upper)])
    finite = bounds[np.isfinite(bounds)]
    if len(finite) and finite.min() < 0 < finite.max():
        ax.axvline(0, color=palette.soft, linewidth=1)
    name_ticks(ax.yaxis, names, longest_name)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.margins(x=0.03)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    return ax


def draw_bars(ax: Axes, names: Sequence[object], values: np.ndarray, *, palette: Palette = DEFAULT) -> Axes:
    """Horizontal bars from 0, from top to bottom."""
    style(ax, palette, grid="x")
    collection = ax.barh(np.arange(len(names)), values, height=0.72, color=palette.line)
    for bar in collection:
        bar.set_gid(ITEMS_ID)
    name_ticks(ax.yaxis, names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(0, 1.04 * (float(np.nanmax(values, initial=0)) or 1.0))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    return ax


def draw_eigenvalues(ax: Axes, values: np.ndarray, *, palette: Palette = DEFAULT) -> Axes:
    """Eigenvalues in descending order, as bars on a logarithmic scale."""
    style(ax, palette)
    highest = max(float(values.max(initial=0)), 1e-300)
    lowest = max(float(values.min(initial=highest)), highest * 1e-17) / 1.6
    bars = ax.bar(
        np.arange(1, len(values) + 1), np.maximum(values, lowest) - lowest, bottom=lowest, width=0.76, color=palette.line
    )
    for bar in bars:
        bar.set_gid(ITEMS_ID)
    log_scale(ax, lowest, highest * 1.3)
    ax.set_xlim(0.4, max(len(values), 8) + 0.6)
    ax.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    return ax
