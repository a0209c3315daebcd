"""How far a command is: drawn on a terminal, a plain line every few seconds otherwise; always on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import typer

#: seconds between two plain lines
_PAUSE = 5.0


class Report(ABC):
    """What a job tells, phase by phase."""

    @abstractmethod
    def rows(self, phase: str, rows: int, total: int | None = None) -> None:
        """So many rows more, of so many in all where that is known."""

    @abstractmethod
    def iteration(self, phase: str, iteration: int, log_likelihood: float) -> None:
        """The search has come this far."""


@contextlib.contextmanager
def reporting(resumable: bool = False) -> Iterator[Report]:
    """A report for the block; an interruption ends the command. resumable: what is complete stays."""
    try:
        with _drawn() if sys.stderr.isatty() else contextlib.nullcontext(_Said()) as report:
            yield report
    except KeyboardInterrupt:
        kept = "what is complete stays; --resume goes on from there" if resumable else "nothing was written"
        print(f"mvnjac: interrupted; {kept}.", file=sys.stderr)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _drawn() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Drawn(bar)


class _Pace:
    """How many rows a phase has done, how fast, and how long the rest will take."""

    def __init__(self) -> None:
        self._begun, self._done = dict[str, float](), dict[str, int]()

    def after(self, phase: str, rows: int, total: int | None) -> str:
        """In words, after so many rows more."""
        begun = self._begun.setdefault(phase, time.monotonic())
        done = self._done[phase] = self._done.get(phase, 0) + rows
        speed = done / max(time.monotonic() - begun, 1e-3)
        if total is None:
            return f"{done:,} rows, {speed:,.0f} rows/s"
        return f"{done:,} of {total:,} rows, {speed:,.0f} rows/s, {duration((total - done) / max(speed, 1e-3))} left"


def duration(seconds: float) -> str:
    """1.2 s, 3 min 20 s, 5 h 7 min."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {int(seconds % 60)} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class _Drawn(Report):
    def __init__(self, bar: Any) -> None:
        self._bar, self._tasks, self._pace = bar, dict[str, Any](), _Pace()

    def rows(self, phase: str, rows: int, total: int | None = None) -> None:
        self._draw(phase, self._pace.after(phase, rows, total))

    def iteration(self, phase: str, iteration: int, log_likelihood: float) -> None:
        self._draw(phase, f"iteration {iteration}, log-likelihood {log_likelihood:.10g}")

    def _draw(self, phase: str, state: str) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=None, state=state)
        self._bar.update(self._tasks[phase], state=state)


class _Said(Report):
    def __init__(self) -> None:
        self._pace, self._last = _Pace(), time.monotonic()

    def rows(self, phase: str, rows: int, total: int | None = None) -> None:
        self._say(f"{phase}: {self._pace.after(phase, rows, total)}")

    def iteration(self, phase: str, iteration: int, log_likelihood: float) -> None:
        self._say(f"{phase}: iteration {iteration}, log-likelihood {log_likelihood:.10g}")

    def _say(self, line: str) -> None:
        if time.monotonic() - self._last > _PAUSE:
            self._last = time.monotonic()
            print(line, file=sys.stderr, flush=True)
