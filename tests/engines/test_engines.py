"""All engines give identical results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac.engines.engine import Resources
from mvnjac.engines.job import Unit
from mvnjac.errors import MvnjacError, UsageError
from mvnjac.tables.slices import Slice
from tests.cli.test_cli import run
from tests.engines.fragile import Fragile
from tests.engines.tables import Table, small_units


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray cluster for all tests, with a home folder that is not writable."""
    home = tmp_path_factory.mktemp("home")
    home.chmod(0o500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))  # matplotlib's list of fonts
        with Resources("ray", 2).open() as engine:
            engine._initialised()
            yield
        assert list(home.iterdir()) == []


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["score", "jacobian"])
def test_sums_are_bitwise_the_same(tmp_path: Path, table: Table, cluster: None, small: None, command: str) -> None:
    more = ["--sum-only"] if command == "jacobian" else []
    found = []
    for i, engine in enumerate([["--workers", 1], ["--workers", 2], ["--engine", "ray", "--workers", 2]]):
        out = tmp_path / f"{i}.csv"
        assert run(command, table.data, *table.given, *more, *engine, "-o", out)[0] == 0
        found.append(out.read_bytes())
    assert found[0] == found[1] == found[2]
    assert len(found[0].splitlines()) == 1 + 14


def test_parts_of_ray(tmp_path: Path, table: Table, undisturbed: tuple[Path, str], cluster: None, small: None) -> None:
    out = tmp_path / "out"
    assert run("jacobian", table.data, *table.given, "-o", out, "--engine", "ray", "--workers", 2)[0] == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out), pd.read_parquet(undisturbed[0]))
    assert (out / "_totals.json").read_text() == undisturbed[1]
    for path in undisturbed[0].glob("part-*"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_fit_is_the_same(tmp_path: Path, table: Table, cluster: None, small: None) -> None:
    models = []
    for i, engine in enumerate([["--workers", 1], ["--engine", "ray", "--workers", 2]]):
        out = tmp_path / f"{i}.safetensors"
        assert run("fit", table.data, "-c", "v0,v1,v2", *engine, "-o", out)[0] == 0
        models.append(mvnjac.load(out))
    assert torch.equal(models[0].mean, models[1].mean)
    assert torch.equal(models[0].parameter("covariance_matrix"), models[1].parameter("covariance_matrix"))


def test_a_report_is_the_same(tmp_path: Path, table: Table, cluster: None, small: None) -> None:
    """The estimate of the report is computed in units."""
    pages = []
    for i, engine in enumerate([["--workers", 1], ["--workers", 2], ["--engine", "ray", "--workers", 2]]):
        out = tmp_path / f"{i}.html"
        assert run("report", table.data, "--index", "id", *engine, "-o", out)[0] == 0
        pages.append(re.sub(r'<p id="command">.*?</p>|"command":"[^"]*"', "", out.read_text("utf-8")))
    assert pages[0] == pages[1] == pages[2]


def units(*numbers: int) -> list[Unit]:
    return [Unit(number, Slice(f"file {number}")) for number in numbers]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_workers_that_die(tmp_path: Path, cluster: None, engine: str) -> None:
    """Each result is returned once, even if workers die."""
    opened = Resources(engine, 2).open()
    results = opened.results(Fragile(tmp_path, {1: 1, 2: 1}), units(0, 1, 2, 3), lambda rows: None)
    assert sorted(result.number for result in results) == [0, 1, 2, 3]
    with pytest.raises(MvnjacError, match="unit 99 is wrong"):
        list(opened.results(Fragile(tmp_path, {}), units(0, 99), lambda rows: None))


def test_a_worker_that_always_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mvnjac.engines import local

    monkeypatch.setattr(local, "_TRIALS", 1)
    with pytest.raises(MvnjacError, match="file 1: a worker died 2 times"):
        list(Resources("local", 2).open().results(Fragile(tmp_path, {1: 99}), units(0, 1), lambda rows: None))


def test_resources_that_are_none() -> None:
    with pytest.raises(UsageError, match="there is no engine 'spark'"):
        Resources("spark")
    with pytest.raises(UsageError, match="add --engine ray"):
        Resources("local", address="localhost:1")
