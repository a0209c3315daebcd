"""Charts in SVG. Their colours are defined in the style sheet of the page, for light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from mvnjac.report.analysis.estimates_table import HeatMap
from mvnjac.report.html.axes import decades, number_ticks, row_ticks
from mvnjac.report.html.formatting import short
from mvnjac.report.html.markup import Markup, tag

#: the widths for a desktop or paper, and for a phone; letters have the same size in both
WIDTHS = {"wide": 860, "narrow": 340}
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 34, 24
#: the smallest width of a map cell that is labelled by its number
_READABLE = 30


def both(draw: Callable[[int], Markup]) -> Markup:
    """The chart in both widths; the style sheet shows one of them."""
    return Markup("".join(tag("div", draw(width), class_=name) for name, width in WIDTHS.items()))


def stems(
    values: Sequence[float], labels: Sequence[Any], marked: Sequence[tuple[int, str]], caption: str, width: int
) -> Markup:
    """One stem per row on a logarithmic scale; for each pixel, the longest stem is drawn. Marked rows have labels."""
    height = 300
    plot = width - _LEFT - _RIGHT
    highest = max(max(values), 1e-300) * 1.6
    lowest = max(sorted(values)[len(values) // 2], highest * 1e-9)
    bottom, top = height - _BOTTOM, _TOP

    def y(value: float) -> float:
        return bottom - (bottom - top) * math.log(max(value, lowest) / lowest) / math.log(highest / lowest)

    places = _Places(len(values), plot)
    path = "".join(f"M{places.x(row):.1f} {bottom}V{y(values[row]):.1f}" for row in places.largest(values))
    parts = [_grid(width, [(y(tick), short(tick)) for tick in decades(lowest, highest)]), _rows(labels, places, height, plot)]
    parts.append(tag("path", d=path, class_="stem"))
    if lowest < 1 < highest:
        parts.append(tag("path", d=f"M{_LEFT} {y(1):.1f}H{width - _RIGHT}", class_="line critical"))
    parts += _marks([(places.x(row), y(values[row]), text) for row, text in marked], width)
    return _svg(width, height, caption, parts)


def curve(
    values: Sequence[float], labels: Sequence[Any], critical: float, mark: tuple[int, str], caption: str, width: int
) -> Markup:
    """A statistic over time (n + 1 values, NaN where it is not defined) with its critical value and the row of the break."""
    height = 260
    plot = width - _LEFT - _RIGHT
    highest = 1.12 * max(critical, *(v for v in values if v == v))
    bottom, top = height - _BOTTOM, _TOP

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / highest

    places = _Places(len(values), plot)
    row, text = mark
    x = places.x(row + 1)
    parts = [_grid(width, [(y(tick), short(tick)) for tick in number_ticks(highest)]), _rows(labels, places, height, plot)]
    parts.append(tag("path", d=f"M{_LEFT} {y(critical):.1f}H{width - _RIGHT}", class_="line critical"))
    parts.append(tag("text", "5% line", x=width - _RIGHT - 2, y=f"{y(critical) - 5:.1f}", class_="critical-text end"))
    parts.append(tag("path", d=_polyline(values, places, y), class_="line"))
    parts.append(tag("path", d=f"M{x:.1f} {bottom}V{top}", class_="line moment"))
    parts += _marks([(x, y(values[row + 1]), text)], width)
    return _svg(width, height, caption, parts)


def small_curve(values: Sequence[float], critical: float, row: int, caption: str) -> Markup:
    """The same as a thumbnail without axes."""
    width, height = 200, 64
    highest = 1.05 * max(critical, *(v for v in values if v == v))
    places = _Places(len(values), width, 0)

    def y(value: float) -> float:
        return height - 1 - (height - 2) * value / highest

    x = places.x(row + 1)
    parts = [
        tag("path", d=f"M{x:.1f} {height}V0", class_="line moment"),
        tag("path", d=f"M0 {y(critical):.1f}H{width}", class_="line critical"),
        tag("path", d=_polyline(values, places, y), class_="line"),
        tag("path", d=f"M0 {height - 0.5}H{width}", class_="axis"),
    ]
    return _svg(width, height, caption, parts)


def heat_map(heat: HeatMap, names: Sequence[str], caption: str, width: int) -> Markup:
    """The lower triangle of Σ as coloured cells; the two sides of the scale have different colours."""
    longest = max(map(len, names))
    left = min(11 + 7 * longest, width // 4)
    cell = min((width - left) / len(names), 40.0)
    labelled = cell >= _READABLE
    finite = [v for row in heat.values for v in row if math.isfinite(v)]
    strength = _strength(heat.diverging, finite)
    parts = []
    for i, row in enumerate(heat.values):
        y = 4 + i * cell
        parts.append(tag("text", _clipped(names[i], left), x=left - 6, y=f"{y + cell / 2 + 4:.1f}", class_="end"))
        for j, value in enumerate(row[: i + 1]):
            parts += _cell(
                value, f"{names[i]}, {names[j]}: {short(value)}", left + j * cell, y, cell, strength(value), labelled
            )
    bottom = 4 + len(names) * cell
    for j, name in enumerate(names):
        x = left + (j + 0.5) * cell
        parts.append(
            tag(
                "text",
                _clipped(name, 90),
                x=0,
                y=0,
                class_="end",
                transform=f"translate({x + 4:.1f} {bottom + 8:.1f}) rotate(-90)",
            )
        )
    height = bottom + min(14 + 7 * longest, 100)
    return _svg(round(left + cell * len(names)), round(height), caption, parts, fixed=True)


def bars(values: Sequence[float], caption: str, width: int) -> Markup:
    """Bars on a logarithmic scale."""
    height = 170
    highest, lowest = max(values) * 1.3, max(min(values), max(values) * 1e-16) / 1.6
    bottom, top, plot = height - _BOTTOM, 8, width - _LEFT - _RIGHT
    step = min(plot / len(values), 44)

    def y(value: float) -> float:
        return bottom - (bottom - top) * math.log(max(value, lowest) / lowest) / math.log(highest / lowest)

    parts = [_grid(width, [(y(tick), short(tick)) for tick in decades(lowest, highest)])]
    for i, value in enumerate(values):
        x, at = _LEFT + i * step, y(value)
        parts.append(
            tag(
                "rect", tag("title", f"{i + 1}: {short(value)}"),
                x=f"{x + step * 0.12:.1f}", y=f"{at:.1f}", width=f"{step * 0.76:.1f}", height=f"{bottom - at:.1f}", class_="bar",
            )
        )  # fmt: skip
        if len(values) * 16 <= plot or i % 5 == 4:
            parts.append(tag("text", i + 1, x=f"{x + step / 2:.1f}", y=height - 8, class_="middle"))
    return _svg(width, height, caption, parts)


class _Places:
    """The horizontal positions of rows."""

    def __init__(self, count: int, width: float, left: float = _LEFT) -> None:
        self._count, self._width, self._left = count, width, left

    def x(self, row: int) -> float:
        return self._left + self._width * (row / max(self._count - 1, 1))

    def largest(self, values: Sequence[float]) -> list[int]:
        """For each pixel, the row with the largest value."""
        best: dict[int, int] = {}
        for row, value in enumerate(values):
            pixel = int(self.x(row))
            if value == value and (pixel not in best or value > values[best[pixel]]):
                best[pixel] = row
        return [best[pixel] for pixel in sorted(best)]


def _polyline(values: Sequence[float], places: _Places, y: Callable[[float], float]) -> str:
    return "M" + "L".join(f"{places.x(row):.1f} {y(values[row]):.1f}" for row in places.largest(values))


def _grid(width: int, ticks: Sequence[tuple[float, str]]) -> Markup:
    lines = "".join(f"M{_LEFT} {y:.1f}H{width - _RIGHT}" for y, _ in ticks)
    texts = [tag("text", text, x=_LEFT - 6, y=f"{y + 4:.1f}", class_="end") for y, text in ticks]
    return tag("g", tag("path", d=lines, class_="grid"), *texts)


def _rows(labels: Sequence[Any], places: _Places, height: int, plot: int) -> Markup:
    bottom = height - _BOTTOM
    ticks = row_ticks(labels, plot)
    lines = "".join(f"M{places.x(row):.1f} {bottom}v4" for row, _ in ticks)
    texts = [
        tag("text", text, x=f"{places.x(row):.1f}", y=height - 7, class_=_anchor(places.x(row), 3.2 * len(text), plot))
        for row, text in ticks
    ]
    return tag("g", tag("path", d=f"M{_LEFT} {bottom}H{_LEFT + plot}{lines}", class_="axis"), *texts)


def _anchor(x: float, half: float, plot: int) -> str:
    """The text anchor with which a label stays inside the chart."""
    if x + half > _LEFT + plot + _RIGHT:
        return "end"
    return "start" if x - half < _LEFT - 30 else "middle"


def _marks(marks: Sequence[tuple[float, float, str]], width: int) -> list[Markup]:
    """A dot and a label for each mark, the most important first; a label that would cover another one is left out."""
    taken: list[tuple[float, float, float]] = [(x - 4, x + 4, y + 4) for x, y, _ in marks]
    parts = [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_="mark") for x, y, _ in marks]
    for x, y, text in marks:
        room = 6.9 * len(text)
        left = min(max(x - room / 2, _LEFT), width - _RIGHT - room)
        for up in (y - 8, y - 21, y - 34):
            if up > 10 and not any(left < right and start < left + room and abs(up - at) < 12 for start, right, at in taken):
                taken.append((left, left + room, up))
                parts.append(tag("text", text, x=f"{left:.1f}", y=f"{up:.1f}", class_="mark-text"))
                break
    return parts


def _strength(diverging: bool, finite: Sequence[float]) -> Callable[[float], float]:
    """A map from numbers to −1 … 1: the sign selects the colour, the absolute value its strength."""
    if diverging:
        scale = max((abs(v) for v in finite), default=1.0) or 1.0
        return lambda v: v / scale
    scale = max((abs(math.log(v)) for v in finite if v > 0), default=1.0) or 1.0
    return lambda v: math.log(v) / scale if v > 0 else 0.0


def _cell(value: float, tooltip: str, x: float, y: float, size: float, strength: float, labelled: bool) -> list[Markup]:
    box = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{size - 1:.1f}", "height": f"{size - 1:.1f}"}
    if not math.isfinite(value):
        return [tag("rect", tag("title", tooltip), **box, class_="cell none")]
    hue = "cell high" if strength >= 0 else "cell low"
    cells = [tag("rect", tag("title", tooltip), **box, class_=hue, fill_opacity=f"{0.06 + 0.94 * abs(strength):.2f}")]
    if labelled:
        words = "number strong" if abs(strength) > 0.5 else "number"
        middle = f"{x + size / 2 - 0.5:.1f}"
        cells.append(tag("text", _brief(value), x=middle, y=f"{y + size / 2 + 3.5:.1f}", class_=words))
    return cells


def _brief(value: float) -> str:
    return (f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}").replace("-", "−")


def _clipped(name: str, room: float) -> str:
    most = max(3, int(room / 7))
    return name if len(name) <= most else name[: most - 1] + "…"


def _svg(width: int, height: int, caption: str, parts: Sequence[Markup], fixed: bool = False) -> Markup:
    style = f"max-width:{width}px" if fixed else None
    return tag("svg", tag("title", caption), *parts, viewBox=f"0 0 {width} {height}", role="img", style=style)
