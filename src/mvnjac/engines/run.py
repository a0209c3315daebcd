"""How the jobs of one command are run: on which engine, and who hears how far they are."""

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
    """An engine, and its listeners.

    progress: (phase, rows more, rows in all or None); search: (phase, iteration, log-likelihood); device: where tensors lie; kept:
    where the sums of passes are kept.
    """

    engine: Engine = field(default_factory=lambda: Local(1))
    progress: Callable[[str, int, int | None], None] = lambda phase, rows, total: None
    search: Callable[[str, int, float], None] = lambda phase, iteration, log_likelihood: None
    device: str = "cpu"
    kept: Checkpoint | None = None

    def over(
        self,
        job: Job,
        slices: Sequence[Slice],
        phase: str,
        record: Callable[[Result], None] | None = None,
        known: Iterable[Result] = (),
        engine: Engine | None = None,
    ) -> Outcome:
        """Run a job over the slices of a table; each new result is recorded, or else kept where sums are kept, as it comes."""

        def driven(record: Callable[[Result], None], known: Iterable[Result]) -> Outcome:
            return drive(engine or self.engine, job, slices, lambda rows: self.progress(phase, rows, total), record, known)

        sizes = [at.rows for at in slices]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        if self.kept is None or record is not None or engine is not None:
            return driven(record or (lambda result: None), known)
        return self.kept.run(job.fingerprint(), len(slices), driven)
