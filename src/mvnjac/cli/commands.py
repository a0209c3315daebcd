"""The commands. Heavy modules are imported inside the functions, so that --help is fast."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mvnjac.cli import options, printing
from mvnjac.cli.grouping import PlainGroup, command, examples_text
from mvnjac.cli.groups import (
    DensityOptions,
    EngineOptions,
    GpuOptions,
    KeepOptions,
    OverwriteOptions,
    ParameterOptions,
    TableOptions,
)
from mvnjac.cli.layout import print_lines
from mvnjac.cli.options import Format, Layout, PartFormat
from mvnjac.errors import counted

app = typer.Typer(
    name="mvnjac",
    cls=PlainGroup,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Derivatives of the multivariate normal log-density (scores) over tables: one row per observation, one column per parameter, "
    "with respect to the mean and the covariance.\n\n"
    "DATA is a table of observations: text (.csv, .tsv, .txt; also .gz, .bz2, .zst, .zip), Parquet, Arrow (.arrow, .feather, .arrows), "
    "Excel (.xlsx), .npy, .zarr; or a folder of text or Parquet files. What is not given is estimated by maximum likelihood.\n\n"
    "Results go to the file given by -o, or to standard output. Messages and progress go to standard error.\n\n"
    "Exit codes: 0 success; 1 failure; 2 wrong usage (options, unknown column, existing output without --force); 3 the given or "
    "estimated covariance is not positive definite.",
    epilog=examples_text(
        [
            "mvnjac score prices.csv --index Date --log-returns",
            "mvnjac report prices.csv --index Date --log-returns --missing marginalise",
            "mvnjac jacobian returns.parquet -o scores.parquet",
        ]
    ),
)


def _version(requested: bool) -> None:
    if requested:
        from mvnjac._version import __version__

        print(f"mvnjac {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@command(
    app,
    examples=[
        "mvnjac jacobian prices.csv --index Date --log-returns -o scores.parquet",
        "mvnjac jacobian returns.csv --wrt 'mean,covariance_matrix[USD,JPY]' | head",
        "mvnjac jacobian big/ --model model.safetensors -o scores --workers 8",
    ],
)
def jacobian(
    table: TableOptions,
    density: DensityOptions,
    parameters: ParameterOptions,
    *,
    layout: options.LayoutOption = Layout.unique,
    sum_only: options.SumOnly = False,
    gram: options.Gram = False,
    output: options.ScoresOutput = None,
    form: options.PartFormatOption = PartFormat.parquet,
    overwrite: OverwriteOptions,
    running: EngineOptions,
    gpu: GpuOptions,
    keeping: KeepOptions,
) -> None:
    """Write the scores: one row per observation, one column per parameter.

    The suffix of OUT gives the format: .parquet, .csv, .csv.gz, .arrow, .feather, .npy or .zarr. If OUT is a folder, the workers
    write one part per slice of DATA, and a manifest that `mvnjac verify` checks. Without -o, a terminal shows the first rows and
    columns, and a pipe gets CSV.
    """
    from mvnjac.cli.jacobian_output import JacobianOutput
    from mvnjac.tables.output import check_output, is_folder

    request = density.request()
    folder = output is not None and is_folder(output)
    sums = printing.check_choice({"--sum-only": sum_only, "--gram": gram}, output, folder, keeping.keep, keeping.resume)
    file = None if output is None or folder else Path(output)
    check_output(file, overwrite.force, [table.data, *request.files()])
    data, on_terminal = table.table(), output is None and sys.stdout.isatty()
    question = parameters.question()
    checkpoint = keeping.checkpoint(f"jacobian{sums}", data, request, question, overwrite.force)
    with running.running(checkpoint, resumable=folder, gpus=gpu.gpus) as run:
        scores = JacobianOutput(data, request, parameters.names(), layout.value, run)
        if output is not None and folder:
            written = scores.parts(output, f".{form.value}", resume=keeping.resume, force=overwrite.force)
        elif on_terminal:
            head = scores.head(sums)
        else:
            written = scores.write(file, sums)
    if output is not None:
        print(printing.written(output, file, written), file=sys.stderr)
    elif on_terminal:
        print_lines(head, headings=2)


@command(
    app,
    examples=[
        "mvnjac score prices.csv --index Date --log-returns",
        "mvnjac score returns.csv --errors hac --wrt mean",
        "mvnjac score returns.csv --mean mean.csv --covariance covariance.csv",
        "mvnjac score returns.csv -o scores.csv",
    ],
)
def score(
    table: TableOptions,
    density: DensityOptions,
    parameters: ParameterOptions,
    *,
    errors: options.Errors = None,
    output: options.Output = None,
    form: options.ScoreFormat = None,
    top: options.Top = None,
    overwrite: OverwriteOptions,
    running: EngineOptions,
    gpu: GpuOptions,
    keeping: KeepOptions,
) -> None:
    """Print each parameter with its estimate and standard errors, or test given values by their total scores.

    If the mean and the covariance are estimated from DATA, or by a --model of these data: the estimate, its standard error, its
    robust standard error, their quotient z, and a 95 % interval.

    If values are given by --mean and --covariance, or by a --model of other data: the total score, its standard deviation (from
    JᵀJ), and their ratio, which is beyond ±2 where the data contradict the value. If only one of --mean and --covariance is
    given, the other is estimated.
    """
    from mvnjac.cli import score_output
    from mvnjac.jobs.total_scores import total_scores
    from mvnjac.tables.output import check_output, write_text

    request = density.request()
    check_output(output, overwrite.force, [table.data, *request.files()])
    printing.check_resume(keeping.keep, keeping.resume)
    kinds, form = options.error_kinds(errors), form or printing.format_of(output)
    question = {**parameters.question(), "errors": "default" if kinds is None else ",".join(kinds)}
    data = table.table()
    checkpoint = keeping.checkpoint("score", data, request, question, overwrite.force)
    with running.running(checkpoint, gpus=gpu.gpus) as run:
        totals = total_scores(data, request, parameters.names(), run, kinds)
    on_terminal = output is None and form is Format.table and sys.stdout.isatty()
    shown = totals.largest(top or (score_output.TOP if on_terminal else len(totals.names)))
    if output is not None:
        write_text(output, score_output.formatted(shown, form))
        size = f"{counted(totals.rows, 'row')}, {counted(len(shown.names), 'parameter')}"
        print(f"{output}: total scores of {size}.", file=sys.stderr)
    elif on_terminal:
        print_lines(score_output.for_people(shown, printing.terminal_width(), len(totals.names)), headings=2)
    else:
        sys.stdout.write(score_output.formatted(shown, form))


@command(
    app,
    examples=[
        "mvnjac fit prices.csv --index Date --log-returns -o model.safetensors",
        "mvnjac fit returns.csv --structure low-rank:3 --missing marginalise -o model.safetensors",
    ],
)
def fit(
    table: TableOptions,
    *,
    structure: options.FitStructure = "dense",
    max_iterations: options.MaxIterations = 1000,
    lower: options.Lower = 0.005,
    output: options.ModelOutput,
    overwrite: OverwriteOptions,
    running: EngineOptions,
    keeping: KeepOptions,
) -> None:
    """Estimate the mean and the covariance by maximum likelihood, and write a model for the option --model.

    If the search does not converge, nothing is written and the exit code is 1. Unique variances at the bound of --lower
    (Heywood cases) are listed, and marked in the model.
    """
    from mvnjac.estimation import model_file
    from mvnjac.jobs import density
    from mvnjac.tables.output import check_output

    model_file.check_suffix(output)
    check_output(output, overwrite.force, [table.data])
    printing.check_resume(keeping.keep, keeping.resume)
    options.check_share("--lower", lower)
    request, data = density.Request(structure=structure), table.table()
    checkpoint = keeping.checkpoint("fit", data, request, {"lower": repr(lower)}, overwrite.force)
    with running.running(checkpoint) as run:
        estimate = density.fitted(data, structure, max_iterations, run, lower)
        estimate.save(output)
    print(f"{output}: {estimate}", file=sys.stderr)


@command(
    app,
    examples=[
        "mvnjac report prices.csv --index Date --log-returns --missing marginalise",
        "mvnjac report returns.csv --model model.safetensors -o returns.html",
    ],
)
def report(
    table: TableOptions,
    density: DensityOptions,
    *,
    output: options.ReportOutput = None,
    overwrite: OverwriteOptions,
    running: EngineOptions,
) -> None:
    """Write a report as one HTML file, which works offline.

    The report shows influential rows, structural breaks, standard errors, missing entries, and the condition number.
    For estimated parameters, the report shows standard errors and changes over time. For a given --mean and --covariance, or
    a --model of other rows, it shows the total scores, which test the given values. The report needs the scores of all rows
    in memory.
    """
    from mvnjac.report import check_suffix, write_table_report
    from mvnjac.tables.output import check_output, name_beside

    request = density.request()
    output = name_beside(table.data, ".report.html") if output is None else output
    check_suffix(output)
    check_output(output, overwrite.force, [table.data, *request.files()])
    data = table.table()
    with running.running() as run:
        summary = write_table_report(data, request, output, run, shlex.join(["mvnjac", *sys.argv[1:]]))
    print(f"{output}: {summary}", file=sys.stderr)


@command(app, examples=["mvnjac verify scores", "mvnjac jacobian big.parquet -o scores && mvnjac verify scores"])
def verify(
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="A folder of parts that `mvnjac jacobian` has written, or a folder of --keep.")
    ],
) -> None:
    """Check that a folder of parts, or a folder of --keep, is complete and unchanged.

    Files that are missing, truncated, changed or unexpected are listed.
    """
    from mvnjac.engines import verification

    manifest, problems = verification.verify(output)
    for problem in problems:
        print(f"mvnjac: {output}: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(1)
    units = manifest["units"]
    what = f"the sums of {counted(units, 'unit')}" if "passes" in manifest else counted(units, "part")
    print(f"{output}: complete and unchanged: {what}, {counted(manifest['rows'], 'row', ',')}.")
