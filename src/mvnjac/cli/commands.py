"""The commands. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvnjac.cli import options, printing
from mvnjac.cli.options import (
    Columns,
    CovarianceFile,
    DataArgument,
    Force,
    Format,
    Index,
    Layout,
    Mean,
    Missing,
    MissingOption,
    ModelFile,
    Output,
    Parametrisation,
    Returns,
    Structure,
    Wrt,
)
from mvnjac.cli.progress import Report, reporting

if TYPE_CHECKING:
    from mvnjac.estimates import Data

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


def _version(asked: bool) -> None:
    if asked:
        from mvnjac import __version__

        print(f"mvnjac {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and do nothing else.")
    ] = False,
) -> None:
    pass


@app.command()
def jacobian(
    data: DataArgument,
    output: Output = None,
    columns: Columns = None,
    index: Index = None,
    log_returns: Returns = False,
    missing: MissingOption = None,
    mean: Mean = None,
    covariance: CovarianceFile = None,
    model: ModelFile = None,
    structure: Structure = None,
    wrt: Wrt = None,
    parametrisation: Parametrisation = None,
    layout: Annotated[
        Layout, typer.Option("--layout", help="unique: vech, off-diagonals doubled; full: every entry of the full gradients.")
    ] = Layout.unique,
    force: Force = False,
) -> None:
    """Write the scores: one row an observation, one column a parameter (.parquet, .csv, .csv.gz, .arrow, .feather, .npy)."""
    from mvnjac import scores
    from mvnjac.estimates import Request
    from mvnjac.tables.base import sink_format
    from mvnjac.tables.output import check_output, sink_companions

    request = Request(mean, covariance, model, structure)
    check_output(output, force, [data, *request.files()])
    form = sink_format(output) if output is not None else None  # an unknown suffix is refused before any work is done
    with reporting() as report:
        names = options.wrt_names(wrt) or scores.parameters(parametrisation)
        rows, width = scores.write_jacobian(
            _data(data, columns, index, log_returns, missing, report), request, names, layout.value, output
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
    missing: MissingOption = None,
    mean: Mean = None,
    covariance: CovarianceFile = None,
    model: ModelFile = None,
    structure: Structure = None,
    wrt: Wrt = None,
    parametrisation: Parametrisation = None,
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

    At an estimate by maximum likelihood all totals are 0 but for rounding: give a --mean and a --covariance, or a --model, to test
    them. With only one of --mean and --covariance, the other is estimated at it.
    """
    from mvnjac import scores
    from mvnjac.estimates import Request
    from mvnjac.tables.output import check_output, write_text

    request = Request(mean, covariance, model, structure)
    check_output(output, force, [data, *request.files()])
    form = form or printing.format_of(output)
    with reporting() as report:
        names = options.wrt_names(wrt) or scores.parameters(parametrisation)
        table = scores.total_scores(_data(data, columns, index, log_returns, missing, report), request, names)
    if output is not None:
        write_text(output, printing.formatted(table, form))
        print(f"{output}: the totals of {table.rows} rows by {len(table.names)} parameters.", file=sys.stderr)
    elif form is Format.table:
        printing.print_table(table)
    else:
        sys.stdout.write(printing.formatted(table, form))


@app.command()
def fit(
    data: DataArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The model to write (.safetensors); complete or absent.")
    ],
    structure: Annotated[
        str, typer.Option("--structure", metavar="NAME", help=f"What the covariance is like: {options.STRUCTURES}.")
    ] = "dense",
    columns: Columns = None,
    index: Index = None,
    log_returns: Returns = False,
    missing: MissingOption = None,
    max_iterations: Annotated[int, typer.Option("--max-iterations", min=0, help="Of the search.")] = 1000,
    force: Force = False,
) -> None:
    """Estimate mean and covariance by maximum likelihood, and write them as a model for `jacobian --model` and `score --model`.

    A search that does not reach a maximum fails with exit code 1, and writes nothing.
    """
    from mvnjac import estimates, model_file
    from mvnjac.tables.output import check_output

    model_file.check_suffix(output)
    check_output(output, force, [data])
    with reporting() as report:
        estimate = estimates.fitted(_data(data, columns, index, log_returns, missing, report), structure, max_iterations)
        estimate.save(output)
    print(f"{output}: {estimate}", file=sys.stderr)


def _data(
    path: Path, columns: list[str] | None, index: str | None, log_returns: bool, missing: Missing | None, report: Report
) -> Data:
    from mvnjac.estimates import Data

    way = None if missing is None else missing.value
    return Data(path, options.names(columns), index, log_returns, way, report.rows, report.iteration)
