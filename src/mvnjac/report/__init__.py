"""Reports: one HTML file about the scores of a table. `analysis` computes the content, and `html` renders it.

The package may use all packages except `cli`. Interface: `write_report` (public, `mvnjac.write_report`), `write_table_report`,
`check_suffix`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mvnjac.engines.run import Run
from mvnjac.errors import ArgumentError, NotAtEstimateWarning, UsageError, counted
from mvnjac.estimation.result import Fit
from mvnjac.gaussian import Gaussian
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request
from mvnjac.report.analysis.of_arrays import content_of_arrays
from mvnjac.report.analysis.of_table import content_of_table
from mvnjac.report.html.page import page
from mvnjac.tables.output import check_output, write_text

SUFFIXES = (".html", ".htm")

#: the report itself says whether the parameters are the estimate
_IGNORED: Any = {"action": "ignore", "category": NotAtEstimateWarning}


def write_report(fit: Fit | Gaussian, data: Any, path: str | Path, *, title: str = "data", overwrite: bool = False) -> None:
    """Write a report as one HTML file, with the same content as `mvnjac report`.

    The report shows influential rows, structural breaks, standard errors, missing entries, and the condition number. For a
    `Fit` of these rows it describes the estimates and their changes over time. For a `Gaussian`, or a `Fit` of other rows,
    the parameters are given values, which are tested by their total scores.

    Args:
        fit: the mean and the covariance: a `Fit`, or a `Gaussian` without batch dimensions.
        data: the rows: a tensor or array (n, d), NaN where an entry is missing; or a pandas DataFrame, an Arrow table or the
            `Observations` of `from_table`, whose columns are matched by the names of `fit` if it has names. The index of a
            table labels the rows and is the time axis; other rows are numbered from 1 and taken to be in the order of time.
        path: the file to write, with the suffix .html.
        title: the name of the data in the report.
        overwrite: whether an existing file may be replaced.

    Raises:
        ArgumentError: `path` exists or has another suffix; `data` has no rows, too many parameters or another number of
            variables; or any error of `from_table` and of `Gaussian.jacobian`.
        TableError: the file cannot be written.
        MemoryLimitError: the scores of all rows do not fit into memory.

    Example:
        >>> import os, tempfile, pandas as pd, torch, mvnjac
        >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> days = pd.date_range("2024-01-01", periods=100)
        >>> returns = pd.DataFrame(x.numpy(), columns=["USD", "CHF"], index=days)
        >>> fit = mvnjac.fit(x, names=["USD", "CHF"])
        >>> path = os.path.join(tempfile.mkdtemp(), "report.html")
        >>> mvnjac.write_report(fit, returns, path)
        >>> os.path.exists(path)
        True
    """
    path = Path(path)
    try:
        check_suffix(path)
        check_output(path, overwrite, permission="overwrite=True")
    except UsageError as error:
        raise ArgumentError(f"write_report: {error}") from None
    with warnings.catch_warnings(**_IGNORED):
        content = content_of_arrays(fit, data, title)
    write_text(path, page(content))


def write_table_report(data: Data, request: Request, output: Path, run: Run, command: str | None = None) -> str:
    """Write the report on a table file. Returns a line that describes the report.

    command: the command line, which the report states at its end.
    """
    with warnings.catch_warnings(**_IGNORED):
        content = content_of_table(data, request, run, command)
    write_text(output, page(content))
    variables, parameters = counted(len(content.names), "variable"), counted(len(content.parameters.names), "parameter")
    return f"{counted(content.rows, 'row')} of {variables}, {parameters}."


def check_suffix(path: Path) -> None:
    """Require the suffix of an HTML file.

    Raises:
        UsageError: another suffix.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: a report is an HTML file; expected the suffix .html.")
