"""A table of total scores as text: for people, as JSON, as CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvnjac.cli.options import Format
from mvnjac.cli.progress import duration
from mvnjac.errors import counted
from mvnjac.tensors.allocation import human

if TYPE_CHECKING:
    from mvnjac.jobs.commands import ScoreTable, Written


def check_choice(sums: dict[str, bool], output: str | None, folder: bool, keep: str | None, resume: bool) -> str:
    """Options that exclude each other, or the output. Returns which of the sums is asked for, after a space; "" for rows.

    Raises:
        UsageError: which.
    """
    from mvnjac.errors import UsageError

    asked = [name for name, given in sums.items() if given]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} exclude each other.")
    if folder and asked:
        raise UsageError(f"{asked[0]}: is one table; {output} is a folder: name a file, by its suffix.")
    if keep is not None and not asked:
        raise UsageError("--keep: is of sums, --sum-only or --gram; rows are kept in a folder of parts, named by -o.")
    if asked:
        check_resume(keep, resume)
    elif resume and not folder:
        raise UsageError("--resume: only a folder of parts can be resumed; name one by -o, without a suffix.")
    return "".join(f" {name}" for name in asked)


def check_resume(keep: str | None, resume: bool) -> None:
    """Of a command that writes no rows.

    Raises:
        UsageError: there is nothing to go on with.
    """
    from mvnjac.errors import UsageError

    if resume and keep is None:
        raise UsageError("--resume: needs --keep FOLDER, where the run that was interrupted has kept its sums.")


def written(output: str, file: Path | None, what: Written) -> str:
    """What there is now."""
    from mvnjac.tables.output import companions_of

    beside = [str(path) for path in companions_of(file) if path.exists()] if file is not None else []
    more = f" Beside it: {', '.join(beside)}." if beside else ""
    parts = "" if what.parts == 1 and file is not None else f", {counted(what.parts, 'part')}"
    table = f"{counted(what.rows, 'row')}, {counted(what.columns, 'column')} each{parts}"
    return f"{output}: {table}, {human(what.size)}, in {duration(what.seconds)}.{more}"


def format_of(output: Path | None) -> Format:
    """By the suffix of the file."""
    from mvnjac.errors import UsageError

    suffixes = {".json": Format.json, ".csv": Format.csv, ".txt": Format.table}
    if output is None:
        return Format.table
    if output.suffix not in suffixes:
        raise UsageError(f"{output}: unknown suffix; expected one of {', '.join(suffixes)}, or say --format.")
    return suffixes[output.suffix]


def formatted(table: ScoreTable, form: Format) -> str:
    """The whole table."""
    if form is Format.json:
        return json.dumps(_record(table), indent=1) + "\n"
    if form is Format.csv:
        lines = [",".join(["parameter", *table.headings])]
        for name, numbers in table.lines():
            lines.append(",".join(['"' + name.replace('"', '""') + '"', *map(repr, numbers)]))
        return "\n".join(lines) + "\n"
    from rich.console import Console

    console = Console(no_color=True, force_terminal=False)
    with console.capture() as capture:
        print_table(table, console)
    return capture.get()


def _record(table: ScoreTable) -> dict[str, Any]:
    parameters = [
        {"parameter": name, **{key: None if v != v else v for key, v in zip(table.headings, numbers, strict=True)}}  # NaN: null
        for name, numbers in table.lines()
    ]
    notes = {"notes": table.notes} if table.notes else {}
    return {"rows": table.rows, "log_likelihood": table.log_likelihood, **notes, "parameters": parameters}


def print_table(table: ScoreTable, console: Any = None) -> None:
    """For people."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    notes = "".join(f"\n{kind} error: {how}" for kind, how in table.notes.items())
    caption = f"{counted(table.rows, 'row')}, log-likelihood {table.log_likelihood:.10g}{notes}"
    shown = Table(box=box.SIMPLE_HEAD, caption=escape(caption))
    shown.add_column("parameter", no_wrap=True)
    for heading in table.headings:
        shown.add_column(heading.replace("_", " "), justify="right")
    for name, numbers in table.lines():
        shown.add_row(escape(name), *(f"{number:.6g}" for number in numbers))
    console = console or Console()
    if not console.is_terminal:  # nothing is cut off in a file or a pipe
        console.width = 110 + max(map(len, table.names), default=0)
    console.print(shown)
