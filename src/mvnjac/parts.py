"""Scores as a folder of parts, one a unit of work, with a manifest: written by many, resumed, verified."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from mvnjac.engines.folder import Folder
from mvnjac.engines.manifest import Journal, clear, is_output
from mvnjac.engines.run import Run
from mvnjac.engines.unit import Result
from mvnjac.errors import TableError, UsageError
from mvnjac.estimates import Data, Request, prepared
from mvnjac.score_jobs import Density, Part, schema_of
from mvnjac.scores import Written
from mvnjac.tables.base import Source
from mvnjac.tables.slices import rows_of
from mvnjac.tables.storage import entries, entry, is_remote

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
    """Write the scores of each slice of the table as a file of its own, in the format of a suffix; whole, or not at all.

    Raises:
        UsageError: the folder holds something else, or (`resume`) the beginning of another job.
    """
    folder = _checked(output, resume, force)
    source, names, gaussian = prepared(data, request, run)
    density = Density.of(gaussian, run.device)
    schema = schema_of(data, source, density, wrt, layout)
    columns = len(schema) - bool(data.index)
    slices = source.slices(rows_of(len(names), columns))
    digits = max(5, len(str(len(slices))))
    asked = None if wrt is None else tuple(wrt)
    job = Part(data, tuple(names), density, asked, layout=layout, schema=schema, folder=output, form=form, digits=digits)
    journal = Journal(folder, _about(data, source, names, density, asked, layout, form), len(slices))
    known: Iterable[Result] = []
    if resume:
        known = journal.resume()
    else:
        if force:
            clear(folder)
        journal.begin()
    try:
        outcome = run.over(job, slices, "writing", journal.record, known)
    except BaseException:
        journal.save()
        raise
    finally:
        folder.tidy()
    totals = dict(zip(job.kernel.columns, job.kernel.scores(outcome.sums).tolist(), strict=True))
    likelihood = job.kernel.log_likelihood(outcome.sums)
    record = {"rows": outcome.rows, "log_likelihood": likelihood, "scores": totals}
    folder.write(TOTALS, (json.dumps(record, indent=1) + "\n").encode())
    journal.complete({"rows": outcome.rows, "bytes": outcome.size, "log_likelihood": likelihood})
    return Written(outcome.rows, columns, outcome.parts, outcome.size, outcome.seconds)


def input_files(source: Source) -> list[dict[str, Any]]:
    """What the table is read from: names, sizes, when they were changed."""
    files = []
    for path in source.inputs():
        there = entry(path)
        if there is None:
            raise TableError(f"{path}: no such file.")
        name = path if is_remote(path) else os.path.abspath(path)
        files.append({"path": name, "size": there.size, "changed": there.changed})
    return files


def _checked(output: str, resume: bool, force: bool) -> Folder:
    """The folder, if it may be written to."""
    folder = Folder(output)
    there = entry(output)
    if resume:
        if there is None or not is_output(folder):
            raise UsageError(f"{output}: there is nothing to resume; leave --resume out.")
        return folder
    if there is not None and not there.folder:
        raise UsageError(f"{output}: is a file; name a folder, or a file with a suffix that says its format.")
    held = [] if there is None else [each.name for each in entries(output) if not each.name.startswith(".")]
    if held and not is_output(folder):
        raise UsageError(f"{output}: holds {held[0]!r}, which mvnjac has not written; name another folder.")
    if held and not force:
        raise UsageError(f"{output}: exists already; --resume goes on with it, --force replaces it.")
    return folder


def _about(
    data: Data,
    source: Source,
    names: Sequence[str],
    density: Density,
    wrt: Sequence[str] | None,
    layout: str,
    form: str,
) -> dict[str, Any]:
    """What the output depends on."""
    import numpy
    import pyarrow
    import torch

    import mvnjac
    from mvnjac import kernels

    return {
        "command": "jacobian",
        "input": input_files(source),
        "variables": list(names),
        "index": data.index,
        "log_returns": data.log_returns,
        "missing": data.missing,
        "model": _digest(density),
        "structure": repr(density.covariance),
        "wrt": None if wrt is None else list(wrt),
        "layout": layout,
        "format": form,
        "device": density.device,
        "versions": {
            "mvnjac": mvnjac.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "pyarrow": pyarrow.__version__,
            "kernels": kernels.why_not() or "compiled",
        },
    }


def _digest(density: Density) -> str:
    """The SHA-256 of the mean and the covariance's parameters, bit by bit."""
    sha = hashlib.sha256()
    for name, value in {"mean": density.mean, **density.covariance.parameters}.items():
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
