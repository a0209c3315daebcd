"""Tables of numbers as lines of text: numbers, columns, and cells that are cut with a mark."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

#: the shortest part of a text that is still shown when it is cut
_SHORTEST = 8


def number(value: float, digits: int) -> str:
    """A number with so many significant digits, with an exponent if that is shorter; "–" for NaN."""
    if math.isnan(value):
        return "–"
    plain = f"{value:#.{digits}g}".removesuffix(".")
    if not math.isfinite(value) or value == 0:
        return plain
    exponential = re.sub(r"e([+-])0*(\d+)", lambda found: f"e{found[1].strip('+')}{found[2]}", f"{value:.{digits - 1}e}")
    return exponential if "e" in plain or len(exponential) < len(plain) else plain


def cut(texts: Sequence[str], width: int) -> list[str]:
    """Texts that are at most so wide; "…" stands for what is left out of the middle."""
    from rich.cells import cell_len, set_cell_size

    width = max(width, _SHORTEST)
    found = []
    for text in texts:
        if cell_len(text) > width:
            end = (width - 1) // 2
            text = set_cell_size(text, width - 1 - end).rstrip() + "…" + set_cell_size(text[::-1], end)[::-1].lstrip()
        found.append(text)
    return found


def joined(labels: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a label, left-aligned, and cells, right-aligned."""
    from rich.cells import cell_len

    first = max(map(cell_len, labels))
    widths = [2 + max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for label, row in zip(labels, cells, strict=True):
        start = label + " " * (first - cell_len(label))
        padded = (" " * (width - cell_len(cell)) + cell for cell, width in zip(row, widths, strict=True))
        lines.append("".join([start, *padded]).rstrip())
    return lines


def print_lines(lines: Sequence[str], headings: int) -> None:
    """Print lines on a terminal, the first of them, the headings, in bold; none is wrapped or cut."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for i, line in enumerate(lines):
        console.print(Text(line, "bold" if i < headings else ""), soft_wrap=True, highlight=False)
