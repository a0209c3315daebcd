"""A table whose patterns of missing entries are more than are held: the same estimate by passes over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mvnjac
from mvnjac import estimates, passes
from mvnjac.engines.local import Local
from mvnjac.engines.run import Run
from mvnjac.errors import MvnjacError
from mvnjac.estimates import Data
from mvnjac.sample import Gathering
from mvnjac.tables import slices
from tests.test_cli import run

NAMES = [f"v{i}" for i in range(6)]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, torch.Tensor]:
    """1500 rows of which 60 patterns or so are observed, far from 0, in units of their own; few are held, a unit is a row group."""
    monkeypatch.setattr(passes, "MOST_HELD", 3000)
    monkeypatch.setattr(slices, "READ_BYTES", 8 * len(NAMES) * 300)
    generator = np.random.default_rng(5)
    factor = generator.normal(size=(6, 2))
    x = generator.normal(size=(1500, 2)) @ factor.T + 0.7 * generator.normal(size=(1500, 6))
    x = 1000 + x * np.array([1, 10, 0.1, 1, 3, 1])
    x[generator.random(x.shape) < 0.25] = np.nan
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pandas(pd.DataFrame(x, columns=NAMES)), path, row_group_size=300)
    return path, torch.from_numpy(x)


@pytest.mark.parametrize("structure", ["dense", "cholesky", "diagonal", "low-rank:1", "compound-symmetric"])
def test_the_estimate_is_that_of_the_library(table, tmp_path: Path, capsys, structure: str) -> None:
    path, x = table
    out = tmp_path / "m.safetensors"
    code, _, err = run("fit", path, "--missing", "marginalise", "--structure", structure, "-o", out, capsys=capsys)
    assert code == 0
    assert "converged after" in err
    assert "1500 rows" in err
    loaded, expected = mvnjac.load(out), mvnjac.fit(x, structure, missing="marginalise")
    unit = expected.covariance.dense(6).diagonal().sqrt()
    assert float(((loaded.mean - expected.mean) / unit).abs().max()) < 1e-6
    difference = loaded.covariance.dense(6) - expected.covariance.dense(6)
    assert float((difference / torch.outer(unit, unit)).abs().max()) < 1e-6


def test_every_pass_is_told_and_counted(table) -> None:
    path, x = table
    told, seen = {}, []
    listener = Run(
        progress=lambda phase, rows, total: told.update({phase: told.get(phase, 0) + rows}),
        search=lambda phase, iteration, log_likelihood: seen.append(log_likelihood),
    )
    estimate = estimates.fitted(Data(path, missing="marginalise"), "dense", 1000, listener)
    assert list(told)[:3] == ["estimating", "pass 1", "pass 2"]
    assert set(told.values()) == {1500}
    assert len(told) > estimate.iterations
    expected = mvnjac.fit(x, missing="marginalise")
    assert estimate.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-11)
    assert seen[-1] == estimate.log_likelihood
    assert estimate.rows == expected.rows
    with pytest.raises(MvnjacError, match="score --model"):
        estimate.standard_errors()


def test_two_processes_give_the_same_bits(table) -> None:
    path, _ = table
    data = Data(path, missing="marginalise")
    one, two = (estimates.fitted(data, "diagonal", 1000, Run(Local(workers))) for workers in (1, 2))
    assert one.iterations == two.iterations
    assert torch.equal(one.mean, two.mean)
    assert torch.equal(one.covariance.parameters["cov_diag"], two.covariance.parameters["cov_diag"])


def test_no_more_is_held_than_was_said(table) -> None:
    """The rows beyond the bound are counted, and looked at, but not kept."""
    _, x = table
    surveys = []
    for first in range(0, 1500, 100):
        surveys.append(passes.Survey(6, 3000))
        for at in range(first, first + 100, 10):
            surveys[-1].add(x[at : at + 10])
        assert surveys[-1].gathering.held < 3000 + 10 * (256 + 6)
    whole = surveys[0]
    for survey in surveys[1:]:
        whole = whole.merge(survey)
    assert whole.full
    assert whole.gathering.held < 2 * 3000 + 10 * (256 + 6)
    every = Gathering(6)
    every.add(x)
    assert every.held > 4 * 3000
    observed = (~x.isnan()).double()
    assert whole.count == int(observed.any(-1).sum())
    assert torch.equal(whole.together, observed.mT @ observed)


def test_what_no_row_says_is_refused_by_all_rows(table, tmp_path: Path, capsys) -> None:
    """The stand-in may lack a pair that later rows have; a pair that no row has is named."""
    path, x = table
    x = x.clone()
    x[:1200, 1] = torch.nan
    late = pd.DataFrame(x.numpy(), columns=NAMES)
    pq.write_table(pa.Table.from_pandas(late), path, row_group_size=300)
    arguments = ("fit", path, "--missing", "marginalise", "-o", tmp_path / "m.safetensors", "--force")
    late["v0"] = late["v0"].where(late["v1"].isna())
    code, _, err = run(*arguments, capsys=capsys)
    pq.write_table(pa.Table.from_pandas(late), path, row_group_size=300)
    assert code == 0, err
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 1
    assert "never observed in the same row" in err
    assert "'v0' and 'v1'" in err
