"""Killed workers and drivers, full disks and truncated inputs: no row is lost or repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvnjac.engines import verification
from tests.cli.test_cli import run
from tests.engines.tables import Table, begin, finish, small_units, write

resource = pytest.importorskip("resource", reason="Windows has neither signals nor a limit of the size of files")

UNITS = 24


def check(out: Path, undisturbed: tuple[Path, str]) -> None:
    """Require every row once, with its scores, and identical totals."""
    assert verification.verify(str(out))[1] == []
    assert json.loads((out / "_manifest.json").read_text())["units"] == UNITS
    parts, expected = pd.read_parquet(out), pd.read_parquet(undisturbed[0])
    np.testing.assert_array_equal(parts.index, np.arange(12_000))
    pd.testing.assert_frame_equal(parts, expected)
    assert (out / "_totals.json").read_text() == undisturbed[1]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def begun(folder: Path, at_least: int) -> list[int]:
    """The process of each unit, after at least this many units have started."""
    deadline, path = time.monotonic() + 60, folder / "pids"
    while time.monotonic() < deadline:
        found = [int(line) for line in path.read_text().split()] if path.exists() else []
        if len(found) >= at_least:
            return found
        time.sleep(0.02)
    raise AssertionError("no unit was started")


def end_of(process: subprocess.Popen[str], how: signal.Signals) -> tuple[int, str]:
    """The exit code and standard error after a signal; the pipe closes when all workers have ended."""
    process.send_signal(how)
    code, _, err = finish(process)
    return code, err


def test_scores_in_parts_are_the_scores(table: Table, undisturbed: tuple[Path, str]) -> None:
    """The formula ½ (a aᵀ − P), computed with numpy."""
    mean, covariance = (pd.read_csv(table.folder / f"{name}.csv").to_numpy() for name in ("mean", "covariance"))
    P = np.linalg.inv(covariance)
    a = (table.x - mean) @ P
    parts = pd.read_parquet(undisturbed[0])
    np.testing.assert_allclose(parts["mean[v2]"], a[:, 2], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(parts["covariance_matrix[v3,v1]"], a[:, 3] * a[:, 1] - P[3, 1], rtol=1e-9, atol=1e-10)
    totals = json.loads(undisturbed[1])
    assert totals["scores"]["mean[v2]"] == pytest.approx(a[:, 2].sum(), rel=1e-11)
    values = np.einsum("ni,ij,nj->n", table.x - mean, P, table.x - mean) + np.linalg.slogdet(2 * np.pi * covariance)[1]
    assert totals["log_likelihood"] == pytest.approx(-0.5 * values.sum(), rel=1e-13)


@pytest.mark.slow
def test_killed_workers_are_replaced(tmp_path: Path, table: Table, undisturbed: tuple[Path, str]) -> None:
    """Two workers are killed at different times, in the middle of a unit."""
    command = ["jacobian", table.data, *table.given, "-o", tmp_path / "out", "--workers", 2]
    process = begin(tmp_path, *command, slow=0.15)
    killed = set[int]()
    for moment in (2, 9):
        victim = next(pid for pid in reversed(begun(tmp_path, moment)) if pid not in killed)
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
    code, _, err = finish(process)
    assert code == 0, err
    assert len(killed) == 2
    assert len(begun(tmp_path, 1)) > UNITS
    check(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_a_killed_driver_is_resumed(
    tmp_path: Path, table: Table, undisturbed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The driver is killed in its first unit, killed later, interrupted, and then resumed until it is complete."""
    small_units(monkeypatch)
    out = tmp_path / "out"
    command = ["jacobian", table.data, *table.given, "-o", out, "--workers"]
    process = begin(tmp_path, *command, 2, slow=0.1)
    begun(tmp_path, 1)
    assert end_of(process, signal.SIGKILL)[0] == -signal.SIGKILL
    assert verification.verify(str(out))[1][0].startswith("incomplete: ")
    code, _, err = run(*command, 1, capsys=capsys)
    assert code == 2
    assert "--resume continues it, --force replaces it" in err

    before = len(begun(tmp_path, 1))
    process = begin(tmp_path, *command, 1, "--resume", slow=0.15)
    deadline = time.monotonic() + 30
    while len(list(out.glob("_records-*"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert end_of(process, signal.SIGKILL)[0] == -signal.SIGKILL
    recorded = [json.loads(line) for path in out.glob("_records-*") for line in path.read_text().splitlines()]
    assert 0 < len(recorded) < UNITS

    before = len(begun(tmp_path, 1))
    process = begin(tmp_path, *command, 1, "--resume", slow=0.05)
    begun(tmp_path, before + 3)
    code, err = end_of(process, signal.SIGINT)
    assert code == 130
    assert "complete results are saved; --resume continues from there" in err
    assert not [path for path in out.iterdir() if path.name.startswith(".")]

    recorded = [json.loads(line) for path in out.glob("_records-*") for line in path.read_text().splitlines()]
    missing = set(range(UNITS)) - {record["unit"] for record in recorded}
    changed = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 0 < len(missing) < UNITS
    assert run(*command, 1, "--resume")[0] == 0
    again = {path.name for path in out.glob("part-*") if path.stat().st_mtime_ns != changed.get(path.name)}
    assert again == {f"part-{unit:05d}.parquet" for unit in missing}
    check(out, undisturbed)


def test_a_full_disk(
    tmp_path: Path, table: Table, undisturbed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """No part can be written, because files are limited to 20 kB; without the limit, the command can be resumed."""
    small_units(monkeypatch)
    out = tmp_path / "out"
    command = ["jacobian", table.data, *table.given, "-o", out, "--workers", 1]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        code, _, err = run(*command, capsys=capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert "cannot be written" in err
    assert sorted(path.name for path in out.iterdir()) == ["_manifest.json"]
    assert run(*command, "--resume")[0] == 0
    check(out, undisturbed)


def test_a_changed_input_or_question_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    small_units(monkeypatch)
    table = write(tmp_path, 1500)
    command = ["jacobian", table.data, *table.given, "-o", tmp_path / "out", "--workers", 1]
    assert run(*command)[0] == 0
    part = table.data / "p2.parquet"
    whole = part.read_bytes()
    for content, code, says in [
        (whole[:-100], 1, "p2.parquet: cannot be read"),
        (whole, 2, "the input " + str(part) + " has changed"),
    ]:
        part.write_bytes(content)
        got, _, err = run(*command, "--resume", capsys=capsys)
        assert got == code
        assert says in err
    pd.DataFrame([np.ones(4) + 1e-15], columns=["v0", "v1", "v2", "v3"]).to_csv(tmp_path / "mean.csv", index=False)
    code, _, err = run(*command, "--resume", capsys=capsys)
    assert code == 2
    assert "another model" in err
    assert run(*command, "--force")[0] == 0
    for more, says in [(["--wrt", "mean"], "another wrt"), (["--format", "arrow"], "another format")]:
        code, _, err = run(*command, *more, "--resume", capsys=capsys)
        assert code == 2
        assert says in err
    assert verification.verify(str(tmp_path / "out"))[1] == []


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda part: part.unlink(), "part-00003.parquet: is missing."),
        (lambda part: part.write_bytes(part.read_bytes()[:-1]), "it was truncated"),
        (lambda part: part.write_bytes(part.read_bytes()[:999] + b"?" + part.read_bytes()[1000:]), "its checksum differs"),
        (
            lambda part: part.with_name("part-00099.parquet").write_bytes(b""),
            "part-00099.parquet: does not belong to this output",
        ),
        (lambda part: part.with_name("_records-000000.jsonl").write_text("{}"), "_records-000000.jsonl: has changed"),
        (lambda part: part.with_name("_records-000000.jsonl").unlink(), "_records-000000.jsonl: is missing"),
        (lambda part: part.with_name("_manifest.json").unlink(), "mvnjac has not written this folder"),
        (lambda part: part.with_name("_manifest.json").write_text("{"), "_manifest.json is damaged"),
    ],
)
def test_verify_names_what_is_wrong(tmp_path: Path, undisturbed: tuple[Path, str], capsys, harm, says: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for path in undisturbed[0].iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    code, said, err = run("verify", out, capsys=capsys)
    assert (code, err) == (0, "")
    assert "complete and unchanged: 24 parts, 12,000 rows" in said
    harm(out / "part-00003.parquet")
    code, _, err = run("verify", out, capsys=capsys)
    assert code == 1
    assert says in err


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, table: Table, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    for option in ([], ["--force"], ["--resume"]):
        code, _, err = run("jacobian", table.data, *table.given, "-o", out, *option, capsys=capsys)
        assert code == 2
        assert ("thesis.tex" in err) or ("nothing to resume" in err)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
