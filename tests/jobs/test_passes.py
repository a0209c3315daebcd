"""A table with more patterns of missing entries than are held in memory: passes over it give the same estimate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mvnjac
from mvnjac.engines.local import Local
from mvnjac.engines.run import Run
from mvnjac.errors import MvnjacError
from mvnjac.jobs import density, pilot
from mvnjac.jobs.data import Data
from mvnjac.tables import slices
from tests.cli.test_cli import run
from tests.support.recorder import Recorder

NAMES = [f"v{i}" for i in range(6)]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, torch.Tensor]:
    """1500 rows with about 60 patterns, far from 0 and in different units; few rows are held, and a unit is a row group."""
    monkeypatch.setattr(pilot, "MOST_HELD", 3000)
    monkeypatch.setattr(slices, "READ_BYTES", 8 * len(NAMES) * 300)
    generator = np.random.default_rng(5)
    factor = generator.normal(size=(6, 2))
    x = generator.normal(size=(1500, 2)) @ factor.T + 0.7 * generator.normal(size=(1500, 6))
    x = 1000 + x * np.array([1, 10, 0.1, 1, 3, 1])
    x[generator.random(x.shape) < 0.25] = np.nan
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pandas(pd.DataFrame(x, columns=NAMES)), path, row_group_size=300)
    return path, torch.from_numpy(x)


@pytest.mark.parametrize("structure", ["dense", "diagonal", "low-rank:1"])
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


def test_progress_of_every_pass(table) -> None:
    path, x = table
    progress = Recorder()
    estimate = density.fitted(Data(path, missing="marginalise"), "dense", 1000, Run(progress=progress))
    passes = [stage for stage in progress.stages if stage.name == "passing over the rows"]
    assert [stage.name for stage in progress.stages[:2]] == ["reading the rows", "starting values"]
    assert {stage.total for stage in passes} == {1500}, "the first pass has counted the rows"
    assert {stage.done for stage in passes} == {1500}
    assert len(passes) > estimate.iterations
    fitting = next(stage for stage in progress.stages if stage.name == "fitting")
    seen = [log_likelihood for _, log_likelihood, *_ in fitting.iterations]
    assert fitting.iterations[-1][2] == estimate.score_ratio <= fitting.iterations[-1][3] == 1e-8
    expected = mvnjac.fit(x, missing="marginalise")
    assert estimate.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-11)
    assert seen[-1] == estimate.log_likelihood
    assert estimate.rows == expected.rows
    with pytest.raises(MvnjacError, match="score --model"):
        estimate.standard_errors()


@pytest.mark.slow
def test_two_processes_give_the_same_bits(table) -> None:
    path, _ = table
    data, found = Data(path, missing="marginalise"), []
    gaussian = mvnjac.Gaussian(torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64))
    for workers in (1, 2):
        sample = density._sample(data, *data.open(), Run(Local(workers)))
        value, totals = sample.totals(gaussian, ["mean", "covariance_matrix"])
        found.append([sample.rows.nan_to_num(), sample.weights, torch.tensor(value), *totals.values()])
    assert len(found[0]) == 5
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_subsample_is_bounded(table) -> None:
    """Further rows are counted and summarised, but not held."""
    _, x = table
    samples = []
    for first in range(0, 1500, 100):
        samples.append(pilot.PilotSample(6, 3000))
        for at in range(first, first + 100, 10):
            samples[-1].add(x[at : at + 10])
            assert samples[-1].gathering.held <= 3000 or len(samples[-1].gathering) <= 6
    whole = samples[0]
    for sample in samples[1:]:
        whole = whole.merge(sample)
    assert whole.full
    assert 1000 < whole.gathering.held <= 3000
    every = pilot.ThinnedAccumulator(6)
    every.add(x)
    assert every.held > 4 * 3000
    observed = (~x.isnan()).double()
    assert whole.count == int(observed.any(-1).sum())
    assert torch.equal(whole.pair_counts, observed.mT @ observed)


def test_a_variable_that_begins_late(table, tmp_path: Path, capsys) -> None:
    """The subsample covers the full table. Errors name a pair that is never observed together, and a variable that is too rare."""
    path, x = table
    late = pd.DataFrame(x.numpy(), columns=NAMES)
    late.loc[:1199, "v1"] = np.nan
    arguments = ("fit", path, "--missing", "marginalise", "-o", tmp_path / "m.safetensors", "--force")
    expected = mvnjac.fit(torch.tensor(late.to_numpy()), missing="marginalise")
    pq.write_table(pa.Table.from_pandas(late), path, row_group_size=300)
    assert run(*arguments)[0] == 0
    found = mvnjac.load(tmp_path / "m.safetensors")
    scale = expected.covariance.dense(6).diagonal().sqrt()
    assert float(((found.mean - expected.mean) / scale).abs().max()) < 1e-6
    apart = late.assign(v0=late["v0"].where(late["v1"].isna()))
    pq.write_table(pa.Table.from_pandas(apart), path, row_group_size=300)
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 1
    assert "never observed in the same row" in err
    assert "'v0' and 'v1'" in err
    late.loc[:1497, "v1"] = np.nan
    late.loc[1498:, "v1"] = [1.0, 2.0]
    pq.write_table(pa.Table.from_pandas(late), path, row_group_size=300)
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 1
    assert "'v1': observed too rarely" in err
