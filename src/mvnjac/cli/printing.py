"""The output of commands as text, and checks of options that exclude each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mvnjac.cli.options import Format
from mvnjac.errors import counted
from mvnjac.progress.states import duration
from mvnjac.tensors.allocation import human

if TYPE_CHECKING:
    from mvnjac.jobs.commands import Written


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


def terminal_width() -> int:
    """The width of the terminal that standard output is."""
    from rich.console import Console

    return Console().width
