"""A progress that records what it is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mvnjac.progress.stages import Progress, Stage


class RecordedStage(Stage):
    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.known, self.ended, self.iterations = 0, 0, False, list[tuple[Any, ...]]()

    def advance(self, amount: int) -> None:
        self.done += amount

    def skip(self, amount: int) -> None:
        self.known += amount

    def iteration(self, *call: Any) -> None:
        self.iterations.append(call)


class Recorder(Progress):
    """All stages in the order of their beginning."""

    def __init__(self) -> None:
        self.stages = list[RecordedStage]()

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> Iterator[Stage]:
        self.stages.append(RecordedStage(name, total, unit))
        yield self.stages[-1]
        self.stages[-1].ended = True
