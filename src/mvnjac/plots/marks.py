"""Labelled points: labels stay inside the axes and do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from mvnjac.plots.axes import figure_of, plain, settle
from mvnjac.plots.palette import Palette

#: the places of a label above and below its point, in points, in the order in which they are tried
_OFFSETS = (6, 19, 32, 45, -16)
#: the half width of a point, in points
_POINT = 3.5
#: the smallest height of a label, in points
_LINE = 12


def label_points(ax: Axes, points: Sequence[tuple[float, float, str]], palette: Palette) -> None:
    """A dot for each point (x, y, text), and a label where there is room for one; the most important point comes first."""
    if not points:
        return
    ax.plot([x for x, _, _ in points], [y for _, y, _ in points], "o", color=palette.high, markersize=4.5, zorder=4)
    settle(ax)
    scale = figure_of(ax).dpi / 72
    inside = ax.get_window_extent()
    taken = [Bbox.from_bounds(x - _POINT * scale, y - _POINT * scale, 2 * _POINT * scale, 2 * _POINT * scale) for x, y in
             (ax.transData.transform((x, y)) for x, y, _ in points)]  # fmt: skip
    for x, y, words in points:
        label = ax.annotate(
            words, (x, y), (0, 0), textcoords="offset points", color=palette.ink, fontsize="small", fontweight="bold", zorder=5
        )
        plain(label)
        box = _place(label.get_window_extent(), ax.transData.transform((x, y)), inside, taken, scale)
        if box is None:
            label.remove()
            continue
        taken.append(box)
        at = ax.transData.transform((x, y))
        label.set_position(((box.x0 - at[0]) / scale, (box.y0 - at[1]) / scale))


def _place(size: Bbox, at: np.ndarray, inside: Bbox, taken: Sequence[Bbox], scale: float) -> Bbox | None:
    """Where a label of this size fits near its point; None if it fits nowhere."""
    width, height = size.width * 1.08, max(size.height, _LINE * scale)  # the reader's font can be a little larger
    if width > inside.width:
        return None
    left = min(max(at[0] - width / 2, inside.x0), inside.x1 - width)
    for offset in _OFFSETS:
        box = Bbox.from_bounds(left, at[1] + offset * scale, width, height)
        if box.y0 >= inside.y0 and box.y1 <= inside.y1 and not any(box.overlaps(other) for other in taken):
            return box
    return None
