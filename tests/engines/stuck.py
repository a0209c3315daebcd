"""A job one of whose units never ends on the first worker that starts it. Imported by the workers of a cluster."""

from __future__ import annotations

import os
import time
from pathlib import Path

import ray

from mvnjac.jobs.scores import PartJob


class StuckPart(PartJob):
    """Each unit records its node in the folder $MARKS; unit 7 hangs on the first node that starts it."""

    def run(self, unit, on_rows):
        marks, node = Path(os.environ["MARKS"]), ray.get_runtime_context().get_node_id()
        first = not list(marks.glob(f"{unit.number}-*"))
        (marks / f"{unit.number}-{node}").touch()
        if unit.number == 7 and first:
            time.sleep(600)
        return super().run(unit, on_rows)
