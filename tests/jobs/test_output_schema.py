"""Parquet and Arrow outputs state what their numbers are, and pandas restores the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mvnjac
from mvnjac.jobs import output_schema
from tests.cli.test_cli import run

DATES = pd.date_range("2020-01-01", periods=30, name="day")


@pytest.fixture
def frame() -> pd.DataFrame:
    numbers = np.random.default_rng(3).normal(size=(30, 3)) @ np.array([[1, 0.4, 0], [0, 1, 0.3], [0, 0, 2.0]])
    return pd.DataFrame(numbers, index=DATES, columns=["CHF", "USD", "grün"])


@pytest.fixture
def table(frame: pd.DataFrame, tmp_path: Path) -> Path:
    frame.to_csv(tmp_path / "table.csv")
    return tmp_path / "table.csv"


def rows(frame: pd.DataFrame) -> torch.Tensor:
    return torch.tensor(frame.to_numpy())


def about(path: Path) -> dict[str, Any]:
    schema = pq.read_schema(path) if path.suffix == ".parquet" else pa.ipc.open_file(str(path)).schema
    return json.loads(schema.metadata[b"mvnjac"])


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather", ""])
def test_what_the_numbers_are(table: Path, frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"scores{suffix}"
    assert run("jacobian", table, "--index", "day", "-o", out)[0] == 0
    found = about(out if suffix else out / "part-00000.parquet")
    assert found.pop("model")["names"] == found["variables"]
    assert found == {
        "format": 1,
        "version": mvnjac.__version__,
        "content": "scores",
        "convention": {
            "elements": "unique",
            "symmetric": "vech: lower triangle, column by column",
            "off_diagonals_doubled": True,
        },
        "index": "day",
        "variables": ["CHF", "USD", "grün"],
        "log_returns": False,
        "returns": False,
        "missing": None,
    }
    read = pd.read_feather if suffix in (".arrow", ".feather") else pd.read_parquet
    scores = read(out)
    assert isinstance(scores.index, pd.DatetimeIndex)
    assert scores.index.name == "day"
    assert (scores.index == frame.index).all()
    assert len(scores.loc["2020-01"]) == 30
    assert list(scores.columns) == mvnjac.fit(rows(frame), names=list(frame.columns)).gaussian.columns()


def test_the_model_computes_the_same_scores(table: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    """The values of the metadata are those of the estimate, to the last bit."""
    assert run("jacobian", table, "--index", "day", "--structure", "low-rank:1", "-o", tmp_path / "s.parquet")[0] == 0
    model = about(tmp_path / "s.parquet")["model"]
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in model["parameters"].items()}
    mean = values.pop("mean")
    covariance = getattr(mvnjac, model["structure"])(**values)
    J = mvnjac.jacobian(rows(frame), mean, covariance, names=model["names"])
    scores = pq.read_table(tmp_path / "s.parquet").to_pandas()
    assert J.columns() == list(scores.columns)
    np.testing.assert_allclose(scores.to_numpy(), J.matrix().numpy(), rtol=1e-12, atol=1e-12)


def test_a_large_model_is_identified_by_its_fingerprint(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint is the same as in the manifest of a folder, and does not depend on the size."""
    assert run("jacobian", table, "--index", "day", "-o", tmp_path / "s.parquet")[0] == 0
    monkeypatch.setattr(output_schema, "MOST_VALUES", 11)
    assert run("jacobian", table, "--index", "day", "-o", tmp_path / "parts")[0] == 0
    small, large = about(tmp_path / "s.parquet")["model"], about(tmp_path / "parts" / "part-00000.parquet")["model"]
    assert np.shape(small.pop("parameters")["covariance_matrix"]) == (3, 3)
    assert large.pop("parameters") is None
    assert small == large
    assert json.loads((tmp_path / "parts" / "_manifest.json").read_text())["about"]["model"] == small["fingerprint"]


@pytest.mark.parametrize(("option", "content"), [("--sum-only", "sums of scores"), ("--gram", "sums of products of scores")])
def test_sums(table: Path, tmp_path: Path, option: str, content: str) -> None:
    assert run("jacobian", table, "--index", "day", option, "-o", tmp_path / "s.parquet")[0] == 0
    assert about(tmp_path / "s.parquet")["content"] == content


def test_full_matrices_and_no_index(table: Path, tmp_path: Path) -> None:
    pd.read_csv(table).drop(columns="day").to_csv(table, index=False)
    arguments = ["--columns", "CHF,USD", "--layout", "full", "--missing", "marginalise", "-o", tmp_path / "s.parquet"]
    assert run("jacobian", table, *arguments)[0] == 0
    found = about(tmp_path / "s.parquet")
    assert found["convention"] == {
        "elements": "full",
        "symmetric": "every entry, row-major",
        "off_diagonals_doubled": False,
    }
    assert (found["index"], found["missing"]) == (None, "marginalise")
    assert isinstance(pd.read_parquet(tmp_path / "s.parquet").index, pd.RangeIndex)


def test_only_dates_of_text_become_timestamps(table: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    """A format that states types keeps them; in CSV, a date stays a date."""
    dates = pa.Table.from_pandas(frame.reset_index()).set_column(0, "day", pa.array(DATES.date, pa.date32()))
    pq.write_table(dates, tmp_path / "t.parquet")
    for data, kind in ((tmp_path / "t.parquet", pa.date32()), (table, pa.timestamp("ms"))):
        assert run("jacobian", data, "--index", "day", "-o", tmp_path / "s.parquet", "--force")[0] == 0
        assert pq.read_schema(tmp_path / "s.parquet").field("day").type == kind
    assert run("jacobian", table, "--index", "day", "-o", tmp_path / "s.csv")[0] == 0
    assert (tmp_path / "s.csv").read_text().splitlines()[1].startswith("2020-01-01,")


def test_log_returns_keep_the_type_of_the_source(table: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    prices = pa.Table.from_pandas(np.exp(frame).reset_index()).set_column(0, "day", pa.array(DATES.date, pa.date32()))
    pq.write_table(prices, tmp_path / "t.parquet")
    np.exp(frame).to_csv(tmp_path / "t.csv")
    for name, kind in (("t.parquet", pa.date32()), ("t.csv", pa.timestamp("ms"))):
        out = tmp_path / "s.parquet"
        assert run("jacobian", tmp_path / name, "--index", "day", "--log-returns", "-o", out, "--force")[0] == 0
        assert pq.read_schema(out).field("day").type == kind
        assert about(out)["log_returns"] is True
        assert list(pd.read_parquet(out).index.astype("datetime64[ns]")) == list(DATES[1:])


def test_an_index_without_a_label(table: Path, tmp_path: Path) -> None:
    """Its type cannot be inferred from a CSV file; the labels are missing text."""
    (tmp_path / "t.csv").write_text("k,a\n,1\n,3\n,4\n")
    assert run("jacobian", tmp_path / "t.csv", "--index", "k", "-o", tmp_path / "s.parquet")[0] == 0
    assert pq.read_table(tmp_path / "s.parquet").column("k").to_pylist() == ["", "", ""]


def test_the_output_is_read_without_its_index(table: Path, tmp_path: Path) -> None:
    """The scores as a table of observations: the index is not taken for a variable."""
    assert run("jacobian", table, "--index", "day", "-o", tmp_path / "s.parquet")[0] == 0
    arguments = ["--wrt", "mean", "--mean", tmp_path / "m.csv", "-o", tmp_path / "t.parquet"]
    names = [name for name in pq.read_schema(tmp_path / "s.parquet").names if name.startswith("mean")]
    (tmp_path / "m.csv").write_text(",".join(names) + "\n0,0,0\n")
    columns = [argument for name in names for argument in ("--columns", name)]
    assert run("jacobian", tmp_path / "s.parquet", *columns, *arguments)[0] == 0
    rows = mvnjac.from_table(pq.read_table(tmp_path / "s.parquet"))
    assert "day" not in rows.names
    assert list(rows.index) == list(DATES)
