"""The arguments and options that commands share."""

from __future__ import annotations

import csv
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Layout(StrEnum):
    """How a matrix parameter becomes columns."""

    unique = "unique"
    full = "full"


class Format(StrEnum):
    """How `score` prints."""

    table = "table"
    json = "json"
    csv = "csv"


class Missing(StrEnum):
    """What a missing value is."""

    marginalise = "marginalise"


class Engine(StrEnum):
    """Who does the work."""

    local = "local"
    ray = "ray"


class PartFormat(StrEnum):
    """The format of the parts of a folder."""

    parquet = "parquet"
    arrow = "arrow"
    csv = "csv"
    npy = "npy"


DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="The table of observations, one a row.", show_default=False)]
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
MissingOption = Annotated[
    Missing | None,
    typer.Option(
        "--missing",
        help="marginalise: each row is the marginal of what it observes. Without it a missing value is an error.",
        show_default=False,
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
ModelFile = Annotated[
    Path | None,
    typer.Option("--model", metavar="FILE", help="A model that `mvnjac fit` has written, in place of mean and covariance."),
]
STRUCTURES = (
    "dense, diagonal, isotropic, low-rank:RANK, kronecker:ROWSxCOLUMNS, toeplitz, compound-symmetric, banded-precision:BANDWIDTH, "
    "autoregressive:ORDER (or ar:ORDER), or another of the dense family: the parametrisations, by the same names"
)
Structure = Annotated[
    str | None,
    typer.Option("--structure", metavar="NAME", help=f"Estimate a covariance of this structure: {STRUCTURES}."),
]
Wrt = Annotated[
    str | None,
    typer.Option("--wrt", metavar="NAMES", help='Parameters or single elements: "mean,covariance_matrix[USD,JPY]".'),
]
Parametrisation = Annotated[
    str | None,
    typer.Option(
        "--parametrisation",
        metavar="NAME",
        help="dense, cholesky, log-cholesky, precision, precision-cholesky, inverse-cholesky, scale-correlation or natural; "
        "default: the structure's own, dense where none is asked for.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="OUT", help="The file to write, by its suffix; complete or absent."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]


EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine", help="local: this machine; ray: a Ray cluster (pip install 'mvnjac\\[ray]'). The numbers are the same."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes; default: as the work demands, at most one a core.", show_default=False),
]
Gpus = Annotated[
    float, typer.Option("--gpus-per-worker", min=0, help="Graphics processors each worker has; below 1, they share one.")
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="Of a running Ray cluster; default: one of its own, here."),
]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="FOLDER",
        help="Keep the sums of each slice of DATA in this folder as they come (or s3://…, gs://…): --resume goes on from there.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with a folder of parts, or of --keep, that is not complete: only what is missing is done."
    ),
]


Errors = Annotated[
    str,
    typer.Option(
        "--errors",
        metavar="KINDS",
        help="Which standard errors are computed, with commas between: expected, observed (information), sandwich, hac (Newey and "
        "West's, of rows in the order of the index, or of the table; all rows in memory); or none.",
    ),
]


def error_kinds(text: str) -> list[str]:
    """The kinds of --errors, each once.

    Raises:
        UsageError: one that there is not.
    """
    from mvnjac.errors import UsageError
    from mvnjac.jobs.commands import ERRORS

    asked = list(dict.fromkeys(kind.strip() for kind in text.split(",")))
    if asked == ["none"]:
        return []
    for kind in asked:
        if kind not in ERRORS:
            raise UsageError(f"--errors: there is no {kind!r}; expected some of {', '.join(ERRORS)}, or none.")
    return asked


def names(columns: list[str] | None) -> list[str] | None:
    """The names of --columns, given once or several times; those with a comma in quotes."""
    return [name for text in columns or [] for name in next(csv.reader([text], skipinitialspace=True))] or None


def wrt_names(text: str | None) -> list[str]:
    """Split at the commas that are not inside brackets."""
    parts, depth = [""], 0
    for character in text or "":
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    named = [part.strip() for part in parts if part.strip()]
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        from mvnjac.errors import UsageError

        raise UsageError(f"--wrt: {twice[0]!r} is named twice.")
    return named


def check_share(option: str, value: float) -> None:
    """A share is between 0 and 1."""
    from mvnjac.errors import UsageError

    if not 0 < value < 1:
        raise UsageError(f"{option}: {value!r} is no share of the variance; expected a number above 0 and below 1.")
