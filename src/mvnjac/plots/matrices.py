"""Maps of symmetric matrices: the lower triangle as coloured cells, with a colour bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize

from mvnjac.plots.axes import figure_of, name_ticks, style
from mvnjac.plots.palette import DEFAULT, Palette

#: up to this many variables, cells are drawn one by one; more are drawn as an image
CELLS = 30
#: the largest number of variables whose cells have room for a number, in axes of this many points
_NUMBERED, _POINTS_PER_NUMBER = 18, 26
#: the name of the artist of the cells, by which a writer of SVG finds them
CELLS_ID = "mvnjac-cells"


@dataclass(frozen=True)
class Scale:
    """From values to −1 … 1, for colours.

    Attributes:
        strength: the sign gives the colour, the absolute value its opacity.
        ticks: (strength, text) of the colour bar.
        range: the strengths that the colour bar shows.
        text: a value as the text in its cell.
    """

    strength: Callable[[np.ndarray], np.ndarray]
    ticks: list[tuple[float, str]]
    range: tuple[float, float]
    text: Callable[[float], str]


def correlations() -> Scale:
    """From −1 to 1."""
    ticks = [(t, f"{t:g}".replace("-", "−")) for t in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    return Scale(lambda values: np.clip(values, -1, 1), ticks, (-1, 1), lambda v: _brief(v, 2))


def signed(values: np.ndarray) -> Scale:
    """Linear, with the same length on both sides of 0."""
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max(initial=0)) or 1.0
    low, high = float(finite.min(initial=0)), float(finite.max(initial=0))
    step = _round_step((high - low) / 5 or largest / 2)
    ticks = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    shown = [(t / largest, f"{t:g}".replace("-", "−")) for t in ticks]
    return Scale(lambda v: v / largest, shown, _spread(low / largest, high / largest), lambda v: _brief(v, 1))


def ratios(values: np.ndarray) -> Scale:
    """Logarithmic, with 1 in the middle."""
    finite = values[np.isfinite(values) & (values > 0)]
    low, high = float(finite.min(initial=1)), float(finite.max(initial=1))
    largest = max(abs(math.log(low)), abs(math.log(high))) or 1.0

    def strength(v: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(v > 0, np.log(v) / largest, np.where(np.isnan(v), np.nan, -1.0))

    rough = [factor * 10.0**k for k in range(-9, 10) for factor in (1, 2, 5)]
    inside = [t for t in rough if low * 0.999 <= t <= high * 1.001]
    if len(inside) > 6:
        inside = [t for t in inside if round(math.log10(t), 6) == round(math.log10(t))]
    inside = inside if len(inside) >= 2 else [low, 1.0, high] if low < 0.97 and high > 1.03 else sorted({low, high, 1.0})
    return Scale(
        strength,
        [(math.log(t) / largest, f"{t:.3g}") for t in inside],
        _spread(math.log(low) / largest, math.log(high) / largest),
        lambda v: _brief(v, 1),
    )


def draw_matrix(
    ax: Axes,
    values: np.ndarray,
    names: Sequence[object],
    scale: Scale,
    *,
    palette: Palette = DEFAULT,
    image_palette: Palette | None = None,
    bar_title: str = "",
    horizontal_bar: bool = False,
) -> Axes:
    """The lower triangle of a symmetric matrix, (d, d), NaN where there is no value, with a colour bar.

    More than `CELLS` variables are drawn as an image, in the colours of `image_palette` if it is given.
    """
    d = len(names)
    strength = np.where(np.tri(d, dtype=bool), scale.strength(np.asarray(values, dtype=float)), np.nan)
    colours = ScalarMappable(Normalize(-1, 1), palette.diverging())
    if d > CELLS:
        _image(ax, strength, image_palette or palette)
    else:
        _polygons(ax, strength, colours)
    ax.set(xlim=(-0.5, d - 0.5), ylim=(d - 0.5, -0.5), aspect="equal")
    name_ticks(ax.xaxis, names)
    name_ticks(ax.yaxis, names)
    style(ax, palette, grid=None)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0)
    if d <= _NUMBERED and _points(ax) / d >= _POINTS_PER_NUMBER:
        _write_numbers(ax, np.asarray(values), strength, scale, palette)
    _colour_bar(ax, colours, scale, palette, bar_title, horizontal_bar)
    return ax


def _polygons(ax: Axes, strength: np.ndarray, colours: ScalarMappable) -> None:
    """One square for each element of the lower triangle, row by row."""
    places = [(i, j) for i in range(len(strength)) for j in range(i + 1)]
    half = 0.475
    corners = [[(j - half, i - half), (j + half, i - half), (j + half, i + half), (j - half, i + half)] for i, j in places]
    found = np.ma.masked_invalid([strength[i, j] for i, j in places])
    ax.add_collection(PolyCollection(corners, linewidths=0, cmap=colours.cmap, norm=colours.norm, array=found, gid=CELLS_ID))


def _image(ax: Axes, strength: np.ndarray, palette: Palette) -> None:
    """One pixel for each element; the upper triangle is transparent, and elements without a value have a colour of their own."""
    pixels = ScalarMappable(Normalize(-1, 1), palette.diverging()).to_rgba(np.ma.masked_invalid(strength))
    pixels[np.triu_indices(len(strength), 1)] = 0
    ax.imshow(pixels, interpolation="none", aspect="equal", gid=CELLS_ID)


def _write_numbers(ax: Axes, values: np.ndarray, strength: np.ndarray, scale: Scale, palette: Palette) -> None:
    for i, row in enumerate(values):
        for j, value in enumerate(row[: i + 1]):
            if math.isfinite(value):
                colour = palette.on if abs(strength[i, j]) > 0.55 else palette.ink
                ax.text(j, i, scale.text(value), ha="center", va="center", color=colour, fontsize="x-small")


def _colour_bar(ax: Axes, colours: ScalarMappable, scale: Scale, palette: Palette, title: str, horizontal: bool) -> None:
    bar = figure_of(ax).colorbar(
        colours, ax=ax, location="bottom" if horizontal else "right", shrink=0.7, aspect=30 if horizontal else 24, pad=0.02
    )
    bar.set_ticks([at for at, _ in scale.ticks], labels=[text for _, text in scale.ticks])
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_rasterized(False)
    bar.ax.tick_params(color=palette.soft, labelcolor=palette.soft, length=3)
    (bar.ax.set_xlim if horizontal else bar.ax.set_ylim)(*scale.range)
    if title:
        bar.set_label(title, color=palette.soft)


def _points(ax: Axes) -> float:
    """The smaller side of the axes in points."""
    box = ax.get_window_extent()
    return float(min(box.width, box.height)) * 72 / figure_of(ax).dpi


def _spread(low: float, high: float) -> tuple[float, float]:
    """A range that contains 0 and is not empty."""
    low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if high - low > 1e-9 else (-1.0, 1.0)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _brief(value: float, decimals: int) -> str:
    """A few digits; with two decimals, as of correlations, the zero before the point is left out."""
    text = f"{value:z.{decimals}f}" if abs(value) < 9.95 else f"{value:.0f}"
    return (text.replace("0.", ".", 1) if decimals == 2 else text).replace("-", "−")
