"""From the options to the objects that a command works with: the table, the checkpoint, and the engine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mvnjac.cli import options
from mvnjac.cli.options import Engine, Missing
from mvnjac.cli.progress import reporting
from mvnjac.cli.table_options import TableOptions

if TYPE_CHECKING:
    from mvnjac.engines.checkpoint import Checkpoint
    from mvnjac.engines.run import Run
    from mvnjac.jobs.data import Data
    from mvnjac.jobs.density import Request


def table_of(
    path: str, columns: list[str] | None, index: str | None, log_returns: bool, missing: Missing, reading: TableOptions
) -> Data:
    """The observations. Without an index, the first column is taken if it consists of dates, and a line says so."""
    from mvnjac.jobs.data import Data

    given = Data(
        path,
        options.names(columns),
        index,
        log_returns,
        "marginalise" if missing is Missing.marginalise else None,
        reading.returns,
        missing is Missing.drop,
        reading.reading(),
    )
    data = given.settled()
    if data.index != given.index:
        print(
            f"{path}: the rows are labelled by {data.index!r}, which consists of dates (--index selects another column).",
            file=sys.stderr,
        )
    return data


def open_checkpoint(
    command: str, data: Data, request: Request, question: dict[str, str | None], keep: str | None, resume: bool, force: bool
) -> Checkpoint | None:
    """The checkpoint in the folder of --keep, described by everything that the sums depend on; None without --keep."""
    if keep is None:
        return None
    from mvnjac.engines.checkpoint import Checkpoint
    from mvnjac.jobs import provenance
    from mvnjac.tables.base import open_source

    about = {
        "command": command,
        "input": provenance.input_files(open_source(data.path, data.index, data.reading)),
        "columns": data.columns,
        **data.fingerprint(),
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
    checkpoint: Checkpoint | None = None,
    resumable: bool = False,
) -> Iterator[Run]:
    """The engine, with progress reports on standard error; the checkpoint is completed if the block ends without an error."""
    from mvnjac.engines.engine import Resources
    from mvnjac.engines.run import Run

    resources = Resources(engine.value, workers, gpus, address)
    with reporting(resumable or checkpoint is not None) as progress, resources.open() as opened:
        yield Run(opened, progress.rows, progress.iteration, resources.device, checkpoint)
        if checkpoint is not None:
            checkpoint.complete()
