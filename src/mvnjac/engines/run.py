"""How the jobs of a command are run: the engine, the progress callbacks, and the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mvnjac.engines.checkpoint import Checkpoint
from mvnjac.engines.driver import Outcome, drive
from mvnjac.engines.engine import Engine
from mvnjac.engines.job import Job, Result
from mvnjac.engines.local import Local
from mvnjac.tables.slices import Slice


@dataclass(frozen=True)
class Run:
    """An engine, progress callbacks, and an optional checkpoint.

    Attributes:
        progress: called with the phase, the number of further rows that are done, and the total number of rows or None.
        search: called with the phase, the iteration and the log-likelihood.
        device: the device of the tensors.
        checkpoint: where the sums of passes are saved.
    """

    engine: Engine = field(default_factory=lambda: Local(1))
    progress: Callable[[str, int, int | None], None] = lambda phase, rows, total: None
    search: Callable[[str, int, float], None] = lambda phase, iteration, log_likelihood: None
    device: str = "cpu"
    checkpoint: Checkpoint | None = None

    def over(
        self,
        job: Job,
        slices: Sequence[Slice],
        phase: str,
        record: Callable[[Result], None] | None = None,
        known: Iterable[Result] = (),
        engine: Engine | None = None,
    ) -> Outcome:
        """Run a job over the slices of a table. `record` gets each new result; without it, a checkpoint saves the sums."""

        def run_job(record: Callable[[Result], None], known: Iterable[Result]) -> Outcome:
            return drive(engine or self.engine, job, slices, lambda rows: self.progress(phase, rows, total), record, known)

        sizes = [at.rows for at in slices]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        if self.checkpoint is None or record is not None or engine is not None:
            return run_job(record or (lambda result: None), known)
        return self.checkpoint.run(job.fingerprint(), len(slices), run_job)
