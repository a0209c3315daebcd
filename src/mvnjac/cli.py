"""The command line: parse, call, print. No arithmetic, and nothing heavy is imported before a command runs."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mvnjac.scores import Data, Progress, ScoreTable

app = typer.Typer(
    name="mvnjac",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="The Jacobian of a multivariate normal log-density over real tables: the scores of each row by the mean and the unique "
    "elements of the covariance.\n\n"
    "DATA is Parquet (a file, or a folder of parts), CSV (also .csv.gz), Arrow/Feather (.arrow, .feather) or .npy. Without a mean "
    "and a covariance they are estimated from the data by maximum likelihood.\n\n"
    "Data go to standard output or to the file of -o; errors and progress go to standard error.\n\n"
    "Exit codes: 0 done; 1 failed; 2 wrong usage (options, unknown column, existing output without --force); 3 the given or "
    "estimated covariance is not positive definite.",
)


class Layout(str, Enum):
    """How a matrix parameter becomes columns."""

    unique = "unique"
    full = "full"


class Format(str, Enum):
    """How `score` prints."""

    table = "table"
    json = "json"
    csv = "csv"


DataArgument = Annotated[Path, typer.Argument(metavar="DATA", help="The table of observations, one a row.", show_default=False)]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        "-c",
        metavar="A,B,…",
        help="The variables, in this order; default: all columns but the index. A name with a comma in quotes: '\"BRK,B\",AAPL'.",
    ),
]
Index = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="COLUMN",
        help="A column (a date, say) that is kept in the output; for .npy in a file of its own beside it.",
    ),
]
Returns = Annotated[
    bool,
    typer.Option(
        "--log-returns",
        help="Difference the logarithms of consecutive rows first; with --index, after sorting by it, ascending.",
    ),
]
Mean = Annotated[
    Path | None, typer.Option("--mean", metavar="FILE", help="A table of one row under the variables' names, or .npy.")
]
CovarianceFile = Annotated[
    Path | None,
    typer.Option(
        "--covariance",
        metavar="FILE",
        help="A header of names and a row a variable, optionally with a first column of names; or .npy.",
    ),
]
Wrt = Annotated[
    str | None,
    typer.Option("--wrt", metavar="NAMES", help='Parameters or single elements: "mean,covariance_matrix[USD,JPY]".'),
]
Parametrisation = Annotated[
    str,
    typer.Option(
        "--parametrisation",
        metavar="NAME",
        help="dense (default), cholesky, log-cholesky, precision, precision-cholesky, inverse-cholesky, scale-correlation or natural.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="OUT", help="The file to write, by its suffix; complete or absent."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]


@app.command()
def jacobian(
    data: DataArgument,
    output: Output = None,
    columns: Columns = None,
    index: Index = None,
    log_returns: Returns = False,
    mean: Mean = None,
    covariance: CovarianceFile = None,
    wrt: Wrt = None,
    parametrisation: Parametrisation = "dense",
    layout: Annotated[
        Layout, typer.Option("--layout", help="unique: vech, off-diagonals doubled; full: every entry of the full gradients.")
    ] = Layout.unique,
    force: Force = False,
) -> None:
    """Write the scores: one row an observation, one column a parameter (.parquet, .csv, .csv.gz, .arrow, .feather, .npy)."""
    from mvnjac import scores
    from mvnjac.tables.base import sink_format
    from mvnjac.tables.output import check_output, sink_companions

    check_output(output, force, [data, mean, covariance])
    form = sink_format(output) if output is not None else None  # an unknown suffix is refused before any work is done
    with _progress() as progress:
        names = _wrt(wrt) or scores.parameters(parametrisation)
        rows, width = scores.write_jacobian(
            _data(data, columns, index, log_returns, progress), mean, covariance, names, layout.value, output
        )
    if output is not None:
        beside = [str(path) for path in sink_companions(form, output) if path.exists()]
        more = f" Beside it: {', '.join(beside)}." if beside else ""
        print(f"{output}: {rows} rows, {width} columns each.{more}", file=sys.stderr)


@app.command()
def score(
    data: DataArgument,
    output: Output = None,
    columns: Columns = None,
    index: Index = None,
    log_returns: Returns = False,
    mean: Mean = None,
    covariance: CovarianceFile = None,
    wrt: Wrt = None,
    parametrisation: Parametrisation = "dense",
    form: Annotated[
        Format | None,
        typer.Option(
            "--format", help="table, json or csv; default: by OUT's suffix (.txt, .json, .csv), else table.", show_default=False
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Print each parameter's estimate, its total score, the standard deviation of that total from JᵀJ, and their ratio; and its
    standard errors, all parameters being estimated, from the expected and the observed information.

    At an estimate by maximum likelihood all totals are 0 but for rounding: give a --mean and a --covariance to test them. With only
    one of the two given, the other is estimated at it.
    """
    from mvnjac import scores
    from mvnjac.tables.output import check_output, write_text

    check_output(output, force, [data, mean, covariance])
    form = form or _score_format(output)
    with _progress() as progress:
        names = _wrt(wrt) or scores.parameters(parametrisation)
        table = scores.total_scores(_data(data, columns, index, log_returns, progress), mean, covariance, names)
    if output is not None:
        write_text(output, _formatted(table, form))
        print(f"{output}: the totals of {table.rows} rows by {len(table.names)} parameters.", file=sys.stderr)
    elif form is Format.table:
        _print_table(table)
    else:
        sys.stdout.write(_formatted(table, form))


def main() -> None:
    """The entry point: every error of ours is one sentence on standard error and an exit code."""
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        from mvnjac.errors import MvnjacError

        if not isinstance(error, MvnjacError | OSError):
            raise
        print(f"mvnjac: {error}", file=sys.stderr)
        sys.exit(_exit_code(error))


def _exit_code(error: Exception) -> int:
    from mvnjac.errors import NotPositiveDefiniteError, UnknownNameError, UsageError

    if isinstance(error, NotPositiveDefiniteError):
        return 3
    return 2 if isinstance(error, UsageError | UnknownNameError) else 1


def _score_format(output: Path | None) -> Format:
    from mvnjac.errors import UsageError

    suffixes = {".json": Format.json, ".csv": Format.csv, ".txt": Format.table}
    if output is None:
        return Format.table
    if output.suffix not in suffixes:
        raise UsageError(f"{output}: unknown suffix; expected one of {', '.join(suffixes)}, or say --format.")
    return suffixes[output.suffix]


def _data(path: Path, columns: list[str] | None, index: str | None, log_returns: bool, progress: Progress) -> Data:
    from mvnjac.scores import Data

    names = [name for text in columns or [] for name in next(csv.reader([text], skipinitialspace=True))]
    return Data(path, names or None, index, log_returns, progress)


def _wrt(text: str | None) -> list[str]:
    """Split at the commas that are not inside brackets."""
    parts, depth = [""], 0
    for character in text or "":
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Rows so far: drawn on a terminal, a plain line every few seconds otherwise; always on standard error."""
    try:
        with _drawn() if sys.stderr.isatty() else _said() as progress:
            yield progress
    except KeyboardInterrupt:
        print("mvnjac: interrupted; nothing was written.", file=sys.stderr)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _drawn() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,.0f} rows"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def draw(phase: str, rows: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=None)
            bar.advance(tasks[phase], rows)

        yield draw


@contextlib.contextmanager
def _said() -> Iterator[Progress]:
    done: dict[str, int] = {}
    last = time.monotonic()

    def say(phase: str, rows: int) -> None:
        nonlocal last
        done[phase] = done.get(phase, 0) + rows
        if time.monotonic() - last > 5:
            last = time.monotonic()
            print(f"{phase}: {done[phase]:,} rows", file=sys.stderr, flush=True)

    yield say


def _formatted(table: ScoreTable, form: Format) -> str:
    if form is Format.json:
        return json.dumps(_record(table), indent=1) + "\n"
    if form is Format.csv:
        lines = [",".join(["parameter", *table.HEADINGS])]
        for name, numbers in table.lines():
            lines.append(",".join(['"' + name.replace('"', '""') + '"', *map(repr, numbers)]))
        return "\n".join(lines) + "\n"
    from rich.console import Console

    console = Console(no_color=True, force_terminal=False)
    with console.capture() as capture:
        _print_table(table, console)
    return capture.get()


def _record(table: ScoreTable) -> dict[str, Any]:
    parameters = [
        {"parameter": name, **{key: None if v != v else v for key, v in zip(table.HEADINGS, numbers, strict=True)}}  # NaN: null
        for name, numbers in table.lines()
    ]
    return {"rows": table.rows, "log_likelihood": table.log_likelihood, "parameters": parameters}


def _print_table(table: ScoreTable, console: Any = None) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, caption=f"{table.rows} rows, log-likelihood {table.log_likelihood:.10g}")
    shown.add_column("parameter", no_wrap=True)
    for heading in table.HEADINGS:
        shown.add_column(heading.replace("_", " "), justify="right")
    for name, numbers in table.lines():
        shown.add_row(escape(name), *(f"{number:.6g}" for number in numbers))
    console = console or Console()
    if not console.is_terminal:  # nothing is cut off in a file or a pipe
        console.width = 110 + max(map(len, table.names), default=0)
    console.print(shown)


if __name__ == "__main__":
    main()
