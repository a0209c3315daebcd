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
    def rows(self, phase: str, rows: int) -> None:
        """So many rows more."""

    @abstractmethod
    def iteration(self, phase: str, iteration: int, log_likelihood: float) -> None:
        """The search has come this far."""


@contextlib.contextmanager
def reporting() -> Iterator[Report]:
    """A report for the block; an interruption ends the command."""
    try:
        with _drawn() if sys.stderr.isatty() else contextlib.nullcontext(_Said()) as report:
            yield report
    except KeyboardInterrupt:
        print("mvnjac: interrupted; nothing was written.", file=sys.stderr)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _drawn() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Drawn(bar)


class _Drawn(Report):
    def __init__(self, bar: Any) -> None:
        self._bar, self._tasks, self._done = bar, dict[str, Any](), dict[str, int]()

    def rows(self, phase: str, rows: int) -> None:
        self._done[phase] = self._done.get(phase, 0) + rows
        self._draw(phase, f"{self._done[phase]:,} rows")

    def iteration(self, phase: str, iteration: int, log_likelihood: float) -> None:
        self._draw(phase, f"iteration {iteration}, log-likelihood {log_likelihood:.10g}")

    def _draw(self, phase: str, state: str) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=None, state=state)
        self._bar.update(self._tasks[phase], state=state)


class _Said(Report):
    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._last = time.monotonic()

    def rows(self, phase: str, rows: int) -> None:
        self._done[phase] = self._done.get(phase, 0) + rows
        self._say(f"{phase}: {self._done[phase]:,} rows")

    def iteration(self, phase: str, iteration: int, log_likelihood: float) -> None:
        self._say(f"{phase}: iteration {iteration}, log-likelihood {log_likelihood:.10g}")

    def _say(self, line: str) -> None:
        if time.monotonic() - self._last > _PAUSE:
            self._last = time.monotonic()
            print(line, file=sys.stderr, flush=True)
