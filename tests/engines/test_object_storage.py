"""Inputs and outputs in emulated object storage on this machine: Amazon's by moto, Google's by gcp-storage-emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from mvnjac.jobs.scores import Sum
from mvnjac.tables.storage import child
from tests.cli.test_cli import run
from tests.engines.tables import Table, small_units


@dataclass(frozen=True)
class Bucket:
    """The start and the options of the addresses of a bucket."""

    start: str
    options: str

    def address(self, path: str) -> str:
        return f"{self.start}bucket/{path}{self.options}"

    @property
    def system(self) -> fs.FileSystem:
        return fs.FileSystem.from_uri(f"{self.start}bucket{self.options}")[0]


@pytest.fixture(scope="module")
def amazon() -> Iterator[Bucket]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    bucket = Bucket("s3://", f"?scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        bucket.system.create_dir("bucket")
        yield bucket
    server.stop()


@pytest.fixture(scope="module")
def google() -> Iterator[Bucket]:
    command = [sys.executable, "-m", "tests.engines.google_storage"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        options = f"?scheme=http&endpoint_override=127.0.0.1:{process.stdout.readline().strip()}&retry_limit_seconds=10"
        yield Bucket("gs://anonymous@", options)


@pytest.fixture(params=["amazon", "google"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """A bucket of either storage."""
    found: Bucket = request.getfixturevalue(request.param)
    return found


@pytest.mark.slow
def test_a_folder_of_parts(
    table: Table, undisturbed: tuple[Path, str], bucket: Bucket, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Read data from the bucket and write scores to it; resume, verify, and detect damaged parts."""
    small_units(monkeypatch)
    system = bucket.system
    for path in table.data.iterdir():
        with system.open_output_stream(f"bucket/data/{path.name}") as stream:
            stream.write(path.read_bytes())
    data, out = bucket.address("data"), bucket.address("out")
    command = ["jacobian", data, *table.given, "-o", out, "--workers", 1]
    code, _, err = run(*command, capsys=capsys)
    assert code == 0, err
    assert "12000 rows, 14 columns each, 24 parts" in err
    expected = pd.read_parquet(undisturbed[0])
    pd.testing.assert_frame_equal(pd.read_parquet("bucket/out", filesystem=system), expected)
    assert json.loads(system.open_input_stream("bucket/out/_totals.json").read()) == json.loads(undisturbed[1])
    assert run("verify", out)[0] == 0
    assert run(*command, capsys=capsys)[0] == 2
    assert run(*command, "--resume", capsys=capsys)[0] == 0
    with system.open_output_stream("bucket/out/part-00007.parquet") as stream:
        stream.write(b"spoilt")
    code, _, err = run("verify", out, capsys=capsys)
    assert code == 1
    assert "part-00007.parquet: has 6 bytes" in err
    assert run(*command, "--resume")[0] == 0
    assert run("verify", out)[0] == 0


def test_totals_of_data_in_a_storage(tmp_path: Path, table: Table, bucket: Bucket) -> None:
    """One file, given by its address."""
    system = bucket.system
    with system.open_output_stream("bucket/one.parquet") as stream:
        stream.write((table.data / "p0.parquet").read_bytes())
    for i, source in enumerate([table.data / "p0.parquet", bucket.address("one.parquet")]):
        assert run("score", source, *table.given, "-o", tmp_path / f"{i}.csv")[0] == 0
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()


@pytest.mark.slow
def test_sums_are_kept_in_a_storage(
    tmp_path: Path, table: Table, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A checkpoint: interrupted in the tenth unit, refused for another question, and read again when complete."""
    small_units(monkeypatch)
    plain, units = Sum.run, list[int]()

    def interrupted(self, unit, on_rows):
        units.append(unit.number)
        if len(units) == 10:
            raise KeyboardInterrupt
        return plain(self, unit, on_rows)

    monkeypatch.setattr(Sum, "run", interrupted)
    command = ["score", table.data, *table.given, "--workers", 1, "--keep", bucket.address("kept")]
    assert run(*command)[0] == 130
    assert run("verify", bucket.address("kept"))[0] == 1
    assert run(*command, "--wrt", "mean", "--resume", capsys=capsys)[0] == 2
    for again in (range(9, 24), range(0)):
        units[:] = [-1] * 10
        assert run(*command, "-o", tmp_path / "kept.csv", "--resume", "--force")[0] == 0
        assert units[10:] == list(again)
    assert run("score", table.data, *table.given, "-o", tmp_path / "plain.csv")[0] == 0
    assert (tmp_path / "kept.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
    code, said, _ = run("verify", bucket.address("kept"), capsys=capsys)
    assert code == 0
    assert "the sums of 24 units, 12,000 rows" in said
    assert run(*command, capsys=capsys)[0] == 2
    assert run(*command, "--force")[0] == 0


def test_what_is_not_there(table: Table, amazon: Bucket, capsys) -> None:
    for address, code, says in [
        (amazon.address("absent.parquet"), 1, "no such file"),
        (f"{amazon.address('out').replace('us-east', 'x')}&what=1", 1, "cannot be reached"),
        ("s4://bucket/x.parquet", 1, "cannot be reached"),
    ]:
        got, _, err = run("score", address, *table.given, capsys=capsys)
        assert got == code
        assert says in err


def test_addresses_keep_their_options() -> None:
    assert child("s3://bucket/folder?region=x", "part") == "s3://bucket/folder/part?region=x"
    assert child("gs://bucket/folder/", "part") == "gs://bucket/folder/part"
    assert child("/some/folder", "part") == "/some/folder/part"
