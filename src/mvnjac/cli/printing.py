"""The output of commands as text, and checks of options that exclude each other."""

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
    """Check the options of `jacobian` that exclude each other.

    Returns:
        The option of the sums that are requested, after a space; "" for rows.

    Raises:
        UsageError: options that exclude each other or the output.
    """
    from mvnjac.errors import UsageError

    requested = [name for name, given in sums.items() if given]
    if len(requested) > 1:
        raise UsageError(f"{' and '.join(requested)} exclude each other.")
    if folder and requested:
        raise UsageError(
            f"{requested[0]}: the output is one table, but {output} is a folder; expected a file name with a suffix."
        )
    if keep is not None and not requested:
        raise UsageError("--keep: works with --sum-only or --gram; to resume the output of rows, write a folder of parts (-o).")
    if requested:
        check_resume(keep, resume)
    elif resume and not folder:
        raise UsageError("--resume: only a folder of parts can be resumed; give -o a name without a suffix.")
    return "".join(f" {name}" for name in requested)


def check_resume(keep: str | None, resume: bool) -> None:
    """Require --keep for --resume, for a command that writes no rows.

    Raises:
        UsageError: --resume without --keep.
    """
    from mvnjac.errors import UsageError

    if resume and keep is None:
        raise UsageError("--resume: needs --keep FOLDER, with the folder of the interrupted command.")


def written(output: str, file: Path | None, what: Written) -> str:
    """A line that describes the output."""
    from mvnjac.tables.output import companions_of

    companions = [str(path) for path in companions_of(file) if path.exists()] if file is not None else []
    more = f" Further files: {', '.join(companions)}." if companions else ""
    parts = "" if what.parts == 1 and file is not None else f", {counted(what.parts, 'part')}"
    table = f"{counted(what.rows, 'row')}, {counted(what.columns, 'column')} each{parts}"
    return f"{output}: {table}, {human(what.size)}, in {duration(what.seconds)}.{more}"


def format_of(output: Path | None) -> Format:
    """The format of an output file, by its suffix."""
    from mvnjac.errors import UsageError

    suffixes = {".json": Format.json, ".csv": Format.csv, ".txt": Format.table}
    if output is None:
        return Format.table
    if output.suffix not in suffixes:
        raise UsageError(f"{output}: unknown suffix; expected one of {', '.join(suffixes)}, or use --format.")
    return suffixes[output.suffix]


def formatted(table: ScoreTable, form: Format) -> str:
    """The table as text, in one of the formats."""
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
        {
            "parameter": name,
            **{key: None if v != v else v for key, v in zip(table.headings, numbers, strict=True)},
        }  # NaN becomes null
        for name, numbers in table.lines()
    ]
    notes = {"notes": table.notes} if table.notes else {}
    return {"rows": table.rows, "log_likelihood": table.log_likelihood, **notes, "parameters": parameters}


def print_table(table: ScoreTable, console: Any = None) -> None:
    """Print the table for reading."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    notes = "".join(f"\n{kind} error: {note}" for kind, note in table.notes.items())
    caption = f"{counted(table.rows, 'row')}, log-likelihood {table.log_likelihood:.10g}{notes}"
    rendered = Table(box=box.SIMPLE_HEAD, caption=escape(caption))
    rendered.add_column("parameter", no_wrap=True)
    for heading in table.headings:
        rendered.add_column(heading.replace("_", " "), justify="right")
    for name, numbers in table.lines():
        rendered.add_row(escape(name), *(f"{number:.6g}" for number in numbers))
    console = console or Console()
    if not console.is_terminal:  # no truncation in a file or a pipe
        console.width = 110 + max(map(len, table.names), default=0)
    console.print(rendered)
