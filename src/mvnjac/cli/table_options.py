"""The options for reading DATA, which all commands with a table have."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mvnjac.tables.reading import ReadOptions

_PANEL = "Reading DATA"


def _option(*names: str, metavar: str | None = None, help: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=_PANEL, **more)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How DATA is read, as given on the command line; the fields are options of a command."""

    exclude: Annotated[
        list[str] | None,
        _option("--exclude", metavar="A,B,…", help="Columns to leave out. Quote a name that contains a comma."),
    ] = None
    separator: Annotated[
        str | None,
        _option(
            "--separator",
            metavar="CHARACTER",
            help="The character between fields, or one of comma, semicolon, tab, pipe, space. Default: detected.",
            show_default=False,
        ),
    ] = None
    decimal: Annotated[str, _option("--decimal", metavar="CHARACTER", help="The decimal point: . or ,")] = "."
    thousands: Annotated[
        str | None,
        _option("--thousands", metavar="CHARACTER", help="The character that groups digits, such as , in 1,234.5."),
    ] = None
    percent: Annotated[bool, _option("--percent", help="Cells may end with a percent sign: 1.5% is .015.")] = False
    missing_values: Annotated[
        list[str] | None,
        _option(
            "--missing-values",
            metavar="A,B,…",
            help="Further cells that mean a missing value, such as -999. These always do: an empty cell, NA, N/A, n/a, NaN, nan, "
            "-nan, null, NULL, Null, None, <NA>, #N/A, #VALUE!, #DIV/0!, #NUM!, #REF!, #NAME?, -, --, . and ?.",
        ),
    ] = None
    skip_rows: Annotated[int, _option("--skip-rows", metavar="N", help="The number of lines before the header.")] = 0
    header_rows: Annotated[
        int,
        _option(
            "--header-rows",
            metavar="N",
            help="The number of rows of the header, whose names are joined by a space; 0: there is none, and columns are "
            "named 0, 1, …",
        ),
    ] = 1
    comment: Annotated[
        str | None, _option("--comment", metavar="TEXT", help="Leave out the lines that begin with this text, such as '#'.")
    ] = None
    encoding: Annotated[
        str, _option("--encoding", metavar="NAME", help="The encoding of text, such as latin-1, cp1252 or utf-16.")
    ] = "utf-8"
    date_format: Annotated[
        str | None,
        _option(
            "--date-format",
            metavar="FORMAT",
            help="The format of the dates in the index, such as %d/%m/%Y. Default: recognised, unless it is ambiguous.",
            show_default=False,
        ),
    ] = None
    sheet: Annotated[
        str | None,
        _option("--sheet", metavar="NAME", help="The sheet of an Excel file. Default: the first.", show_default=False),
    ] = None

    def reading(self) -> ReadOptions:
        """The options as the library takes them."""
        from mvnjac.tables.reading import ReadOptions

        given = {field.name: getattr(self, field.name) for field in fields(ReadingOptions)}
        for name in ("exclude", "missing_values"):
            given[name] = tuple(divided(given[name]))
        return ReadOptions(**given)


def divided(texts: list[str] | None) -> list[str]:
    """The names in an option that may be given several times and contains quoted names, separated by commas."""
    return [name for text in texts or [] for name in next(csv.reader([text], skipinitialspace=True))]
