"""The content of a report on a table file."""

from __future__ import annotations

from pathlib import PurePath

from mvnjac.engines.run import Run
from mvnjac.estimation import model_file
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request, prepared
from mvnjac.report.analysis.content import Content, Description, content_of, is_estimate_from, parameter_count
from mvnjac.report.analysis.load_rows import load_rows


def content_of_table(data: Data, request: Request, run: Run, command: str | None = None) -> Content:
    """Read the table, estimate the parameters that are not given, and compute the content of the report.

    Raises:
        UsageError: more parameters than a report can show.
        MemoryLimitError: the scores of all rows do not fit into memory.
    """
    source, names, gaussian = prepared(data, request, run)
    rows = load_rows(data, source, names, parameter_count(gaussian), run)
    files = {"mean": request.mean, "covariance": request.covariance, "model": request.model}
    description = Description(
        PurePath(data.path).name,
        data.index,
        data.log_returns,
        data.missing,
        {name: path.name for name, path in files.items() if path is not None},
        command,
        data.returns,
    )
    fingerprint = None if request.model is None else model_file.estimated_from(request.model)
    with run.progress.stage("analysing the scores"):
        return content_of(gaussian, names, rows, description, request.estimates or is_estimate_from(fingerprint, rows.x))
