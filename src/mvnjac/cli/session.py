"""From the options to the objects that a command works with: the checkpoint and the engine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from mvnjac.cli.options import Engine
from mvnjac.progress.displays import displayed

if TYPE_CHECKING:
    from mvnjac.engines.checkpoint import Checkpoint
    from mvnjac.engines.run import Run
    from mvnjac.jobs.data import Data
    from mvnjac.jobs.density import Request


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
    with _interruptible(resumable or checkpoint is not None), displayed() as progress, resources.open() as opened:
        yield Run(opened, progress, resources.device, checkpoint)
        if checkpoint is not None:
            checkpoint.complete()


@contextlib.contextmanager
def _interruptible(resumable: bool) -> Iterator[None]:
    """An interruption ends the command with one line; `resumable`: whether complete results have been saved."""
    try:
        yield
    except KeyboardInterrupt:
        state = "complete results are saved; --resume continues from there" if resumable else "nothing was written"
        print(f"mvnjac: interrupted; {state}.", file=sys.stderr)
        raise typer.Exit(130) from None
