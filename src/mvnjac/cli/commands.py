"""The commands. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mvnjac.cli import options, printing
from mvnjac.cli.options import (
    Address,
    Columns,
    CovarianceFile,
    DataArgument,
    Engine,
    EngineOption,
    Errors,
    Force,
    Format,
    Gpus,
    Index,
    Keep,
    Layout,
    Mean,
    MissingOption,
    ModelFile,
    Output,
    Parametrisation,
    PartFormat,
    Resume,
    Returns,
    Structure,
    Workers,
    Wrt,
)
from mvnjac.cli.session import keeping, running, table_of
from mvnjac.errors import counted

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
        from mvnjac._version import __version__

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
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A file, by its suffix; or a folder of parts (a name without a suffix, or s3://…, gs://…). Complete or absent.",
        ),
    ] = None,
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
    sum_only: Annotated[bool, typer.Option("--sum-only", help="Only the sum of each column.")] = False,
    gram: Annotated[bool, typer.Option("--gram", help="Only JᵀJ.")] = False,
    form: Annotated[PartFormat, typer.Option("--format", help="Of the parts of a folder.")] = PartFormat.parquet,
    engine: EngineOption = Engine.local,
    workers: Workers = None,
    gpus: Gpus = 0,
    address: Address = None,
    keep: Keep = None,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Write the scores: one row an observation, one column a parameter (.parquet, .csv, .csv.gz, .arrow, .feather, .npy, .zarr).

    A folder gets a part for each slice of DATA, written by all workers, and a manifest that `mvnjac verify` checks.
    """
    from mvnjac.jobs import commands, partitioned
    from mvnjac.jobs.density import Request
    from mvnjac.tables.output import check_output, is_folder

    request = Request(mean, covariance, model, structure)
    folder = output is not None and is_folder(output)
    asked = printing.check_choice({"--sum-only": sum_only, "--gram": gram}, output, folder, keep, resume)
    file = None if output is None or folder else Path(output)
    check_output(file, force, [data, *request.files()])
    table = table_of(data, columns, index, log_returns, missing)
    kept = keeping(f"jacobian{asked}", table, request, {"wrt": wrt, "parametrisation": parametrisation}, keep, resume, force)
    with running(engine, workers, gpus, address, kept, resumable=folder) as run:
        names = options.wrt_names(wrt) or commands.parameters(parametrisation)
        if output is not None and folder:
            written = partitioned.write_parts(
                table, request, names, layout.value, output, f".{form.value}", run, resume=resume, force=force
            )
        elif sum_only:
            written = commands.sum_scores(table, request, names, file, run)
        elif gram:
            written = commands.write_gram(table, request, names, file, run)
        else:
            written = commands.write_jacobian(table, request, names, layout.value, file, run)
    if output is not None:
        print(printing.written(output, file, written), file=sys.stderr)


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
    errors: Errors = "expected,observed",
    form: Annotated[
        Format | None,
        typer.Option(
            "--format", help="table, json or csv; default: by OUT's suffix (.txt, .json, .csv), else table.", show_default=False
        ),
    ] = None,
    engine: EngineOption = Engine.local,
    workers: Workers = None,
    gpus: Gpus = 0,
    address: Address = None,
    keep: Keep = None,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Print each parameter's estimate, its total score, the standard deviation of that total from JᵀJ, and their ratio; and its
    standard errors, all parameters being estimated, by default from the expected and the observed information.

    At an estimate by maximum likelihood all totals are 0 but for rounding: give a --mean and a --covariance, or a --model, to test
    them. With only one of --mean and --covariance, the other is estimated at it.
    """
    from mvnjac.jobs import commands
    from mvnjac.jobs.density import Request
    from mvnjac.tables.output import check_output, write_text

    request = Request(mean, covariance, model, structure)
    check_output(output, force, [data, *request.files()])
    printing.check_resume(keep, resume)
    kinds, form = options.error_kinds(errors), form or printing.format_of(output)
    table = table_of(data, columns, index, log_returns, missing)
    question = {"wrt": wrt, "parametrisation": parametrisation, "errors": ",".join(kinds)}
    kept = keeping("score", table, request, question, keep, resume, force)
    with running(engine, workers, gpus, address, kept) as run:
        names = options.wrt_names(wrt) or commands.parameters(parametrisation)
        totals = commands.total_scores(table, request, names, run, kinds)
    if output is not None:
        write_text(output, printing.formatted(totals, form))
        print(
            f"{output}: the totals of {counted(totals.rows, 'row')} by {counted(len(totals.names), 'parameter')}.",
            file=sys.stderr,
        )
    elif form is Format.table:
        printing.print_table(totals)
    else:
        sys.stdout.write(printing.formatted(totals, form))


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
    lower: Annotated[
        float,
        typer.Option(
            "--lower", metavar="SHARE", help="The least unique variance of low-rank, as a share of the variable's variance."
        ),
    ] = 0.005,
    engine: EngineOption = Engine.local,
    workers: Workers = None,
    address: Address = None,
    keep: Keep = None,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Estimate mean and covariance by maximum likelihood, and write them as a model for `jacobian --model` and `score --model`.

    A search that does not reach a maximum fails with exit code 1, and writes nothing. Unique variances that end at the bound of --lower
    (Heywood cases) are named, and the model keeps their names.
    """
    from mvnjac.estimation import model_file
    from mvnjac.jobs import density
    from mvnjac.tables.output import check_output

    model_file.check_suffix(output)
    check_output(output, force, [data])
    printing.check_resume(keep, resume)
    options.check_share("--lower", lower)
    table = table_of(data, columns, index, log_returns, missing)
    kept = keeping("fit", table, density.Request(structure=structure), {"lower": repr(lower)}, keep, resume, force)
    with running(engine, workers, 0, address, kept) as run:
        estimate = density.fitted(table, structure, max_iterations, run, lower)
        estimate.save(output)
    print(f"{output}: {estimate}", file=sys.stderr)


@app.command()
def report(
    data: DataArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The page to write (.html); complete or absent.")
    ],
    columns: Columns = None,
    index: Index = None,
    log_returns: Returns = False,
    missing: MissingOption = None,
    mean: Mean = None,
    covariance: CovarianceFile = None,
    model: ModelFile = None,
    structure: Structure = None,
    engine: EngineOption = Engine.local,
    workers: Workers = None,
    address: Address = None,
    force: Force = False,
) -> None:
    """Write a report as one HTML file that needs no network: influential rows, breaks, standard errors, missing entries, condition.

    Of an estimate by maximum likelihood it shows what the scores say of its errors and of changes in time; of a --mean and a
    --covariance, or a --model of other rows, the scaled total scores, which test them. The estimate is made by all workers, whatever
    the number of rows; the report itself holds the scores of all rows in memory.
    """
    from mvnjac.errors import UsageError
    from mvnjac.jobs.density import Request
    from mvnjac.report import SUFFIXES, write_report
    from mvnjac.tables.output import check_output

    request = Request(mean, covariance, model, structure)
    if output.suffix not in SUFFIXES:
        raise UsageError(f"{output}: a report is an .html file; name it so.")
    check_output(output, force, [data, *request.files()])
    with running(engine, workers, 0, address) as run:
        says = write_report(table_of(data, columns, index, log_returns, missing), request, output, run)
    print(f"{output}: {says}", file=sys.stderr)


@app.command()
def verify(
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="A folder of parts that `mvnjac jacobian` has written, or one of --keep.")
    ],
) -> None:
    """Check a folder of parts or of kept sums against its manifest: what is missing, truncated, changed, or does not belong there is
    named."""
    from mvnjac.engines import manifest

    held, wrong = manifest.verify(output)
    for problem in wrong:
        print(f"mvnjac: {output}: {problem}", file=sys.stderr)
    if wrong:
        raise typer.Exit(1)
    units = held["units"]
    what = f"the sums of {counted(units, 'unit')}" if "passes" in held else counted(units, "part")
    print(f"{output}: complete and unchanged: {what}, {counted(held['rows'], 'row', ',')}.")
