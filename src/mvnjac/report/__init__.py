"""A report on a table: one HTML file that says what the scores say. `analysis` computes, `html` writes."""

from __future__ import annotations

import warnings
from pathlib import Path

from mvnjac.engines.run import Run
from mvnjac.errors import NotAtEstimateWarning, counted
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request
from mvnjac.report.analysis.content import content
from mvnjac.report.html.page import page
from mvnjac.tables.output import write_text

SUFFIXES = (".html", ".htm")


def write_report(data: Data, request: Request, output: Path, run: Run) -> str:
    """Write the report, complete or not at all. Returns a line that says what it is of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotAtEstimateWarning)  # the report says itself whether the parameters are the estimate
        found = content(data, request, run)
    write_text(output, page(found))
    variables, parameters = counted(len(found.names), "variable"), counted(len(found.parameters.names), "parameter")
    return f"{counted(found.rows, 'row')} of {variables}, {parameters}."
