"""A running Ray cluster, one of whose nodes is lost while it runs units."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.tables import ROOT, Table, begin, finish
from tests.engines.test_faults import UNITS, check

STUCK = "\nfrom mvnjac.jobs import partitioned\nfrom tests.engines.stuck import StuckPart\npartitioned.PartJob = StuckPart\n"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The process of the cluster; its workers can import this package and find the folder of marks."""
    (tmp_path / "marks").mkdir()
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    mine = {"PYTHONPATH": path, "MARKS": str(tmp_path / "marks"), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engines.three_nodes"],
        env={**os.environ, **mine},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:  # closing its input shuts the cluster down
        yield process


@pytest.mark.slow
def test_a_lost_node(tmp_path: Path, table: Table, undisturbed: tuple[Path, str], cluster: subprocess.Popen[str]) -> None:
    """A node is lost in the middle of a unit: no row is lost or repeated, and the sums are those of a single process."""
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    address, *nodes = cluster.stdout.readline().split()
    where = ["--engine", "ray", "--address", address]
    process = begin(tmp_path, "jacobian", table.data, *table.given, "-o", tmp_path / "out", *where, more=STUCK)
    lost = node_of(tmp_path / "marks", 7)
    assert lost in nodes
    print(lost, file=cluster.stdin, flush=True)
    (other,) = cluster.stdout.readline().split()
    code, _, err = finish(process)
    assert code == 0, err
    check(tmp_path / "out", undisturbed)
    marks = {tuple(path.name.split("-")) for path in (tmp_path / "marks").iterdir()}
    assert {("7", lost), ("7", other)} <= marks
    assert {int(unit) for unit, _ in marks} == set(range(UNITS))


def node_of(marks: Path, unit: int) -> str:
    """The first node that has started a unit."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in marks.glob(f"{unit}-*"):
            return path.name.split("-")[1]
        time.sleep(0.05)
    raise AssertionError(f"unit {unit} was not started")
