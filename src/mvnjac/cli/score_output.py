"""The total scores as text: a table for people, JSON, or CSV."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mvnjac.cli.layout import cut, joined, number
from mvnjac.cli.options import Format
from mvnjac.errors import counted

if TYPE_CHECKING:
    from mvnjac.jobs.total_scores import ScoreTable

#: the most parameters that a terminal shows by default
TOP = 30
#: significant digits, where there is room for them and where there is not
_DIGITS = (6, 5, 4, 3)
#: names are cut to this width only after columns have been left out
_NAME = 24
#: the headings of the kinds of standard errors, and what they are
_ERRORS = {
    "expected": ("error", "from the expected information"),
    "observed": ("error", "from the observed information"),
    "sandwich": ("robust error", "sandwich"),
    "hac": ("HAC error", "for a time series"),
}


def formatted(table: ScoreTable, form: Format) -> str:
    """The table as text, in one of the formats, with all its parameters."""
    if form is Format.json:
        return json.dumps(_record(table), indent=1) + "\n"
    if form is Format.csv:
        lines = [",".join(["parameter", *table.columns])]
        for name, numbers in table.lines():
            lines.append(",".join(['"' + name.replace('"', '""') + '"', *map(repr, numbers)]))
        return "\n".join(lines) + "\n"
    return "\n".join(for_people(table)) + "\n"


def _record(table: ScoreTable) -> dict[str, Any]:
    parameters = [
        {
            "parameter": name,
            **{key: None if v != v else v for key, v in zip(table.columns, numbers, strict=True)},
        }  # NaN becomes null
        for name, numbers in table.lines()
    ]
    notes = {"notes": table.notes} if table.notes else {}
    head = {"rows": table.rows, "log_likelihood": table.log_likelihood, "at_estimate": table.at_estimate}
    return {**head, **notes, "parameters": parameters}


def for_people(table: ScoreTable, width: int | None = None, total: int | None = None) -> list[str]:
    """The lines of the table, the first two of which are its heading.

    Args:
        width: of the terminal; None: unlimited. If it does not suffice, numbers have fewer digits; then columns are left out,
            which a line says; then names are cut, which "…" shows.
        total: the number of all parameters, of which the table has the largest.
    """
    from rich.cells import cell_len

    columns, names = _columns(table), list(table.words)
    digits, shown = _fit(columns, names, width)
    needed = _width(columns, names, _DIGITS[-1])
    if width is not None:
        names = cut(names, width - _width(shown, [], digits))
    headings = [[each.top for each in shown], [each.bottom for each in shown]]
    cells = [[each.text(i, digits) for each in shown] for i in range(len(names))]
    lines = joined(["", "parameter", *names], [*headings, *cells])
    lines.insert(2, "-" * max(map(cell_len, lines)))
    for sentence in _remarks(table, [each for each in columns if each not in shown], needed, total):
        lines += textwrap.wrap(sentence, width or 110)
    return lines


@dataclass(frozen=True)
class _Column:
    """A column of numbers under a heading of two lines; columns of a low rank are left out first."""

    top: str
    bottom: str
    values: list[float]
    rank: int
    is_quotient: bool = False

    def text(self, i: int, digits: int) -> str:
        value = self.values[i]
        if self.is_quotient and abs(value) < 10**digits:
            return f"{value:.{min(2, digits - 2)}f}"
        return number(value, digits)

    def width(self, digits: int) -> int:
        cells = (len(self.text(i, digits)) for i in range(len(self.values)))
        return max([len(self.top), len(self.bottom), *cells])


def _columns(table: ScoreTable) -> list[_Column]:
    """The columns that a person reads: those of an estimate, or those that test given values."""
    found = table.columns
    twice = {"expected", "observed"} <= table.errors.keys()
    errors = [
        _Column(*_lines(_name(kind, twice)), values, 9 if kind == table.basis else 2) for kind, values in table.errors.items()
    ]
    if not table.at_estimate:
        given = [("", "value", "estimate", 9), ("total", "score", "score", 4), ("", "deviation", "deviation", 3)]
        tests = [_Column(top, bottom, found[key], rank) for top, bottom, key, rank in given]
        return [*tests, _Column("", "ratio", found["ratio"], 9, is_quotient=True), *errors]
    estimate = _Column("", "estimate", table.estimate, 9)
    if table.basis is None:
        return [estimate]
    interval = [_Column("95 %", "from", found["lower"], 1), _Column("interval", "to", found["upper"], 1)]
    return [estimate, *errors, _Column("", "z", found["z"], 3, is_quotient=True), *interval]


def _name(kind: str, twice: bool = False) -> str:
    """The name of a kind of standard errors; twice: whether there are those of both informations."""
    return f"{kind} error" if twice and kind in ("expected", "observed") else _ERRORS[kind][0]


def _lines(name: str) -> tuple[str, str]:
    """A heading in two lines."""
    top, _, bottom = name.rpartition(" ")
    return top, bottom


def _fit(columns: list[_Column], names: Sequence[str], width: int | None) -> tuple[int, list[_Column]]:
    """The number of digits and the columns that fit into the width."""
    if width is None:
        return _DIGITS[0], columns
    for digits in _DIGITS:
        if _width(columns, names, digits) <= width:
            return digits, columns
    shortest = [name[:_NAME] for name in names]
    shown = columns
    for rank in sorted({each.rank for each in columns})[:-1]:
        shown = [each for each in columns if each.rank > rank]
        if _width(shown, names, _DIGITS[-1]) <= width:
            break
    else:  # names are cut: keep the columns for which there is room beside the beginnings of names
        for rank in (0, *sorted({each.rank for each in columns})[:-1]):
            shown = [each for each in columns if each.rank > rank]
            if _width(shown, shortest, _DIGITS[-1]) <= width:
                break
    return next((digits for digits in _DIGITS if _width(shown, names, digits) <= width), _DIGITS[-1]), shown


def _width(columns: list[_Column], names: Sequence[str], digits: int) -> int:
    from rich.cells import cell_len

    return max([len("parameter"), *map(cell_len, names)]) * bool(names) + sum(2 + each.width(digits) for each in columns)


def _remarks(table: ScoreTable, left_out: list[_Column], needed: int, total: int | None) -> list[str]:
    """What stands below the table."""
    remarks = [f"{counted(table.rows, 'row')}, log-likelihood {table.log_likelihood:.10g}"]
    if table.at_estimate:
        twice = {"expected", "observed"} <= table.errors.keys()
        kinds = [f"{_name(kind, twice)}: {table.notes.get(kind, _ERRORS[kind][1])}" for kind in table.errors]
        basis = f"z and the 95 % interval: from the {_name(table.basis, twice)}" if table.basis and len(kinds) > 1 else ""
        remarks.append("; ".join(filter(None, ["maximum-likelihood estimate", *kinds, basis])))
    else:
        remarks.append(
            "given values; deviation: the standard deviation of the total score, whose ratio to it is beyond ±2 for about 5 % "
            "of the parameters if the values are right"
        )
    remarks += [f"{_name(kind)}: {note}" for kind, note in table.notes.items() if kind not in table.errors]
    if left_out:
        names = list(dict.fromkeys(_title(each) for each in left_out))
        remarks.append(f"not shown for want of width: {', '.join(names)} ({needed} columns are needed; -o FILE has all)")
    if total is not None and total > len(table.names):
        key = "z" if table.at_estimate else "ratio"
        remarks.append(
            f"{len(table.names)} of {total:,} parameters, those with the largest |{key}|; --top {total} shows all, --wrt selects "
            "some, and -o FILE, --format csv and a pipe have all"
        )
    return remarks


def _title(column: _Column) -> str:
    return "95 % interval" if column.rank == 1 else f"{column.top} {column.bottom}".strip()
