"""How the jobs of a command are run: the engine, the progress, and the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mvnjac.engines.checkpoint import Checkpoint
from mvnjac.engines.driver import Outcome, drive
from mvnjac.engines.engine import Engine
from mvnjac.engines.job import Job, Result
from mvnjac.engines.local import Local
from mvnjac.progress.stages import Progress
from mvnjac.tables.slices import Slice


@dataclass(frozen=True)
class Run:
    """An engine, where progress is reported to, and an optional checkpoint.

    Attributes:
        progress: shows the stages of the command, by default nowhere.
        device: the device of the tensors.
        checkpoint: where the sums of passes are saved.
    """

    engine: Engine = field(default_factory=lambda: Local(1))
    progress: Progress = field(default_factory=Progress)
    device: str = "cpu"
    checkpoint: Checkpoint | None = None
    _lengths: dict[tuple[Slice, ...], int] = field(default_factory=dict, repr=False)

    def over(
        self,
        job: Job,
        slices: Sequence[Slice],
        stage: str,
        record: Callable[[Result], None] | None = None,
        known: Iterable[Result] = (),
        engine: Engine | None = None,
    ) -> Outcome:
        """Run a job over the slices of a table, as a stage with this name.

        `record` gets each new result; without it, a checkpoint saves the sums.
        """
        with self.progress.stage(stage, self.rows_of(slices)) as shown:

            def run_job(record: Callable[[Result], None], known: Iterable[Result]) -> Outcome:
                return drive(engine or self.engine, job, slices, shown.advance, record, known, shown.skip)

            if self.checkpoint is None or record is not None or engine is not None:
                outcome = run_job(record or (lambda result: None), known)
            else:
                outcome = self.checkpoint.run(job.fingerprint(), len(slices), run_job)
        self._lengths[tuple(slices)] = outcome.rows
        return outcome

    def rows_of(self, slices: Sequence[Slice]) -> int | None:
        """The number of rows of the slices, if they state it or an earlier pass has counted it; else None."""
        sizes = [at.rows for at in slices]
        return self._lengths.get(tuple(slices)) if None in sizes else sum(size or 0 for size in sizes)
