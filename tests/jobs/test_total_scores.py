"""The content of `mvnjac score`: which standard errors it has by default, and whether values are an estimate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac.engines.checkpoint import Checkpoint
from mvnjac.engines.run import Run
from mvnjac.jobs import commands, total_scores
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request
from mvnjac.tables.output import name_beside
from tests.support.recorder import Recorder


@pytest.fixture
def x() -> np.ndarray:
    x = np.random.default_rng(5).standard_t(6, size=(200, 3)) @ (np.eye(3) + 0.4)
    x[:40, 2] = np.nan
    return x


@pytest.fixture
def path(tmp_path: Path, x: np.ndarray) -> Path:
    pd.DataFrame(x, columns=list("abc")).to_csv(tmp_path / "x.csv", index=False)
    return tmp_path / "x.csv"


def test_default_standard_errors(path: Path, x: np.ndarray) -> None:
    run = Run()
    gaps = total_scores.total_scores(Data(path, missing="marginalise"), Request(), None, run)
    assert list(gaps.errors) == ["observed", "sandwich"]
    assert (gaps.at_estimate, gaps.basis) == (True, "sandwich")
    assert gaps.words[:4] == ["mean of a", "mean of b", "mean of c", "variance of a"]
    fit = mvnjac.fit(torch.from_numpy(x), missing="marginalise", names=list("abc"))
    torch.testing.assert_close(
        torch.tensor(gaps.errors["observed"][:3]).double(), fit.standard_errors()["mean"], rtol=1e-5, atol=0
    )
    complete = total_scores.total_scores(Data(path, ["a", "b"]), Request(), None, run)
    assert list(complete.errors) == ["expected", "sandwich"]


def test_robust_errors_that_take_long_are_left_out_and_this_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(total_scores, "_MOST_BY_DEFAULT", 200 * 5**2 - 1)
    table = total_scores.total_scores(Data(path, ["a", "b"]), Request(), None, Run())
    assert list(table.errors) == ["expected"]
    assert table.notes == {"sandwich": "left out, since they take long for 5 parameters; --errors expected,sandwich has them"}
    monkeypatch.setattr(total_scores, "MOST_INVERTED", 4)
    table = total_scores.total_scores(Data(path, ["a", "b"]), Request(), None, Run())
    assert table.notes == {"sandwich": "not available for more than 4 parameters"}
    monkeypatch.setattr(total_scores, "_MOST_BY_DEFAULT", 200 * 5**2)
    monkeypatch.setattr(total_scores, "MOST_INVERTED", 5)
    assert total_scores.total_scores(Data(path, ["a", "b"]), Request(), None, Run()).notes == {}


@pytest.mark.parametrize("missing", [None, "marginalise"])
def test_a_model_of_these_rows_is_an_estimate(path: Path, x: np.ndarray, tmp_path: Path, missing: str | None) -> None:
    columns = ["a", "b"] if missing is None else list("abc")
    rows = torch.from_numpy(x[:, : len(columns)])
    for name, some in (("same", rows), ("other", rows[1:])):
        mvnjac.fit(some, missing=missing, names=columns).save(tmp_path / f"{name}.safetensors")
    for name, at_estimate in (("same", True), ("other", False)):
        recorder = Recorder()
        request = Request(model=tmp_path / f"{name}.safetensors")
        table = total_scores.total_scores(Data(path, columns, None, False, missing), request, None, Run(progress=recorder))
        assert table.at_estimate is at_estimate
        assert len(table.errors) == 2 * at_estimate
        assert [stage.name for stage in recorder.stages] == ["checking the model", "summing the scores", "standard errors"]
        assert [stage.total for stage in recorder.stages] == [None, 200, None], "the first pass has counted the rows"
        assert all(stage.ended for stage in recorder.stages)


def test_resumed_rows_are_reported_as_known(path: Path, tmp_path: Path) -> None:
    data = Data(path, ["a", "b"])
    for resume, done, known in ((False, 200, 0), (True, 0, 200)):
        recorder = Recorder()
        checkpoint = Checkpoint(str(tmp_path / "kept"), {"command": "test"}, resume, False)
        found = commands.summed(data, Request(), None, Run(progress=recorder, checkpoint=checkpoint))
        assert [(stage.done, stage.known) for stage in recorder.stages if stage.name != "fitting"] == [(done, known)] * 2
        assert found.rows == 200


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("rates.csv.gz", "rates"),
        ("../data/prices.2024.CSV", "prices.2024"),
        ("folder/", "folder"),
        ("a.b/folder.of.files", "folder.of.files"),
        ("x.zarr/", "x"),
        ("s3://bucket/some/table.parquet?region=eu", "table"),
        ("s3://bucket/", "bucket"),
        (".csv", "data"),
    ],
)
def test_default_names_of_outputs(data: str, name: str) -> None:
    assert name_beside(data, ".report.html") == Path(f"{name}.report.html")


def test_the_current_folder_gives_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "panel").mkdir()
    monkeypatch.chdir(tmp_path / "panel")
    assert name_beside(".", ".report.html") == Path("panel.report.html")
