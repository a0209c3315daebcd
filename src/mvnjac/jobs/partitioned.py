"""Scores as a folder of parts, one per unit of work, with a manifest, which can be resumed and verified."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from mvnjac.engines.job import Result, digest
from mvnjac.engines.manifest import Journal, claim_folder, remove_output
from mvnjac.engines.run import Run
from mvnjac.jobs.commands import Written
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request, prepared
from mvnjac.jobs.output_schema import schema_of_scores
from mvnjac.jobs.provenance import input_files, versions
from mvnjac.jobs.scores import PartJob, PortableGaussian
from mvnjac.tables.base import Source
from mvnjac.tables.slices import rows_per_slice

TOTALS = "_totals.json"


def write_parts(
    data: Data,
    request: Request,
    wrt: Sequence[str] | None,
    layout: str,
    output: str,
    form: str,
    run: Run,
    resume: bool = False,
    force: bool = False,
) -> Written:
    """Write the scores of each slice of the table to a separate file, which is complete or absent.

    Args:
        form: the suffix of the files, which determines their format.

    Raises:
        UsageError: the folder contains something else or, with `resume`, the output of another job.
    """
    folder = claim_folder(output, resume, force)
    source, names, gaussian = prepared(data, request, run)
    density = PortableGaussian.of(gaussian, run.device)
    schema = schema_of_scores(data, source, names, density, wrt, layout, form)
    columns = len(schema) - bool(data.index)
    slices = source.slices(rows_per_slice(len(names), columns))
    digits = max(5, len(str(len(slices))))
    wrt = None if wrt is None else tuple(wrt)
    job = PartJob(data, tuple(names), density, wrt, layout=layout, schema=schema, folder=output, form=form, digits=digits)
    journal = Journal(folder, _about(data, source, names, density, wrt, layout, form), len(slices))
    known: Iterable[Result] = []
    if resume:
        known = journal.resume()
    else:
        if force:
            remove_output(folder)
        journal.begin()
    with journal.recording():
        outcome = run.over(job, slices, "writing the scores", journal.record, known)
    totals = dict(zip(job.score_sums.columns, job.score_sums.scores(outcome.sums).tolist(), strict=True))
    likelihood = job.score_sums.log_likelihood(outcome.sums)
    record = {"rows": outcome.rows, "log_likelihood": likelihood, "scores": totals}
    folder.write(TOTALS, (json.dumps(record, indent=1) + "\n").encode())
    journal.complete({"rows": outcome.rows, "bytes": outcome.size, "log_likelihood": likelihood})
    return Written(outcome.rows, columns, outcome.parts, outcome.size, outcome.seconds)


def _about(
    data: Data,
    source: Source,
    names: Sequence[str],
    density: PortableGaussian,
    wrt: Sequence[str] | None,
    layout: str,
    form: str,
) -> dict[str, Any]:
    """Everything that the output depends on, for the manifest."""
    return {
        "command": "jacobian",
        "input": input_files(source),
        "variables": list(names),
        **data.fingerprint(),
        "model": digest({"mean": density.mean, **density.covariance.parameters}),
        "structure": repr(density.covariance),
        "wrt": None if wrt is None else list(wrt),
        "layout": layout,
        "format": form,
        "device": density.device,
        "versions": versions(),
    }
