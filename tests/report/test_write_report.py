"""`mvnjac.write_report`: the same report as that of the command line, from arrays and data frames."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import mvnjac
from mvnjac.engines.run import Run
from mvnjac.errors import ArgumentError, ShapeError, TableError
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request
from mvnjac.report import write_table_report
from tests.cli.test_cli import run
from tests.report.pages import data, nasty_table
from tests.report.test_report import PANELS
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("without_charts")


@pytest.fixture
def frame() -> pd.DataFrame:
    """150 days of three variables, the variance of the second of which changes."""
    x = np.random.default_rng(0).normal(size=(150, 3)).round(3)
    x[80:, 1] *= 3
    return pd.DataFrame(x, columns=["a", "b", "c"], index=pd.date_range("2020-01-01", periods=150, name="day"))


def assert_same_report(found: Path, expected: Path) -> None:
    """The same page: all numbers to 6 digits, and all text."""

    def compare(a: Any, b: Any) -> None:
        assert type(a) is type(b)
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            for key in a:
                if key not in (
                    "label",
                    "most_changed",
                    "standard_errors",
                    "ratio",
                    "command",
                ):  # of scores that are 0 up to rounding
                    compare(a[key], b[key])
        elif isinstance(a, list):
            assert len(a) == len(b)
            for each, other in zip(a, b, strict=True):
                compare(each, other)
        else:
            assert a == (pytest.approx(b, rel=1e-6, abs=1e-6) if isinstance(a, float) else b)

    compare(data(found), data(expected))
    numbers = re.compile(r"<svg.*?</svg>|<script.*?</script>|[-−\d.e,]+", re.S)
    made = re.compile(r'<p id="command">.*?</p>|data-hover="[^"]*"', re.S)
    texts = [numbers.sub("", made.sub("", page.read_text("utf-8"))) for page in (found, expected)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("structure", ["dense", "low-rank:1"])
def test_a_data_frame_gives_the_report_of_its_table(frame: pd.DataFrame, tmp_path: Path, structure: str) -> None:
    frame.to_csv(tmp_path / "x.csv")
    options = ["--index", "day", "--structure", structure, "-o", tmp_path / "1.html"]
    assert run("report", tmp_path / "x.csv", *options)[0] == 0
    fit = mvnjac.fit(torch.tensor(frame.to_numpy()), structure)
    mvnjac.write_report(fit, frame, tmp_path / "2.html", title="x.csv")
    assert_same_report(tmp_path / "2.html", tmp_path / "1.html")


@pytest.mark.parametrize("kind", ["tensor", "array", "frame", "arrow"])
def test_missing_entries_and_rows_without_labels(frame: pd.DataFrame, tmp_path: Path, kind: str) -> None:
    frame = frame.reset_index(drop=True)
    frame.iloc[::7, 2] = np.nan
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert run("report", tmp_path / "x.csv", "--missing", "marginalise", "-o", tmp_path / "1.html")[0] == 0
    x = torch.tensor(frame.to_numpy())
    fit = mvnjac.fit(x, missing="marginalise", names=["a", "b", "c"])
    rows = {"tensor": x, "array": x.numpy(), "frame": frame, "arrow": pa.Table.from_pandas(frame)}[kind]
    mvnjac.write_report(fit, rows, str(tmp_path / "2.html"), title="x.csv")
    assert_same_report(tmp_path / "2.html", tmp_path / "1.html")


def test_a_gaussian_is_given(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Its columns are found by name, whatever their order, dtype, and further columns."""
    gaussian = mvnjac.Gaussian(torch.zeros(3), torch.eye(3).requires_grad_(), names=["a", "b", "c"])
    mvnjac.write_report(gaussian, frame[["c", "a", "b"]].assign(text="word"), tmp_path / "x.html")
    record = data(tmp_path / "x.html")
    assert not record["model"]["estimated"]
    assert record["data"]["variables"] == ["a", "b", "c"]
    assert (record["data"]["first"], record["data"]["last"], record["data"]["sorted"]) == ("2020-01-01", "2020-05-29", True)
    assert record["parameters"]["total_score"][0] == pytest.approx(frame["a"].sum())
    assert "are given values" in (tmp_path / "x.html").read_text("utf-8")


def test_a_fit_of_other_rows_is_given(frame: pd.DataFrame, tmp_path: Path) -> None:
    fit = mvnjac.fit(torch.tensor(frame.to_numpy()), names=list(frame.columns))
    for rows, estimated in ((frame, True), (frame.iloc[::-1], True), (frame.iloc[:100], False)):
        mvnjac.write_report(fit, rows, tmp_path / "x.html", overwrite=True)
        assert data(tmp_path / "x.html")["model"]["estimated"] is estimated


def test_matrix_observations(tmp_path: Path) -> None:
    x = torch.randn(60, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mvnjac.write_report(mvnjac.fit(x, "kronecker:2x2"), x, tmp_path / "x.html")
    record = data(tmp_path / "x.html")
    assert record["model"]["estimated"]
    assert record["model"]["structure"] == "kronecker"
    assert len(record["data"]["variables"]) == 4


@pytest.mark.parametrize(
    "labels",
    [
        pd.period_range("2020-01", periods=150, freq="M"),
        pd.date_range("2020-01-01", periods=150).where(np.arange(150) != 3),
        pd.date_range("2020-01-01", periods=150, freq="h", tz="UTC"),
        pd.DatetimeIndex(["2020-01-01"] * 150),
        [f"<row {i}>" for i in range(150)],
        [None, *range(149)],
        pd.interval_range(0, 150),
    ],
)
def test_any_labels(frame: pd.DataFrame, tmp_path: Path, labels: Any) -> None:
    fit = mvnjac.fit(torch.tensor(frame.to_numpy()), names=list(frame.columns))
    mvnjac.write_report(fit, frame.set_axis(pd.Index(labels, name="when")), tmp_path / "x.html")
    record = data(tmp_path / "x.html")
    assert record["data"]["index"] == "when"
    assert len(record["influence"]["top"]) == 15


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("few rows", "3 rows for 5 parameters"),
        ("a variable without entries", "linearly dependent"),
        ("collinear", "linearly dependent"),
        ("huge", "linearly dependent"),
        ("one row", "not the estimate"),
    ],
)
def test_what_cannot_be_computed_is_said_in_words(tmp_path: Path, kind: str, why: str) -> None:
    """No message of an exception reaches the page: no names of functions and arguments."""
    x = np.random.default_rng(0).normal(size=(200, 3))
    fit: mvnjac.Fit | mvnjac.Gaussian | None = None
    if kind == "few rows":
        x = x[:3, :2]
    elif kind == "one row":
        x, fit = x[:1], mvnjac.Gaussian(torch.zeros(3), torch.eye(3))
    elif kind == "a variable without entries":
        x[:, 2], fit = np.nan, mvnjac.Gaussian(torch.zeros(3), torch.eye(3), missing="marginalise")
    elif kind == "collinear":
        x[:, 2] = x[:, 0] + 1e-7 * x[:, 2]
    else:
        x *= 1e150
    mvnjac.write_report(fit or mvnjac.fit(torch.tensor(x)), x, tmp_path / "x.html")
    record, text = data(tmp_path / "x.html"), (tmp_path / "x.html").read_text("utf-8")
    reasons = [record[part]["unavailable"] for part in ("influence", "cusum", "heat_map") if "unavailable" in record[part]]
    assert any(why in reason for reason in reasons)
    assert not re.search(r"score_process|covariance_of_estimates|influence: |lag=|adjust=|Error|Traceback", " ".join(reasons))
    assert all(f'id="{panel}"' in text for panel in PANELS)


def test_errors(frame: pd.DataFrame, tmp_path: Path) -> None:
    x, path = torch.tensor(frame.to_numpy()), tmp_path / "x.html"
    fit = mvnjac.fit(x, names=["a", "b", "c"])
    path.write_text("precious")
    with pytest.raises(ArgumentError, match=r"x\.html: exists already; pass overwrite=True to replace it"):
        mvnjac.write_report(fit, x, path)
    with pytest.raises(ArgumentError, match=r"expected the suffix \.html"):
        mvnjac.write_report(fit, x, tmp_path / "x.pdf")
    with pytest.raises(TableError, match="does not exist"):
        mvnjac.write_report(fit, x, tmp_path / "absent" / "x.html")
    with pytest.raises(ArgumentError, match="got a str; expected a Fit or a Gaussian"):
        mvnjac.write_report("fit", x, tmp_path / "y.html")
    for rows in (x[:, :2], x[:0], x[0]):
        with pytest.raises(ShapeError, match="expected rows of 3 variables"):
            mvnjac.write_report(fit, rows, tmp_path / "y.html")
    with pytest.raises(ArgumentError, match="no column 'c'"):
        mvnjac.write_report(fit, frame[["a", "b"]], tmp_path / "y.html")
    with pytest.raises(ArgumentError, match="NaN"):
        mvnjac.write_report(fit, x.masked_fill(x > 2, torch.nan), tmp_path / "y.html")
    with pytest.raises(ShapeError, match="batch dimensions"):
        mvnjac.write_report(mvnjac.Gaussian(torch.zeros(5, 3), torch.eye(3)), x, tmp_path / "y.html")
    many = torch.randn(80, 70, dtype=torch.float64)
    with pytest.raises(ArgumentError, match="2555 parameters, but a report can have at most 2000"):
        mvnjac.write_report(mvnjac.Gaussian(torch.zeros(70), torch.eye(70)), many, tmp_path / "y.html")
    assert path.read_text() == "precious"
    assert [each.name for each in tmp_path.iterdir()] == ["x.html"]


def test_progress_of_the_report_on_a_table(tmp_path: Path) -> None:
    recorder = Recorder()
    progress = Run(progress=recorder)
    table = nasty_table(tmp_path / "x.csv", gaps=False)
    summary = write_table_report(Data(table), Request(), tmp_path / "x.html", progress)
    assert summary == "300 rows of 3 variables, 9 parameters."
    assert {stage.name: stage.done for stage in recorder.stages if stage.done} == {
        "reading the rows": 300,
        "loading the rows": 300,
    }
    assert recorder.stages[2].total == 300


def test_returns_are_named(tmp_path: Path) -> None:
    prices = (1 + 0.01 * np.random.default_rng(0).normal(size=(80, 2))).cumprod(0)
    table = tmp_path / "prices.csv"
    pd.DataFrame(prices, columns=["A", "B"], index=pd.bdate_range("2024-01-01", periods=80, name="Date")).to_csv(table)
    for option, words in (("--returns", "79 returns (relative changes"), ("--log-returns", "79 log returns (differences")):
        assert run("report", table, option, "-o", tmp_path / "r.html", "--force")[0] == 0
        assert words in (tmp_path / "r.html").read_text()
    assert data(tmp_path / "r.html")["data"]["log_returns"] is True
