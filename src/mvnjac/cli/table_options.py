"""The options for reading DATA, which all commands with a table have: one decorator adds them."""

from __future__ import annotations

import csv
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from mvnjac.tables.reading import ReadOptions

_PANEL = "Reading DATA"


def _option(*names: str, metavar: str | None = None, help: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=_PANEL, **more)


@dataclass(frozen=True)
class TableOptions:
    """How DATA is read, as given on the command line; the fields become options of a command.

    The option --returns is here because it is new to all commands, like the others.
    """

    exclude: Annotated[
        list[str] | None,
        _option("--exclude", metavar="A,B,…", help="Columns to leave out. Quote a name that contains a comma."),
    ] = None
    returns: Annotated[
        bool,
        _option(
            "--returns",
            help="Use relative changes between consecutive rows, p(t) / p(t-1) - 1, as --log-returns does for logarithms.",
        ),
    ] = False
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

        given = {name: value for name, value in vars(self).items() if name != "returns"}
        for name in ("exclude", "missing_values"):
            given[name] = tuple(divided(given[name]))
        return ReadOptions(**given)


def reads_table(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `TableOptions`, which it has as its argument `reading`."""
    own = inspect.signature(command)
    hints, added = get_type_hints(command, include_extras=True), get_type_hints(TableOptions, include_extras=True)
    defaults = TableOptions()
    kept = [each.replace(annotation=hints[each.name]) for each in own.parameters.values() if each.name != "reading"]
    new = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=getattr(defaults, name), annotation=kind)
        for name, kind in added.items()
    ]

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in added}
        command(**arguments, reading=TableOptions(**options))

    wrapped.__signature__ = own.replace(parameters=[*kept, *new])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in [*kept, *new]}
    return wrapped


def divided(texts: list[str] | None) -> list[str]:
    """The names in an option that may be given several times and contains quoted names, separated by commas."""
    return [name for text in texts or [] for name in next(csv.reader([text], skipinitialspace=True))]
