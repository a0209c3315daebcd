"""From options to what a command works with: the table, the engine, the folder of kept sums. Nothing heavy is imported before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mvnjac.cli import options
from mvnjac.cli.options import Engine, Missing
from mvnjac.cli.progress import reporting

if TYPE_CHECKING:
    from mvnjac.engines.checkpoint import Checkpoint
    from mvnjac.engines.run import Run
    from mvnjac.jobs.data import Data
    from mvnjac.jobs.density import Request


def table_of(path: str, columns: list[str] | None, index: str | None, log_returns: bool, missing: Missing | None) -> Data:
    """The observations that were asked for."""
    from mvnjac.jobs.data import Data

    return Data(path, options.names(columns), index, log_returns, None if missing is None else missing.value)


def keeping(
    command: str, data: Data, request: Request, question: dict[str, str | None], keep: str | None, resume: bool, force: bool
) -> Checkpoint | None:
    """The folder of --keep, if it may be written to, for the sums of a command and all that they depend on."""
    if keep is None:
        return None
    from mvnjac.engines.checkpoint import Checkpoint
    from mvnjac.jobs import provenance
    from mvnjac.tables.base import open_source

    about = {
        "command": command,
        "input": provenance.input_files(open_source(data.path, data.index)),
        "columns": data.columns,
        "index": data.index,
        "log_returns": data.log_returns,
        "missing": data.missing,
        **{name: provenance.digest_of_file(getattr(request, name)) for name in ("mean", "covariance", "model")},
        "structure": request.structure,
        **question,
        "versions": provenance.versions(),
    }
    return Checkpoint(keep, about, resume, force)


@contextlib.contextmanager
def running(
    engine: Engine,
    workers: int | None,
    gpus: float,
    address: str | None,
    kept: Checkpoint | None = None,
    resumable: bool = False,
) -> Iterator[Run]:
    """The engine that was asked for, and the progress of what it does."""
    from mvnjac.engines.engine import Resources
    from mvnjac.engines.run import Run

    resources = Resources(engine.value, workers, gpus, address)
    with reporting(resumable or kept is not None) as report, resources.open() as opened:
        yield Run(opened, report.rows, report.iteration, resources.device, kept)
        if kept is not None:
            kept.complete()
