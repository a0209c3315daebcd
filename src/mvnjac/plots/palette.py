"""The colours of charts by their meaning, and the colour map of cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import Colormap, ListedColormap, to_rgb

#: the number of colours on each side of the middle of a scale
_STEPS = 24


@dataclass(frozen=True)
class Palette:
    """The colours of a chart.

    Attributes:
        ink, soft: text, and secondary text and axes.
        grid: grid lines.
        line: data.
        high, low: the two sides of a scale.
        alert: critical values and other thresholds.
        none: cells without a value.
        on: text on cells of a strong colour.
    """

    ink: str = "#1c2430"
    soft: str = "#5b6675"
    grid: str = "#e4e8ee"
    line: str = "#1f5fa8"
    high: str = "#b5452c"
    low: str = "#1f5fa8"
    alert: str = "#c0392b"
    none: str = "#e4e8ee"
    on: str = "#ffffff"

    def diverging(self) -> Colormap:
        """From `low` through transparent to `high`: the colour gives the side, its opacity the size."""
        strengths = np.linspace(-1, 1, 2 * _STEPS + 1)
        sides = (to_rgb(self.low), to_rgb(self.high))
        colours = ListedColormap([(*sides[int(s > 0)], abs(s)) for s in strengths], name="mvnjac")
        return colours.with_extremes(bad=self.none)

    def sequential(self) -> Colormap:
        """From transparent to `high`, for shares."""
        return ListedColormap([(*to_rgb(self.high), s) for s in np.linspace(0, 1, _STEPS + 1)], name="mvnjac share")


DEFAULT = Palette()
