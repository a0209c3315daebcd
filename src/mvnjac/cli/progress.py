"""Progress on standard error: a progress display on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import typer

#: seconds between two lines
_PAUSE = 5.0


class Progress(ABC):
    """Shows the progress of a command: rows that are done, their rate and the time left, or the iterations of a search."""

    def __init__(self) -> None:
        self._begun, self._done = dict[str, float](), dict[str, int]()

    def rows(self, phase: str, rows: int, total: int | None = None) -> None:
        """Show that further rows are done; `total` is the number of all rows, if known."""
        begun = self._begun.setdefault(phase, time.monotonic())
        done = self._done[phase] = self._done.get(phase, 0) + rows
        speed = done / max(time.monotonic() - begun, 1e-3)
        if total is None:
            self._show(phase, f"{done:,} rows, {speed:,.0f} rows/s")
        else:
            left = duration((total - done) / max(speed, 1e-3))
            self._show(phase, f"{done:,} of {total:,} rows, {speed:,.0f} rows/s, {left} left")

    def iteration(self, phase: str, iteration: int, log_likelihood: float) -> None:
        """Show that the search has completed an iteration."""
        self._show(phase, f"iteration {iteration}, log-likelihood {log_likelihood:.10g}")

    @abstractmethod
    def _show(self, phase: str, state: str) -> None:
        """Show the state of a phase."""


@contextlib.contextmanager
def reporting(resumable: bool = False) -> Iterator[Progress]:
    """Show the progress of a block. An interruption ends the command; `resumable`: whether complete results have been saved."""
    try:
        with _display() if sys.stderr.isatty() else contextlib.nullcontext(_Lines()) as progress:
            yield progress
    except KeyboardInterrupt:
        state = "complete results are saved; --resume continues from there" if resumable else "nothing was written"
        print(f"mvnjac: interrupted; {state}.", file=sys.stderr)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _display() -> Iterator[Progress]:
    from rich import progress
    from rich.console import Console

    texts = (progress.TextColumn("{task.description}"), progress.TextColumn("{task.fields[state]}"))
    columns = (progress.SpinnerColumn(), *texts, progress.TimeElapsedColumn())
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Display(bar)


class _Display(Progress):
    def __init__(self, bar: Any) -> None:
        super().__init__()
        self._bar, self._tasks = bar, dict[str, Any]()

    def _show(self, phase: str, state: str) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=None, state=state)
        self._bar.update(self._tasks[phase], state=state)


class _Lines(Progress):
    def __init__(self) -> None:
        super().__init__()
        self._last = time.monotonic()

    def _show(self, phase: str, state: str) -> None:
        if time.monotonic() - self._last > _PAUSE:
            self._last = time.monotonic()
            print(f"{phase}: {state}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A duration as text, such as 1.2 s, 3 min 20 s or 5 h 7 min."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {int(seconds % 60)} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
