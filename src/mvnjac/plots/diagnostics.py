"""Diagnostics of the rows: a quantile plot, and missing entries over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from mvnjac.plots.axes import fractions, limits, name_ticks, row_axis, row_positions, row_text, shortened, style
from mvnjac.plots.marks import label_points
from mvnjac.plots.matrices import CELLS_ID
from mvnjac.plots.palette import DEFAULT, Palette

#: of the smaller quantiles this many are drawn, evenly spaced, and all of the largest
_LARGEST, _EVENLY = 120, 300
#: the margin of the axis of expected quantiles, as a share of their range
_MARGIN = 0.03


def draw_quantiles(
    ax: Axes,
    expected: np.ndarray,
    observed: np.ndarray,
    labels: Sequence[Any],
    *,
    marked: int = 5,
    palette: Palette = DEFAULT,
) -> Axes:
    """Observed against expected quantiles, both ascending, with the line on which they are equal; the largest have labels."""
    style(ax, palette, grid="both")
    n, rows = len(expected), quantile_rows(len(expected))
    ax.plot(expected[rows], observed[rows], "o", color=palette.line, markersize=3.2, markeredgewidth=0)
    ends = (float(min(expected[0], observed[0])), float(expected[-1]))
    ax.plot(ends, ends, color=palette.alert, linewidth=1, linestyle=(0, (5, 4)))
    low, high = float(observed.min()), float(observed.max())
    ax.set_ylim(min(low, ends[0]) - 0.03 * (high - low), high + 0.12 * (high - low))
    ax.set_xlim(*limits(expected, _MARGIN))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_locator(MaxNLocator(6))
    largest = range(n - 1, max(n - 1 - marked, -1), -1)
    label_points(ax, [(float(expected[i]), float(observed[i]), shortened(row_text(labels[i]))) for i in largest], palette)
    return ax


def quantile_rows(count: int) -> np.ndarray:
    """The quantiles that are drawn: all of the largest, and evenly spaced smaller ones."""
    evenly = np.linspace(0, count - 1, min(count, _EVENLY)).astype(int)
    return np.unique(np.concatenate([evenly, np.arange(max(0, count - _LARGEST), count)]))


def quantile_fractions(expected: np.ndarray) -> np.ndarray:
    """(n,) the positions of expected quantiles along the horizontal axis, from 0 to 1."""
    return fractions(expected, *limits(expected, _MARGIN))


def missing_shares(missing: np.ndarray, labels: Sequence[Any], bins: int) -> tuple[np.ndarray, np.ndarray]:
    """The share of missing entries (n, d) in equal parts of the axis of rows.

    Returns:
        (d, bins) the shares, NaN in a part without rows; and (bins,) the first row of each part.
    """
    positions, _ = row_positions(labels)
    span = float(positions[-1] - positions[0]) or 1.0
    bin_of = np.minimum((positions - positions[0]) / span * bins, bins - 1).astype(int)
    sums = np.zeros((bins, missing.shape[1]))
    np.add.at(sums, bin_of, missing)
    counts = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        shares = (sums / counts[:, None]).T
    return shares, np.searchsorted(bin_of, np.arange(bins))


def draw_timeline(
    ax: Axes,
    shares: np.ndarray,
    names: Sequence[object],
    labels: Sequence[Any],
    *,
    palette: Palette = DEFAULT,
    image_palette: Palette | None = None,
) -> Axes:
    """The shares of missing entries over time, (d, bins) as `missing_shares` returns them; `labels` are those of the rows.

    The shares are an image, in the colours of `image_palette` if it is given.
    """
    style(ax, palette, grid=None)
    positions = row_axis(ax, labels, palette)
    first, last = float(positions[0]), float(positions[-1])
    last = last if last > first else first + 1
    image = ax.imshow(
        np.ma.masked_invalid(shares),
        interpolation="none",
        aspect="auto",
        extent=(first, last, len(names) - 0.5, -0.5),
        cmap=(image_palette or palette).sequential(),
        norm=Normalize(0, 1),
    )
    image.set_gid(CELLS_ID)
    name_ticks(ax.yaxis, names)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(first, last)
    return ax
