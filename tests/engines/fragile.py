"""A job that kills its workers. It imports little, so that workers start fast."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from mvnjac.engines.job import Job, Result, Unit
from mvnjac.errors import MvnjacError


class Fragile(Job):
    """Each unit kills its process a given number of times before it succeeds."""

    tag = "fragile"

    def __init__(self, folder: Path, deaths: dict[int, int]) -> None:
        self.folder, self.deaths = folder, deaths

    def run(self, unit: Unit, on_rows) -> Result:
        marks = len(list(self.folder.glob(f"{unit.number}-*")))
        if marks < self.deaths.get(unit.number, 0):
            (self.folder / f"{unit.number}-{marks}").touch()
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows ends a process by either
        if unit.number == 99:
            raise MvnjacError("unit 99 is wrong")
        return Result(unit.number, 1, None)
