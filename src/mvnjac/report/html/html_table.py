"""Tables that the reader can sort, search, unfold, and download as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mvnjac.report.html.formatting import short
from mvnjac.report.html.markup import Markup, join, tag


class Number:
    """A numeric cell: the value, by which the table is sorted, and its text. If the text is enough to sort by, only it is written."""

    def __init__(self, value: float, text: str | None = None, exact: bool = True) -> None:
        self.value, self.text, self.exact = value, short(value) if text is None else text, exact


#: tables with more rows are written without the rows after the fold, which a script adds from the data block
_MOST_WRITTEN, _FOLD = 400, 30


def sortable_table(
    name: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    download: str | None = None,
    *,
    in_data: str | None = None,
) -> Markup:
    """A table. A script adds the search, folds it after 30 rows, and offers the numbers as CSV; without scripts all rows are shown.

    Args:
        name: the id of the table, unique in the page.
        download: the key of the numbers in the data block, such as "breaks" or "influence.top".
        in_data: the key of the columns in the data block from which a script can write the rows: first their names in words, then
            numbers. Then only the first rows of a very long table are written.
    """
    cells = [list(row) for row in rows]
    count, note = len(cells), Markup("")
    if in_data is not None and count > _MOST_WRITTEN:
        cells = cells[:_FOLD]
        note = tag("p", f"{_FOLD} of {count:,} rows; all are in the data inside this file.", class_="soft shown")
    else:
        in_data = None
    numeric = [bool(cells) and all(isinstance(row[j], Number) for row in cells) for j in range(len(headings))]
    head = [
        tag("th", tag("button", heading, type="button"), scope="col", class_="n" if number else None)
        for heading, number in zip(headings, numeric, strict=True)
    ]
    body = [tag("tr", *(_cell(cell, j) for j, cell in enumerate(row))) for row in cells]
    table = tag(
        "table",
        tag("thead", tag("tr", *head)),
        tag("tbody", *body),
        id=name,
        class_="sorts",
        data_download=download,
        data_rows=in_data,
    )
    return join([tag("div", table, class_="table", tabindex="0", role="region", aria_label=name.replace("-", " ")), note])


def _cell(cell: Any, column: int) -> Markup:
    if isinstance(cell, Number):
        sortable = repr(cell.value) if math.isfinite(cell.value) else ""
        return tag("td", cell.text, class_="n", data_v=sortable if cell.exact or not sortable else None)
    return tag("th", cell, scope="row") if column == 0 else tag("td", cell)
