"""A table of several files and row groups, with a mean and a covariance; and commands in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mvnjac.tables import slices

ROOT = Path(__file__).resolve().parents[2]
D = 4
NAMES = [f"v{i}" for i in range(D)]


@dataclass(frozen=True)
class Table:
    """A table: its folder, its rows, and the options for mean and covariance."""

    folder: Path
    x: np.ndarray
    given: list[str]

    @property
    def data(self) -> Path:
        return self.folder / "data"


def write(folder: Path, rows: int = 12_000, files: int = 3, group: int = 500, seed: int = 0) -> Table:
    """Write a table whose rows are numbered, so that lost or repeated rows are noticed."""
    generator = np.random.default_rng(seed)
    root = np.eye(D) + 0.4 * generator.normal(size=(D, D))
    x = generator.normal(size=(rows, D)) @ root.T + 1
    (folder / "data").mkdir(parents=True)
    frame = pd.DataFrame(x, columns=NAMES)
    frame.insert(0, "id", np.arange(rows))
    for i, part in enumerate(np.array_split(np.arange(rows), files)):
        table = pa.Table.from_pandas(frame.iloc[part], preserve_index=False)
        pq.write_table(table, folder / "data" / f"p{i}.parquet", row_group_size=group)
    pd.DataFrame([np.ones(D)], columns=NAMES).to_csv(folder / "mean.csv", index=False)
    pd.DataFrame(1.1 * root @ root.T, columns=NAMES).to_csv(folder / "covariance.csv", index=False)
    given = ["--mean", str(folder / "mean.csv"), "--covariance", str(folder / "covariance.csv"), "--index", "id"]
    return Table(folder, x, given)


#: Units of a few hundred rows, so that a small table has many.
READ_BYTES, WRITTEN_BYTES = 8 * D * 500, 8 * 14 * 500

#: The same in a separate process; each unit sleeps for `SLOW` seconds.
SMALL_UNITS = f"""
import os, sys, time
from mvnjac.tables import slices
slices.READ_BYTES, slices.WRITTEN_BYTES = {READ_BYTES}, {WRITTEN_BYTES}
from mvnjac.jobs.density import Gather
from mvnjac.jobs.scores import PartJob, Sum
def slowly(run):
    def slow(self, unit, on_rows):
        with open(os.environ["PIDS"], "a") as file:
            file.write(f"{{os.getpid()}}\\n")
        time.sleep(float(os.environ["SLOW"]))
        return run(self, unit, on_rows)
    return slow
for job in (Gather, PartJob, Sum):
    job.run = slowly(job.run)
"""
MAIN = """
from mvnjac import cli
if __name__ == "__main__":
    sys.argv = ["mvnjac", *sys.argv[1:]]
    cli.main()
"""


def small_units(patch: pytest.MonkeyPatch) -> None:
    """Use small units in this process."""
    patch.setattr(slices, "READ_BYTES", READ_BYTES)
    patch.setattr(slices, "WRITTEN_BYTES", WRITTEN_BYTES)


def begin(folder: Path, *arguments: object, slow: float = 0.0, more: str = "") -> subprocess.Popen[str]:
    """Start the command with small units, after the code `more`; the workers write their process ids to `folder`/pids."""
    script = folder / "command.py"
    script.write_text(SMALL_UNITS + more + MAIN)  # a spawned worker imports it, too
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "PIDS": str(folder / "pids"), "SLOW": str(slow), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit code, standard output and standard error."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err
