"""Checkpoints: sums of units are saved while they are computed, and an interrupted command computes only the missing ones."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac.engines import checkpoint, manifest, verification
from mvnjac.engines.checkpoint import Checkpoint
from mvnjac.engines.driver import Outcome
from mvnjac.engines.job import Result
from mvnjac.jobs import density, pilot, scores
from tests.cli.test_cli import run
from tests.engines.tables import NAMES, Table, begin, finish, small_units, write

UNITS = 24


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The units of jobs that this process has run."""
    seen = list[tuple[str, int]]()
    small_units(monkeypatch)
    for job in (density.Gather, scores.Sum, pilot.PilotPass, pilot.LikelihoodPass):
        monkeypatch.setattr(job, "run", _noted(job.run, seen))
    return seen


def _noted(plain, seen):
    def noted(self, unit, on_rows):
        seen.append((type(self).__name__, unit.number))
        return plain(self, unit, on_rows)

    return noted


def recorded(folder: Path) -> set[int]:
    """The units whose sums are saved."""
    return {json.loads(line)["unit"] for path in folder.glob("_records-*") for line in path.read_text().splitlines()}


def assert_same(found: Path, expected: Path) -> None:
    """Require equal numbers of models, or equal bytes of files."""
    if found.suffix != ".safetensors":
        assert found.read_bytes() == expected.read_bytes()
        return
    mine, theirs = mvnjac.load(found), mvnjac.load(expected)
    assert torch.equal(mine.mean, theirs.mean)
    assert torch.equal(mine.parameter("covariance_matrix"), theirs.parameter("covariance_matrix"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("command", "last"),
    [
        (["score"], 2),  # estimates first
        (["score", "given"], 1),
        (["jacobian", "given", "--sum-only"], 1),
        (["jacobian", "given", "--gram", "--parametrisation", "cholesky"], 1),
        (["fit", "--structure", "diagonal"], 1),
    ],
)
def test_a_killed_driver_is_resumed(tmp_path: Path, table: Table, done, capsys, command: list[str], last: int) -> None:
    """The command is killed after some units; resumed, it does not repeat them and gives identical results."""
    name, *options = command
    given = [*(table.given if "given" in options else ["--index", "id"]), *(each for each in options if each != "given")]
    suffix, keep = ".safetensors" if name == "fit" else ".csv", tmp_path / "keep"
    whole, out, at = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}", keep / f"pass-{last:03d}"
    assert run(name, table.data, *given, "--workers", 1, "-o", whole)[0] == 0
    command = [name, table.data, *given, "--workers", 1, "-o", out, "--keep", keep]
    process = begin(tmp_path, *command, slow=0.15)
    deadline = time.monotonic() + 60
    while not recorded(at) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    code, _, err = finish(process)
    assert code == -signal.SIGKILL, err
    saved = recorded(at)
    assert 0 < len(saved) < UNITS
    assert not out.exists()
    code, _, err = run("verify", keep, capsys=capsys)
    assert code == 1
    assert f"pass-{last:03d}: incomplete: {len(saved)} of {UNITS} units are recorded; --resume continues from there" in err
    code, _, err = run(*command, capsys=capsys)
    assert code == 2
    assert "--resume continues it, --force replaces it" in err

    done.clear()
    assert run(*command, "--resume")[0] == 0
    assert len(done) == UNITS - len(saved)
    assert {number for _, number in done} == set(range(UNITS)) - saved
    assert_same(out, whole)
    code, said, _ = run("verify", keep, capsys=capsys)
    assert code == 0
    assert f"complete and unchanged: the sums of {last * UNITS} units, 12,000 rows" in said
    assert not [path for path in keep.rglob("*") if path.name.startswith(".")]
    done.clear()
    assert run(*command, "--resume", "--force")[0] == 0  # the file is there already; the sums are, too
    assert done == []
    assert_same(out, whole)


@pytest.fixture
def finished(tmp_path: Path, done) -> tuple[Table, list[object]]:
    """A small table, and a command with a checkpoint."""
    table = write(tmp_path, 1500)
    command = ["score", table.data, *table.given, "--workers", 1, "-o", tmp_path / "out.csv", "--keep", tmp_path / "keep"]
    assert run(*command)[0] == 0
    command.append("--force")
    return table, command


def test_a_changed_input_or_question_is_refused(tmp_path: Path, finished, capsys, done) -> None:
    table, command = finished
    before = (tmp_path / "out.csv").read_bytes()
    done.clear()
    for more, says in [(["--wrt", "mean"], "another wrt"), (["--missing", "marginalise"], "another missing")]:
        code, _, err = run(*command, *more, "--resume", capsys=capsys)
        assert code == 2
        assert says in err
    other = ["jacobian", *command[1:], "--sum-only", "--resume"]
    code, _, err = run(*other, capsys=capsys)
    assert code == 2
    assert 'another command ("score" then, "jacobian --sum-only" now)' in err
    pd.DataFrame([np.ones(4) + 1e-15], columns=NAMES).to_csv(tmp_path / "mean.csv", index=False)
    code, _, err = run(*command, "--resume", capsys=capsys)
    assert code == 2
    assert "another mean" in err
    part = table.data / "p2.parquet"
    part.write_bytes(part.read_bytes())
    pd.DataFrame([np.ones(4)], columns=NAMES).to_csv(tmp_path / "mean.csv", index=False)
    code, _, err = run(*command, "--resume", capsys=capsys)
    assert code == 2
    assert f"the input {part} has changed" in err
    assert done == []
    assert (tmp_path / "out.csv").read_bytes() == before
    assert run(*command)[0] == 0  # --force begins anew
    assert {number for _, number in done} == {0, 1, 2}
    assert verification.verify(str(tmp_path / "keep"))[1] == []


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda sums: sums.unlink(), "pass-001: _sums-000000.bin: is missing"),
        (lambda sums: sums.write_bytes(sums.read_bytes()[:-1] + b"?"), "pass-001: _sums-000000.bin: has changed"),
        (lambda sums: sums.with_name("_manifest.json").unlink(), "pass-001: is missing"),
    ],
)
def test_verify_names_what_is_wrong(tmp_path: Path, finished, capsys, harm, says: str) -> None:
    assert run("verify", tmp_path / "keep")[0] == 0
    harm(tmp_path / "keep" / "pass-001" / "_sums-000000.bin")
    code, _, err = run("verify", tmp_path / "keep", capsys=capsys)
    assert code == 1
    assert says in err


def test_what_another_command_has_left_is_not_taken(tmp_path: Path, finished, done) -> None:
    """A pass of the same job over other rows, without the manifest of its command."""
    table, command = finished
    before = (tmp_path / "keep" / "pass-001").rename(tmp_path / "left")
    for path in (tmp_path / "keep").iterdir():
        path.unlink()
    part = table.data / "p2.parquet"
    (table.data / "p1.parquet").write_bytes(part.read_bytes())
    done.clear()
    claimed = manifest.claim_folder

    def left(*arguments):
        found = claimed(*arguments)
        before.rename(tmp_path / "keep" / "pass-001")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "claim_folder", left)
        patch.setattr(checkpoint, "remove_output", lambda folder: None)
        assert run(*command)[0] == 0
    assert {number for _, number in done} == {0, 1, 2}


def test_a_search_that_takes_another_way(tmp_path: Path) -> None:
    """A pass with another question is restarted; a pass that is not repeated is removed."""
    keep, passes = str(tmp_path / "keep"), list[tuple[str, int]]()

    def run_passes(checkpoint: Checkpoint, questions: str) -> None:
        for question in questions:

            def drive(record, known, question=question):
                passes.append((question, len(list(known))))
                record(Result(0, 5, None))
                return Outcome(5, 0, 0, 0.0, None)

            checkpoint.run({"at": question}, 1, drive)
        checkpoint.complete()

    run_passes(Checkpoint(keep, {"command": "fit"}, False, False), "abc")
    run_passes(Checkpoint(keep, {"command": "fit"}, True, False), "ax")
    assert passes == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("x", 0)]
    held, wrong = verification.verify(keep)
    assert wrong == []
    assert (held["passes"], held["units"], held["rows"]) == (2, 2, 5)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, finished, capsys) -> None:
    _, command = finished
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    for option in ([], ["--resume"]):
        code, _, err = run(*command, "--keep", other, *option, capsys=capsys)
        assert code == 2
        assert ("thesis.tex" in err) or ("nothing to resume" in err)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_passes_of_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done, capsys) -> None:
    """The search is interrupted in the third pass; the first two are not repeated."""
    monkeypatch.setattr(pilot, "MOST_HELD", 3000)
    table = write(tmp_path, 3000)
    x = np.where(np.random.default_rng(1).random(table.x.shape) < 0.25, np.nan, table.x)
    data = tmp_path / "gaps.parquet"
    pd.DataFrame(x, columns=NAMES).to_parquet(data, row_group_size=500)
    fit = ["fit", data, "--missing", "marginalise", "--workers", 1]
    assert run(*fit, "-o", tmp_path / "whole.safetensors")[0] == 0
    units = 1 + max(number for _, number in done)
    assert len(done) > 4 * units > 8
    noted, limit = pilot.LikelihoodPass.run, 2 * units + units // 2

    def interrupted(self, unit, on_rows):
        if len(done) >= limit:
            raise KeyboardInterrupt
        return noted(self, unit, on_rows)

    every, out = list(done), tmp_path / "out.safetensors"
    done.clear()
    command = [*fit, "-o", out, "--keep", tmp_path / "keep"]
    with monkeypatch.context() as patch:
        patch.setattr(pilot.LikelihoodPass, "run", interrupted)
        code, _, err = run(*command, capsys=capsys)
    assert code == 130
    assert "complete results are saved; --resume continues from there" in err
    assert done == every[:limit]
    done.clear()
    assert run(*command, "--resume")[0] == 0
    assert done == every[limit:]
    assert_same(out, tmp_path / "whole.safetensors")
    assert run("verify", tmp_path / "keep")[0] == 0


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["score", "--resume"], "--resume: needs --keep"),
        (["fit", "-o", "m.safetensors", "--resume"], "--resume: needs --keep"),
        (["jacobian", "--sum-only", "--resume"], "--resume: needs --keep"),
        (["jacobian", "--keep", "folder"], "--keep: works with --sum-only or --gram"),
        (["jacobian", "-o", "folder", "--keep", "folder"], "--keep: works with --sum-only or --gram"),
        (["score", "--keep", "absent", "--resume"], "there is nothing to resume"),
    ],
)
def test_what_excludes_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Table, capsys, command: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *options = command
    code, out, err = run(name, table.data, "--index", "id", *options, capsys=capsys)
    assert (code, out) == (2, "")
    assert says in err
    assert list(tmp_path.iterdir()) == []
