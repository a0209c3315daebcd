"""Charts of `plots` as SVG inside the page, in two widths, with the colours of the style sheet and values on hover."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from xml.etree import ElementTree

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import BboxBase

from mvnjac.plots.axes import shortened, text_width, thin_labels
from mvnjac.plots.estimates import ITEMS_ID
from mvnjac.plots.matrices import CELLS_ID
from mvnjac.plots.palette import Palette
from mvnjac.report.html.markup import Markup, join, tag

#: the widths for a desktop or paper, and for a phone, in pixels of letters of the same size
WIDTHS = {"wide": 760, "narrow": 330}
#: the longest names, in letters
_LONGEST_NAME = {"wide": 22, "narrow": 12, "small": 22}
#: the space around a chart, in inches
_PADDING = 0.04
#: charts of at most this width have no labels
_SMALL = 250
#: how much a chart may be enlarged to fill a wide page
_LARGEST = 1.13
#: colours that stand for the variables of the style sheet
_TOKENS = {each.name: f"#0{i:x}f0e{i:x}" for i, each in enumerate(fields(Palette))}
PALETTE = Palette(**_TOKENS)
_VARIABLES = {colour: f"var(--{name})" for name, colour in _TOKENS.items()}
_STYLE = {
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.h_pad": 0.03,
    "path.simplify": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mvnjac",
}
_DECIMAL = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
#: rules of no effect here, or of the style sheet
_LEFT_OUT = ("", "font-family", "stroke-miterlimit")
#: from this number of points on, they are drawn as one path
_MANY = 30
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


@dataclass(frozen=True)
class Chart:
    """A chart of the report.

    Attributes:
        name: unique in the page.
        caption: what it shows, for readers that do not see it.
        draw: draws it on axes, with the names of the variables; `narrow` is whether it is for a phone.
        size: (width, height) in pixels, given the available width.
        names: the names of the variables.
        titles: the text on hover of each cell or bar, in the order in which they are drawn.
        hover: (position between 0 and 1 along the horizontal axis, text) of points over which a text is shown.
        cells: "correlation", "heat-map" or "missing": the numbers in the data block by which a script draws an image.
        widths: in pixels of letters of the same size; the style sheet shows "wide" on a desktop or paper and "narrow" on a phone.
    """

    name: str
    caption: str
    draw: Callable[[Axes, Sequence[str], bool], object]
    size: Callable[[int], tuple[float, float]]
    names: Sequence[str] = ()
    titles: Sequence[str] = ()
    hover: Sequence[tuple[float, str]] = ()
    cells: str | None = None
    widths: Mapping[str, int] = field(default_factory=lambda: WIDTHS)

    def markup(self) -> Markup:
        """The chart in each width."""
        points = "\n".join(f"{x:.4f}\t{text}" for x, text in self.hover)
        both = [self._drawn(kind, width) for kind, width in self.widths.items()]
        return tag("div", *both, class_="chart", data_hover=points or None, data_cells=self.cells)

    def _drawn(self, kind: str, width: int) -> Markup:
        words = [shortened(name, _LONGEST_NAME[kind]) for name in self.names]
        shown = [_placeholder(i, word) for i, word in enumerate(words)]
        texts = dict(zip(shown, words, strict=True))
        with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
            # A layout that does not converge within matplotlib's limit is still drawn; the tests of the page measure it.
            warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)
            across, down = self.size(width)
            figure = Figure(figsize=(across / 72, down / 72), layout="constrained" if width > _SMALL else None)
            ax = figure.add_subplot() if width > _SMALL else figure.add_axes((0, 0, 1, 1))
            self.draw(ax, shown, kind == "narrow")
            _lay_out(figure)
            box = figure.get_tightbbox().padded(_PADDING)
            file = io.BytesIO()
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True, bbox_inches=box)
            axes = ax.get_position().transformed(figure.transFigure - figure.dpi_scale_trans)
        svg = _Svg(f"{self.name}-{kind}", texts, self.titles).markup(ElementTree.fromstring(file.getvalue()), self.caption)
        overlay = tag("div", style=_place(axes, box), class_="overlay") if self.hover or self.cells else ""
        return tag("div", svg, overlay, class_=kind, style=f"max-width:{box.width * 72 * _LARGEST:.0f}px")


def _lay_out(figure: Figure) -> None:
    """Fix the layout; labels that would overlap are hidden first, which gives room to the others."""
    for _ in range(2):
        figure.draw_without_rendering()
        hidden = [thin_labels(axis) for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
        if not any(hidden):
            break
    figure.set_layout_engine("none")


def _place(axes: BboxBase, page: BboxBase) -> str:
    """The position of the axes on the page, both in inches, as rules of CSS."""
    left, top = (axes.x0 - page.x0) / page.width, (page.y1 - axes.y1) / page.height
    return f"left:{left:.3%};top:{top:.3%};width:{axes.width / page.width:.3%};height:{axes.height / page.height:.3%}"


def _placeholder(i: int, word: str) -> str:
    """What is drawn in place of a name whose letters matplotlib's font may not have: a number and letters of the same width.

    The browser finds letters of every alphabet.
    """
    if word.replace("…", "").isascii() and word.isprintable():
        return word
    return str(i).ljust(text_width(word), "m")


class _Svg:
    """Rewrites the SVG of matplotlib: without metadata, with few digits, variables for colours, and ids that are unique in the page.

    Args:
        prefix: of the ids.
        texts: the texts to replace.
        titles: the texts on hover of cells or bars, in their order.
    """

    def __init__(self, prefix: str, texts: Mapping[str, str], titles: Sequence[str]) -> None:
        self._prefix, self._texts, self._titles = prefix, texts, iter(titles)

    def markup(self, root: ElementTree.Element, caption: str) -> Markup:
        parts = [self._element(child, False) for child in root]
        return tag("svg", tag("title", caption), *parts, viewBox=root.get("viewBox"), role="img")

    def _element(self, node: ElementTree.Element, titled: bool) -> Markup:
        name = node.tag.rpartition("}")[2]
        if name in ("metadata", "style") or (name == "path" and not node.get("d")):
            return Markup("")
        points = self._points(node) if name == "g" else None
        if points is not None:
            return points
        titled = titled or node.get("id") in (CELLS_ID, ITEMS_ID)
        children: list[object] = [self._element(child, titled) for child in node]
        if name == "path" and titled:
            children.append(tag("title", next(self._titles, "")))
        if name == "text":
            children.append(self._texts.get(node.text or "", node.text or ""))
        attributes = {key.rpartition("}")[2]: value for key, value in node.attrib.items()}
        kept = {key: short for key, value in attributes.items() if (short := self._attribute(name, key, value))}
        if name == "g" and (node.get("id") or "").startswith("QuadMesh"):
            kept["shape_rendering"] = "crispEdges"  # no seams between the parts of a colour bar
        if name == "g" and not kept:
            return join(children)
        return tag(name, *children, **kept)

    def _points(self, node: ElementTree.Element) -> Markup | None:
        """Many round points of one kind as one path with round ends; None for other elements."""
        shape = node.find("{*}defs/{*}path")
        drawn = node.findall("{*}g/{*}use")
        if shape is None or len(drawn) < _MANY or "C" not in shape.get("d", ""):
            return None
        size = 2 * max(abs(float(number)) for number in _DECIMAL.findall(shape.get("d", "")))
        fill = re.search(r"fill: (#\w+)", drawn[0].get("style", ""))
        colour = fill[1] if fill else "#000000"
        d = "".join(f"M{float(use.get('x', 0)):.1f} {float(use.get('y', 0)):.1f}h0" for use in drawn)
        style = f"fill:none;stroke:{_VARIABLES.get(colour, colour)};stroke-width:{size:.1f};stroke-linecap:round"
        return tag("path", d=d, style=style)

    def _attribute(self, element: str, key: str, value: str) -> str | None:
        if key == "id":
            return f"{self._prefix}-{value}" if element in ("path", "clipPath") else None
        if key == "href":
            return f"#{self._prefix}-{value[1:]}" if value.startswith("#") else value.replace("\n", "")
        if key == "clip-path":
            return _REFERENCE.sub(rf"url(#{self._prefix}-\1)", value)
        if key == "transform":
            return None if value.startswith("rotate(-0 ") else _DECIMAL.sub(_rounded, value)
        if key == "style":
            return self._style(element, value)
        return re.sub(r"\s*([MLZzCQ])\s*", r"\1", _DECIMAL.sub(_rounded, value)).strip() if key in ("d", "x", "y") else value

    def _style(self, element: str, value: str) -> str | None:
        if element == "image":
            return "image-rendering:pixelated"
        rules = [rule.partition(":")[::2] for rule in value.split(";")]
        kept = [(key.strip(), value.strip()) for key, value in rules if key.strip() not in _LEFT_OUT]
        return ";".join(f"{key}:{_VARIABLES.get(value, value)}" for key, value in kept)


def _rounded(number: re.Match[str]) -> str:
    short = f"{float(number[0]):.1f}".removesuffix(".0")
    return "0" if short == "-0" else short
