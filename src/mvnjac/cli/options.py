"""The arguments and options of the commands, and functions that parse them; `groups` has those that commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mvnjac.cli.table_options import divided

#: how a matrix parameter is divided into columns
Layout = StrEnum("Layout", ["unique", "full"])
#: the output format of `score`
Format = StrEnum("Format", ["table", "json", "csv"])
#: the treatment of missing values
Missing = StrEnum("Missing", ["error", "drop", "marginalise"])
#: the engine that runs a command
Engine = StrEnum("Engine", ["local", "ray"])
#: the format of the parts of a folder
PartFormat = StrEnum("PartFormat", ["parquet", "arrow", "csv", "npy"])

STRUCTURES = (
    "dense, diagonal, isotropic, low-rank:RANK, kronecker:ROWSxCOLUMNS, toeplitz, compound-symmetric, banded-precision:BANDWIDTH, "
    "autoregressive:ORDER (or ar:ORDER); or a dense covariance with other parameters: cholesky, log-cholesky, precision, "
    "precision-cholesky, inverse-cholesky, scale-correlation"
)

Data = Annotated[str, typer.Argument(metavar="DATA", help="The table of observations, one per row.", show_default=False)]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        "-c",
        metavar="A,B,…",
        help="The variables, in this order. Default: all columns except the index. Quote a name that contains a comma: "
        "'\"BRK,B\",AAPL'.",
    ),
]
Index = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="COLUMN",
        help="The column of row labels, which is copied to the output (for .npy, to a separate file beside it). Default: the first "
        "column, if it consists of dates.",
        show_default=False,
    ),
]
LogReturns = Annotated[
    bool,
    typer.Option(
        "--log-returns",
        help="Use differences of the logarithms of consecutive rows. With an index, the rows are first sorted by it, ascending.",
    ),
]
Returns = Annotated[
    bool,
    typer.Option(
        "--returns", help="Use relative changes of consecutive rows, p(t) / p(t-1) - 1, like --log-returns otherwise."
    ),
]
MissingValues = Annotated[
    Missing,
    typer.Option(
        "--missing",
        help="error: a missing value is an error; drop: use complete rows only; marginalise: use the marginal density of the observed "
        "variables of each row.",
    ),
]
Mean = Annotated[
    Path | None,
    typer.Option("--mean", metavar="FILE", help="The mean: a table with one row and the variables as columns, or .npy."),
]
Covariance = Annotated[
    Path | None,
    typer.Option(
        "--covariance",
        metavar="FILE",
        help="The covariance: a table with one row and one column per variable, optionally with the names of the rows in the first "
        "column; or .npy.",
    ),
]
Model = Annotated[
    Path | None,
    typer.Option("--model", metavar="FILE", help="A model that `mvnjac fit` has written, instead of --mean and --covariance."),
]
Structure = Annotated[
    str | None,
    typer.Option("--structure", metavar="NAME", help=f"Estimate a covariance with this structure: {STRUCTURES}."),
]
Wrt = Annotated[
    str | None,
    typer.Option(
        "--wrt",
        metavar="NAMES",
        help='Only these parameters or single elements, such as "mean,covariance_matrix[USD,JPY]".',
    ),
]
Parametrisation = Annotated[
    str | None,
    typer.Option(
        "--parametrisation",
        metavar="NAME",
        help="The parameters of the derivatives: dense, cholesky, log-cholesky, precision, precision-cholesky, inverse-cholesky, "
        "scale-correlation or natural. Default: the parameters of the structure.",
        show_default=False,
    ),
]
EngineName = Annotated[
    Engine,
    typer.Option(
        "--engine",
        help="local: this machine; ray: a Ray cluster (pip install 'mvnjac\\[ray]'). The results are the same.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="The number of worker processes. Default: depending on the size of DATA, at most one per core.",
        show_default=False,
    ),
]
Gpus = Annotated[
    float, typer.Option("--gpus-per-worker", min=0, help="The number of GPUs per worker; below 1, workers share a GPU.")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="The address of a running Ray cluster. Default: start one on this machine."
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="FOLDER",
        help="Save intermediate sums in this folder (or s3://…, gs://…), so that --resume can continue an interrupted command.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue with an incomplete folder of parts or of --keep, and compute only what is missing."
    ),
]
LayoutOption = Annotated[
    Layout,
    typer.Option(
        "--layout",
        help="unique: one column per unique element of a symmetric matrix (off-diagonal derivatives are doubled); full: one column "
        "per entry.",
        rich_help_panel="Results",
    ),
]
SumOnly = Annotated[bool, typer.Option("--sum-only", help="Only the sum of each column.", rich_help_panel="Results")]
Gram = Annotated[bool, typer.Option("--gram", help="Only JᵀJ.", rich_help_panel="Results")]
Errors = Annotated[
    str | None,
    typer.Option(
        "--errors",
        metavar="KINDS",
        help="The standard errors to compute, separated by commas: expected, observed (from the information), sandwich (robust), hac "
        "(Newey-West, for the rows in the order of the index or of the table; needs all rows in memory); or none. z and the interval "
        "of an estimate are from the last kind. Default: expected (with missing entries observed) and sandwich for an estimate, "
        "none for given values.",
        show_default=False,
        rich_help_panel="Results",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        "--top",
        metavar="N",
        min=1,
        help="Only the N parameters with the largest |z|, or for given values with the largest |ratio|. Default: 30 on a terminal, "
        "all in files and pipes, and with --format csv or json.",
        show_default=False,
        rich_help_panel="Output",
    ),
]
ScoresOutput = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="The output: a file, whose suffix gives the format; or a folder of parts (a name without a suffix, s3://…, gs://…).",
        rich_help_panel="Output",
    ),
]
PartFormatOption = Annotated[
    PartFormat, typer.Option("--format", help="The format of the parts, if OUT is a folder.", rich_help_panel="Output")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="OUT", help="The output file; its suffix gives the format.", rich_help_panel="Output"
    ),
]
ScoreFormat = Annotated[
    Format | None,
    typer.Option(
        "--format",
        help="Default: by the suffix of OUT (.txt, .json, .csv), otherwise table.",
        show_default=False,
        rich_help_panel="Output",
    ),
]
ModelOutput = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="OUT", help="The model file to write (.safetensors).", rich_help_panel="Output"),
]
FitStructure = Annotated[
    str,
    typer.Option(
        "--structure", metavar="NAME", help=f"The structure of the covariance: {STRUCTURES}.", rich_help_panel="Estimation"
    ),
]
MaxIterations = Annotated[
    int,
    typer.Option(
        "--max-iterations", min=0, help="The largest number of iterations of the search.", rich_help_panel="Estimation"
    ),
]
Lower = Annotated[
    float,
    typer.Option(
        "--lower",
        metavar="SHARE",
        help="For low-rank: the smallest unique variance, as a share of the variance of the variable.",
        rich_help_panel="Estimation",
    ),
]
ReportOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="The HTML file to write (.html). Default: the name of DATA without its suffix, with .report.html, in the current "
        "folder.",
        rich_help_panel="Output",
    ),
]


def error_kinds(text: str | None) -> list[str] | None:
    """The kinds of --errors, without duplicates; None for the default.

    Raises:
        UsageError: an unknown kind.
    """
    from mvnjac.errors import UsageError
    from mvnjac.jobs.total_scores import ERRORS

    if text is None:
        return None
    kinds = list(dict.fromkeys(kind.strip() for kind in text.split(",")))
    if kinds == ["none"]:
        return []
    for kind in kinds:
        if kind not in ERRORS:
            raise UsageError(f"--errors: unknown kind {kind!r}; expected some of {', '.join(ERRORS)}, or none.")
    return kinds


def names(columns: list[str] | None) -> list[str] | None:
    """The names of --columns, which may be given several times and contains quoted names."""
    return divided(columns) or None


def wrt_names(text: str | None) -> list[str]:
    """The names of --wrt: split at commas outside brackets."""
    parts, depth = [""], 0
    for character in text or "":
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    found = [part.strip() for part in parts if part.strip()]
    repeated = [name for name in found if found.count(name) > 1]
    if repeated:
        from mvnjac.errors import UsageError

        raise UsageError(f"--wrt: {repeated[0]!r} is given twice.")
    return found


def check_share(option: str, value: float) -> None:
    """Require a number between 0 and 1."""
    from mvnjac.errors import UsageError

    if not 0 < value < 1:
        raise UsageError(f"{option}: got {value!r}; expected a share of the variance, above 0 and below 1.")
