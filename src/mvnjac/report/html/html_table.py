"""Tables that the reader can sort by a click on a heading."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mvnjac.report.html.formatting import short
from mvnjac.report.html.markup import Markup, tag


class Number:
    """A numeric cell: the value, by which the table is sorted, and its text."""

    def __init__(self, value: float, text: str | None = None) -> None:
        self.value, self.text = value, short(value) if text is None else text


def sortable_table(name: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], tall: bool = False) -> Markup:
    """A table; with `tall`, it scrolls on a screen and is complete on paper."""
    cells = [list(row) for row in rows]
    numeric = [bool(cells) and all(isinstance(row[j], Number) for row in cells) for j in range(len(headings))]
    head = [
        tag("th", tag("button", heading, type="button"), scope="col", class_="n" if number else None)
        for heading, number in zip(headings, numeric, strict=True)
    ]
    body = [tag("tr", *(_cell(cell, j) for j, cell in enumerate(row))) for row in cells]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), id=name, class_="sorts")
    return tag("div", table, class_="table tall" if tall else "table", tabindex="0", role="region", aria_label=name)


def _cell(cell: Any, column: int) -> Markup:
    if isinstance(cell, Number):
        return tag("td", cell.text, class_="n", data_v=repr(cell.value) if math.isfinite(cell.value) else "")
    return tag("th", cell, scope="row") if column == 0 else tag("td", cell)
