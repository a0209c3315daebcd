"""The commands. Heavy modules are imported inside the functions, so that --help is fast."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mvnjac.cli import options, printing
from mvnjac.cli.options import Engine, Format, Layout, PartFormat
from mvnjac.cli.session import open_checkpoint, running, table_of
from mvnjac.errors import counted

app = typer.Typer(
    name="mvnjac",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Derivatives of the multivariate normal log-density (scores) over tables: one row per observation, one column per parameter, "
    "with respect to the mean and the covariance.\n\n"
    "DATA is a table of observations: Parquet (a file, or a folder of files), CSV (.csv, .csv.gz), Arrow/Feather (.arrow, .feather), "
    ".npy or .zarr. A mean and a covariance that are not given are estimated from DATA by maximum likelihood.\n\n"
    "Results go to the file given by -o, or to standard output. Messages and progress go to standard error.\n\n"
    "Exit codes: 0 success; 1 failure; 2 wrong usage (options, unknown column, existing output without --force); 3 the given or "
    "estimated covariance is not positive definite.",
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


@app.command()
def jacobian(
    data: options.Data,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="The output: a file, whose suffix gives the format; or a folder of parts (a name without a suffix, s3://…, gs://…).",
        ),
    ] = None,
    columns: options.Columns = None,
    index: options.Index = None,
    log_returns: options.Returns = False,
    missing: options.MissingValues = None,
    mean: options.Mean = None,
    covariance: options.Covariance = None,
    model: options.Model = None,
    structure: options.Structure = None,
    wrt: options.Wrt = None,
    parametrisation: options.Parametrisation = None,
    layout: Annotated[
        Layout,
        typer.Option(
            "--layout",
            help="unique: one column per unique element of a symmetric matrix (off-diagonal derivatives are doubled); full: one column "
            "per entry.",
        ),
    ] = Layout.unique,
    sum_only: Annotated[bool, typer.Option("--sum-only", help="Write only the sum of each column.")] = False,
    gram: Annotated[bool, typer.Option("--gram", help="Write only JᵀJ.")] = False,
    form: Annotated[
        PartFormat, typer.Option("--format", help="The format of the parts, if OUT is a folder.")
    ] = PartFormat.parquet,
    engine: options.EngineName = Engine.local,
    workers: options.Workers = None,
    gpus: options.Gpus = 0,
    address: options.Address = None,
    keep: options.Keep = None,
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Write the scores: one row per observation, one column per parameter.

    The suffix of OUT gives the format: .parquet, .csv, .csv.gz, .arrow, .feather, .npy or .zarr. If OUT is a folder, the workers
    write one part per slice of DATA, and a manifest that `mvnjac verify` checks.
    """
    from mvnjac.jobs import commands, partitioned
    from mvnjac.jobs.density import Request
    from mvnjac.tables.output import check_output, is_folder

    request = Request(mean, covariance, model, structure)
    folder = output is not None and is_folder(output)
    sums = printing.check_choice({"--sum-only": sum_only, "--gram": gram}, output, folder, keep, resume)
    file = None if output is None or folder else Path(output)
    check_output(file, force, [data, *request.files()])
    table = table_of(data, columns, index, log_returns, missing)
    question = {"wrt": wrt, "parametrisation": parametrisation}
    checkpoint = open_checkpoint(f"jacobian{sums}", table, request, question, keep, resume, force)
    with running(engine, workers, gpus, address, checkpoint, resumable=folder) as run:
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
    data: options.Data,
    output: options.Output = None,
    columns: options.Columns = None,
    index: options.Index = None,
    log_returns: options.Returns = False,
    missing: options.MissingValues = None,
    mean: options.Mean = None,
    covariance: options.Covariance = None,
    model: options.Model = None,
    structure: options.Structure = None,
    wrt: options.Wrt = None,
    parametrisation: options.Parametrisation = None,
    errors: options.Errors = "expected,observed",
    form: Annotated[
        Format | None,
        typer.Option(
            "--format", help="Default: by the suffix of OUT (.txt, .json, .csv), otherwise table.", show_default=False
        ),
    ] = None,
    engine: options.EngineName = Engine.local,
    workers: options.Workers = None,
    gpus: options.Gpus = 0,
    address: options.Address = None,
    keep: options.Keep = None,
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Print the total score of each parameter, with its estimate and standard errors.

    For each parameter, the table shows its estimate, its total score, the standard deviation of the total score (from JᵀJ),
    their ratio, and its standard errors.

    At a maximum-likelihood estimate all total scores are 0 up to rounding. To test given values, use --mean and --covariance,
    or --model. If only one of --mean and --covariance is given, the other is estimated.
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
    checkpoint = open_checkpoint("score", table, request, question, keep, resume, force)
    with running(engine, workers, gpus, address, checkpoint) as run:
        names = options.wrt_names(wrt) or commands.parameters(parametrisation)
        totals = commands.total_scores(table, request, names, run, kinds)
    if output is not None:
        write_text(output, printing.formatted(totals, form))
        size = f"{counted(totals.rows, 'row')}, {counted(len(totals.names), 'parameter')}"
        print(f"{output}: total scores of {size}.", file=sys.stderr)
    elif form is Format.table:
        printing.print_table(totals)
    else:
        sys.stdout.write(printing.formatted(totals, form))


@app.command()
def fit(
    data: options.Data,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The model file to write (.safetensors).")],
    structure: Annotated[
        str, typer.Option("--structure", metavar="NAME", help=f"The structure of the covariance: {options.STRUCTURES}.")
    ] = "dense",
    columns: options.Columns = None,
    index: options.Index = None,
    log_returns: options.Returns = False,
    missing: options.MissingValues = None,
    max_iterations: Annotated[
        int, typer.Option("--max-iterations", min=0, help="The largest number of iterations of the search.")
    ] = 1000,
    lower: Annotated[
        float,
        typer.Option(
            "--lower",
            metavar="SHARE",
            help="For low-rank: the smallest unique variance, as a share of the variance of the variable.",
        ),
    ] = 0.005,
    engine: options.EngineName = Engine.local,
    workers: options.Workers = None,
    address: options.Address = None,
    keep: options.Keep = None,
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Estimate the mean and the covariance by maximum likelihood, and write a model for the option --model.

    If the search does not converge, nothing is written and the exit code is 1. Unique variances at the bound of --lower
    (Heywood cases) are listed, and marked in the model.
    """
    from mvnjac.estimation import model_file
    from mvnjac.jobs import density
    from mvnjac.tables.output import check_output

    model_file.check_suffix(output)
    check_output(output, force, [data])
    printing.check_resume(keep, resume)
    options.check_share("--lower", lower)
    table = table_of(data, columns, index, log_returns, missing)
    request = density.Request(structure=structure)
    checkpoint = open_checkpoint("fit", table, request, {"lower": repr(lower)}, keep, resume, force)
    with running(engine, workers, 0, address, checkpoint) as run:
        estimate = density.fitted(table, structure, max_iterations, run, lower)
        estimate.save(output)
    print(f"{output}: {estimate}", file=sys.stderr)


@app.command()
def report(
    data: options.Data,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The HTML file to write (.html).")],
    columns: options.Columns = None,
    index: options.Index = None,
    log_returns: options.Returns = False,
    missing: options.MissingValues = None,
    mean: options.Mean = None,
    covariance: options.Covariance = None,
    model: options.Model = None,
    structure: options.Structure = None,
    engine: options.EngineName = Engine.local,
    workers: options.Workers = None,
    address: options.Address = None,
    force: options.Force = False,
) -> None:
    """Write a report as one HTML file, which works offline.

    The report shows influential rows, structural breaks, standard errors, missing entries, and the condition number.
    For estimated parameters, the report shows standard errors and changes over time. For a given --mean and --covariance, or
    a --model of other rows, it shows the total scores, which test the given values. The report needs the scores of all rows
    in memory.
    """
    from mvnjac.jobs.density import Request
    from mvnjac.report import check_suffix, write_table_report
    from mvnjac.tables.output import check_output

    request = Request(mean, covariance, model, structure)
    check_suffix(output)
    check_output(output, force, [data, *request.files()])
    with running(engine, workers, 0, address) as run:
        table = table_of(data, columns, index, log_returns, missing)
        summary = write_table_report(table, request, output, run, shlex.join(["mvnjac", *sys.argv[1:]]))
    print(f"{output}: {summary}", file=sys.stderr)


@app.command()
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
