"""How the jobs of one command are run: on which engine, and who hears how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mvnjac.engines.driver import Outcome, drive
from mvnjac.engines.engine import Engine
from mvnjac.engines.local import Local
from mvnjac.engines.unit import Job, Result
from mvnjac.tables.slices import Slice


@dataclass(frozen=True)
class Run:
    """An engine, and its listeners.

    progress: (phase, rows more, rows in all or None); search: (phase, iteration, log-likelihood); device: where tensors lie.
    """

    engine: Engine = field(default_factory=lambda: Local(1))
    progress: Callable[[str, int, int | None], None] = lambda phase, rows, total: None
    search: Callable[[str, int, float], None] = lambda phase, iteration, log_likelihood: None
    device: str = "cpu"

    def over(
        self,
        job: Job,
        slices: Sequence[Slice],
        phase: str,
        record: Callable[[Result], None] = lambda result: None,
        known: Iterable[Result] = (),
        engine: Engine | None = None,
    ) -> Outcome:
        """Run a job over the slices of a table."""
        sizes = [at.rows for at in slices]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        return drive(engine or self.engine, job, slices, lambda rows: self.progress(phase, rows, total), record, known)
