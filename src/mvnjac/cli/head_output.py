"""The first rows and columns of a table of scores, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from mvnjac.cli.layout import cut, joined, number
from mvnjac.errors import counted

if TYPE_CHECKING:
    from mvnjac.jobs.commands import SummedScores
    from mvnjac.jobs.head import TableHead

#: the rows that are shown
ROWS = 10
_DIGITS = 5
#: the least width of a column with the space before it
_NARROWEST = 8


def most_columns(width: int) -> int:
    """The number of columns that may fit into the width."""
    return max(1, width // _NARROWEST)


def lines_of(head: TableHead, width: int) -> list[str]:
    """The lines, the first two of which are the heading; "…" stands for further columns and rows."""
    labels = cut(["", head.index, *map(str, _dates(head.labels))], width // 2 - 2)
    columns = [
        [*cut(_heading(name), width // 2 - 4), *(number(value, _DIGITS) for value in values)]
        for name, values in zip(head.columns, head.numbers.T.tolist(), strict=False)
    ]
    shown = _that_fit(labels, columns, len(head.columns), width)
    rows = [list(row) for row in zip(*shown, strict=True)]
    if len(head.labels) < head.rows:
        labels.append("…")
        rows.append(["…"] * len(shown))
    size = f"{counted(head.rows, 'row', ',')}, {counted(len(head.columns), 'column', ',')}"
    lines = joined(labels, rows)
    return [*lines, "", *textwrap.wrap(f"{size} of numbers; -o FILE writes them, a pipe gets CSV", width)]


def head_of(sums: SummedScores, width: int) -> TableHead:
    """The first rows of sums or of JᵀJ."""
    from mvnjac.jobs.head import TableHead

    square = sums.numbers.ndim == 2
    numbers = sums.numbers[:ROWS, : most_columns(width)] if square else sums.numbers[:ROWS, None]
    columns = sums.columns if square else ["sum"]
    return TableHead("parameter", list(sums.columns[:ROWS]), columns, numbers, len(sums.columns))


def _that_fit(labels: Sequence[str], columns: list[list[str]], total: int, width: int) -> list[list[str]]:
    """The first columns that fit beside the labels, with a column of marks if some are left out; at least one."""
    from rich.cells import cell_len

    mark = ["", "…", *["…"] * (len(labels) - 2)]
    left = width - max(map(cell_len, labels))
    for count in range(len(columns), 0, -1):
        shown = columns[:count] + ([mark] if count < total else [])
        if sum(2 + max(map(cell_len, column)) for column in shown) <= left or count == 1:
            return shown
    return [mark]


def _heading(name: str) -> tuple[str, str]:
    """A name in two lines: mean and [USD]."""
    start, bracket, rest = name.partition("[")
    return (start, bracket + rest) if bracket else ("", name)


def _dates(labels: Sequence[Any]) -> Sequence[Any]:
    """Labels as they are shown: days that are stored as timestamps are shown as days."""
    if all(isinstance(label, datetime) and label.time() == time() for label in labels):
        return [date(label.year, label.month, label.day) for label in labels]
    return labels
