"""A part that is begun and not ended: whoever begins it first is stuck there until it dies. Workers of a cluster import this."""

from __future__ import annotations

import os
import time
from pathlib import Path

import ray

from mvnjac.jobs.scores import Part


class StuckPart(Part):
    """Each unit notes the node that does it, in the folder that $MARKS names; unit 7 is stuck on the first node that begins it."""

    def run(self, unit, on_rows):
        marks, node = Path(os.environ["MARKS"]), ray.get_runtime_context().get_node_id()
        first = not list(marks.glob(f"{unit.number}-*"))
        (marks / f"{unit.number}-{node}").touch()
        if unit.number == 7 and first:
            time.sleep(600)
        return super().run(unit, on_rows)
