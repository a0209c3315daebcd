"""Workers and drivers that are killed, disks that are full, inputs that are truncated: no row is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvnjac.engines import manifest
from tests.engines.tables import Table, begin, finish, write

JACOBIAN = ["jacobian", "--workers", 2]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return write(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def undisturbed(table: Table) -> tuple[Path, str]:
    """What is to come out, and the totals."""
    out = table.folder / "undisturbed"
    code, _, err = finish(begin(table.folder, "jacobian", table.data, *table.given, "-o", out, "--workers", 1))
    assert code == 0, err
    return out, (out / "_totals.json").read_text()


def check(out: Path, undisturbed: tuple[Path, str]) -> None:
    """Every row once, each with its own scores, and the totals bit by bit."""
    assert manifest.verify(str(out))[1] == []
    parts, expected = pd.read_parquet(out), pd.read_parquet(undisturbed[0])
    assert len(parts) == 12_000
    pd.testing.assert_frame_equal(parts, expected)
    np.testing.assert_array_equal(parts["id"], np.arange(12_000))
    assert (out / "_totals.json").read_text() == undisturbed[1]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def pids(folder: Path, at_least: int) -> list[int]:
    """The workers, once so many units have been begun."""
    deadline, path = time.monotonic() + 60, folder / "pids"
    while time.monotonic() < deadline:
        found = [int(line) for line in path.read_text().split()] if path.exists() else []
        if len(found) >= at_least:
            return found
        time.sleep(0.02)
    raise AssertionError("no unit was begun")


def test_killed_workers_are_replaced(tmp_path: Path, table: Table, undisturbed: tuple[Path, str]) -> None:
    """Two different workers, at different moments, one of them with a unit half done."""
    process = begin(tmp_path, *JACOBIAN, table.data, *table.given, "-o", tmp_path / "out", slow=0.15)
    killed = set[int]()
    for begun in (2, 9):
        victim = next(pid for pid in reversed(pids(tmp_path, begun + len(killed))) if pid not in killed)
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
    code, _, err = finish(process)
    assert code == 0, err
    assert len(killed) == 2
    check(tmp_path / "out", undisturbed)


@pytest.mark.parametrize("begun", [1, 12])
def test_a_killed_driver_is_resumed(tmp_path: Path, table: Table, undisturbed: tuple[Path, str], begun: int) -> None:
    out = tmp_path / "out"
    command = [*JACOBIAN, table.data, *table.given, "-o", out]
    process = begin(tmp_path, *command, slow=0.15)
    pids(tmp_path, begun)
    if begun > 1:
        deadline = time.monotonic() + 30
        while not list(out.glob("_records-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    wrong = manifest.verify(str(out))[1]
    assert wrong[0].startswith("incomplete: ")
    code, _, err = finish(begin(tmp_path, *command))
    assert code == 2
    assert "--resume goes on with it, --force replaces it" in err
    (tmp_path / "pids").unlink()
    code, _, err = finish(begin(tmp_path, *command, "--resume"))
    assert code == 0, err
    again, units = len(pids(tmp_path, 1)), json.loads((out / "_manifest.json").read_text())["units"]
    assert again == units if begun == 1 else again < units
    check(out, undisturbed)


def test_an_interruption_keeps_what_is_complete(tmp_path: Path, table: Table, undisturbed: tuple[Path, str]) -> None:
    out = tmp_path / "out"
    command = [*JACOBIAN, table.data, *table.given, "-o", out]
    process = begin(tmp_path, *command, slow=0.1)
    pids(tmp_path, 8)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert "--resume goes on from there" in err
    done = len(list(out.glob("part-*")))
    assert 0 < done < 27
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    (tmp_path / "pids").unlink()
    assert finish(begin(tmp_path, *command, "--resume"))[0] == 0
    assert len(pids(tmp_path, 1)) <= 24 - done + 2
    check(out, undisturbed)


def test_a_full_disk(tmp_path: Path, table: Table, undisturbed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No file may grow beyond 20 kB: no part can be written, and none is there; with room again, the run goes on."""
    import tests.engines.tables as tables

    out = tmp_path / "out"
    command = ["jacobian", table.data, *table.given, "-o", out, "--workers", 1]
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    with monkeypatch.context() as patched:
        patched.setattr(tables, "SMALL_UNITS", limited + tables.SMALL_UNITS)
        code, _, err = finish(begin(tmp_path, *command))
    assert code == 1
    assert "cannot be written" in err
    assert list(out.glob("part-*")) == []
    assert finish(begin(tmp_path, *command, "--resume"))[0] == 0
    check(out, undisturbed)


def test_a_truncated_input(tmp_path: Path) -> None:
    """The file is named, what was complete stays; the repaired input is another input."""
    table = write(tmp_path)
    whole = (table.data / "p2.parquet").read_bytes()
    middle = len(whole) // 2
    (table.data / "p2.parquet").write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    command = ["jacobian", table.data, *table.given, "-o", tmp_path / "out", "--workers", 2]
    code, _, err = finish(begin(tmp_path, *command))
    assert code == 1
    assert "p2.parquet: cannot be read" in err
    code, _, err = finish(begin(tmp_path, *command, "--resume"))
    assert (code, "p2.parquet: cannot be read" in err) == (1, True)
    (table.data / "p2.parquet").write_bytes(whole[:-100])
    code, _, err = finish(begin(tmp_path, *command, "--resume"))
    assert (code, "p2.parquet: cannot be read" in err) == (1, True)
    (table.data / "p2.parquet").write_bytes(whole)
    code, _, err = finish(begin(tmp_path, *command, "--resume"))
    assert code == 2
    assert "p2.parquet was changed since" in err
