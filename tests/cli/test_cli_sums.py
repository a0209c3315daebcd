"""The command line: sums, JᵀJ, formats of parts, options that exclude each other, and progress."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac.progress import displays
from mvnjac.tables.base import open_source
from mvnjac.tensors.allocation import human
from tests.cli.test_cli import run
from tests.engines.tables import NAMES, Table, small_units, write


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return write(tmp_path_factory.mktemp("table"), 3000)


def jacobian_of(table: Table) -> mvnjac.Jacobian:
    mean, covariance = (
        torch.from_numpy(pd.read_csv(table.folder / f"{name}.csv").to_numpy()) for name in ("mean", "covariance")
    )
    return mvnjac.jacobian(torch.from_numpy(table.x), mean[0], covariance, names=NAMES)


@pytest.mark.parametrize("wrt", [[], ["--wrt", "mean,scale_tril[v2,v1]"], ["--parametrisation", "scale-correlation"]])
def test_sums(tmp_path: Path, table: Table, wrt: list[str]) -> None:
    out = tmp_path / "sums.parquet"
    assert run("jacobian", table.data, *table.given, *wrt, "--sum-only", "-o", out)[0] == 0
    found = pd.read_parquet(out).set_index("parameter")["sum"]
    names = {0: None, 1: ["mean", "scale_tril[v2,v1]"], 2: ["mean", "scale", "correlation_matrix"]}
    asked = names[0 if not wrt else 1 if wrt[0] == "--wrt" else 2]
    J = jacobian_of(table)
    M = J.matrix(asked)
    assert list(found.index) == J.columns(asked)
    np.testing.assert_allclose(found, M.sum(0), rtol=0, atol=1e-12 * float(M.abs().sum(0).max()))


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_gram(tmp_path: Path, table: Table, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    out = tmp_path / f"gram{suffix}"
    assert run("jacobian", table.data, *table.given, "--wrt", "mean,covariance_matrix[v1,v0]", "--gram", "-o", out)[0] == 0
    source = open_source(out)
    assert source.names == [*(f"mean[{name}]" for name in NAMES), "covariance_matrix[v1,v0]"]
    found = np.column_stack([np.concatenate([b.column(i) for b in source.batches(source.names)]) for i in range(5)])
    expected = jacobian_of(table).gram(wrt=["mean", "covariance_matrix[v1,v0]"])
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("form", ["arrow", "csv", "npy"])
def test_formats_of_parts(tmp_path: Path, table: Table, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    out = tmp_path / "parts"
    assert run("jacobian", table.data, *table.given, "--wrt", "mean", "--format", form, "-o", out)[0] == 0
    parts = [open_source(path) for path in sorted(out.glob(f"part-*.{form}"))]
    assert len(parts) > 1
    values = [b.column(2) for part in parts for b in part.batches(["mean[v0]", "mean[v1]", "mean[v2]"])]
    np.testing.assert_allclose(np.concatenate(values), jacobian_of(table)["mean"][:, 2], rtol=1e-9, atol=1e-12)
    assert run("verify", out)[0] == 0
    if form == "npy":
        ids = [pd.read_csv(path)["id"] for path in sorted(out.glob("part-*.index.csv"))]
        np.testing.assert_array_equal(np.concatenate(ids), np.arange(3000))


def test_zarr(tmp_path: Path, table: Table, capsys) -> None:
    out = tmp_path / "scores.zarr"
    assert run("jacobian", table.data, *table.given, "-o", out)[0] == 0
    source = open_source(out)
    assert source.names == jacobian_of(table).columns()
    assert sum(batch.num_rows for batch in source.batches(["mean[v0]"])) == 3000
    assert run("jacobian", table.data, *table.given, "-o", out, capsys=capsys)[0] == 2
    assert run("jacobian", table.data, *table.given, "--wrt", "mean", "-o", out, "--force")[0] == 0
    assert open_source(out).names == [f"mean[{name}]" for name in NAMES]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sum-only", "--gram"], "--sum-only and --gram exclude each other"),
        (["--sum-only", "-o", "folder"], "--sum-only: the output is one table"),
        (["--resume", "-o", "x.csv"], "--resume: only a folder of parts can be resumed"),
        (["--resume"], "--resume: only a folder of parts can be resumed"),
        (["--resume", "-o", "absent"], "there is nothing to resume"),
        (["--engine", "spark"], "spark"),
        (["--address", "localhost:1"], "add --engine ray"),
        (["--workers", "0"], "'--workers'"),
    ],
)
def test_what_excludes_what(table: Table, capsys, options: list[str], says: str) -> None:
    code, out, err = run("jacobian", table.data, *table.given, *options, capsys=capsys)
    assert (code, out) == (2, "")
    assert says in " ".join(err.replace("│", " ").split())


def test_progress_says_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: Table, capsys) -> None:
    monkeypatch.setattr(displays, "_PAUSE", -1.0)
    small_units(monkeypatch)
    out = tmp_path / "out"
    assert run("jacobian", table.data, *table.given, "-o", out, "--workers", 1)[0] == 0
    *lines, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"writing the scores: [\d,]+ of 3,000 rows, [\d.]+ s left, [\d,]+ rows/s", lines[1])
    assert re.fullmatch(r"writing the scores: 3,000 rows in [\d.]+ s", lines[-1])
    assert re.fullmatch(rf"{out}: 3000 rows, 14 columns each, \d parts, [\d.]+ kB, in [\d.]+ s\.", last)


def test_amounts() -> None:
    assert [human(n) for n in (12, 1234, 5e6, 3.2e9, 41e12)] == ["12 B", "1.23 kB", "5 MB", "3.2 GB", "41 TB"]
