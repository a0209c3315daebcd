"""The command line: fit, model files, structures, and missing entries."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac.estimation.structure import manual
from mvnjac.progress import displays
from mvnjac.progress.states import StageState
from tests.cli.test_cli import COMPLETE, RATES, RETURNS, returns, run

GAPS = [RATES, "--columns", "USD,JPY,LTL,RUB,BRL", "--index", "Date", "--log-returns", "--missing", "marginalise"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "factors.safetensors"
    assert run("fit", *RETURNS, "--structure", "low-rank:3", "--lower", "1e-5", "-o", path)[0] == 0
    return path


def test_a_fit_is_that_of_the_library(model: Path) -> None:
    loaded = mvnjac.load(model)
    x = torch.from_numpy(returns().to_numpy())
    estimate = mvnjac.fit(x, "low-rank:3", names=COMPLETE, lower=1e-5)
    assert loaded.names == COMPLETE
    for name, value in estimate.covariance.parameters.items():
        torch.testing.assert_close(loaded.covariance.parameters[name], value, rtol=1e-5, atol=1e-9)


def test_message_of_fit(tmp_path: Path, capsys) -> None:
    code, out, err = run("fit", *RETURNS, "-o", tmp_path / "m.safetensors", capsys=capsys)
    assert (code, out) == (0, "")
    assert "Dense" in err
    assert "17 variables, 7125 rows: log-likelihood" in err
    assert "the maximum in closed form" in err


def test_scores_at_a_model_vanish(model: Path, capsys) -> None:
    code, out, _ = run("score", *RETURNS, "--model", model, "--format", "json", capsys=capsys)
    assert code == 0
    record = json.loads(out)
    entries = {entry["parameter"]: entry for entry in record["parameters"]}
    assert len(entries) == 17 + 17 * 3 + 17
    assert max(abs(entry["ratio"]) for entry in entries.values()) < 1e-6
    assert entries["cov_factor[USD,0]"]["expected_error"] is None  # factors are known up to a rotation
    estimate = mvnjac.fit(torch.from_numpy(returns().to_numpy()), "low-rank:3", lower=1e-5)
    expected = estimate.standard_errors()["cov_diag"][0]
    assert entries["cov_diag[USD]"]["expected_error"] == pytest.approx(float(expected), rel=1e-5)
    assert record["log_likelihood"] == pytest.approx(estimate.log_likelihood, rel=1e-10)


def test_a_structure_is_fitted_on_the_way(model: Path, tmp_path: Path, capsys) -> None:
    for given in (["--structure", "low-rank:3"], ["--model", model]):
        assert run("jacobian", *RETURNS, *given, "-o", tmp_path / "s.parquet", "--force")[0] == 0
        table = pd.read_parquet(tmp_path / "s.parquet")
        assert list(table.columns[17:19]) == ["cov_factor[USD,0]", "cov_factor[USD,1]"]
        if given[0] == "--structure":  # with the default bound, at which these two are
            at_bound = ["cov_diag[USD]", "cov_diag[HKD]"]
            assert (table[at_bound].sum() < 0).all()
            table = table.drop(columns=at_bound)
        assert float((table.sum().abs() / np.sqrt((table**2).sum())).max()) < 1e-6
    code, out, _ = run(
        "score", *RETURNS, "--structure", "compound-symmetric", "--wrt", "correlation", "--format", "csv", capsys=capsys
    )
    assert code == 0
    assert [row[0] for row in csv.reader(io.StringIO(out))] == ["parameter", "correlation"]


def test_a_models_columns_are_found_by_name(model: Path, tmp_path: Path, capsys) -> None:
    shuffled = returns()[["ZAR", *COMPLETE[:-1]]].assign(extra=1.0).reset_index(drop=True)
    shuffled.to_parquet(tmp_path / "x.parquet")
    _, there, _ = run("score", tmp_path / "x.parquet", "--model", model, "--format", "csv", capsys=capsys)
    _, here, _ = run("score", *RETURNS, "--model", model, "--format", "csv", capsys=capsys)
    a, b = pd.read_csv(io.StringIO(there)), pd.read_csv(io.StringIO(here))
    assert list(a["parameter"]) == list(b["parameter"])
    np.testing.assert_allclose(a["estimate"], b["estimate"])
    np.testing.assert_allclose(a["deviation"], b["deviation"], rtol=1e-9)
    code, _, err = run("score", tmp_path / "x.parquet", "-c", "USD,ZAR", "--model", model, capsys=capsys)
    assert code == 2
    assert "leave out --columns" in err
    code, _, err = run("score", RATES, "-c", "USD,ZAR", "--model", tmp_path / "x.parquet", capsys=capsys)
    assert code == 1
    assert "cannot be read" in err


def test_a_model_without_names_counts_its_columns(tmp_path: Path, capsys) -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    mvnjac.fit(torch.from_numpy(x)).save(tmp_path / "m.safetensors")
    pd.DataFrame(x, columns=["a", "b"]).assign(c=1.0).to_csv(tmp_path / "x.csv", index=False)
    code, out, _ = run(
        "score", tmp_path / "x.csv", "-c", "a,b", "--model", tmp_path / "m.safetensors", "--format", "csv", capsys=capsys
    )
    assert code == 0
    assert "mean[a]" in out
    code, _, err = run("score", tmp_path / "x.csv", "--model", tmp_path / "m.safetensors", capsys=capsys)
    assert code == 2
    assert "the model has 2 variables without names, but 3 columns are selected" in err


def test_missing_entries(tmp_path: Path, capsys) -> None:
    code, out, _ = run("score", *GAPS, "--format", "json", capsys=capsys)
    assert code == 0
    entries = {entry["parameter"]: entry for entry in json.loads(out)["parameters"]}
    assert len(entries) == 5 + 15
    assert max(abs(entry["ratio"]) for entry in entries.values()) < 1e-6
    path = tmp_path / "m.safetensors"
    assert run("fit", *GAPS, "-o", path)[0] == 0
    assert run("jacobian", *GAPS, "--model", path, "-o", tmp_path / "s.parquet")[0] == 0
    table = pd.read_parquet(tmp_path / "s.parquet")
    assert len(table) == 7125
    rates = pd.read_csv(RATES, na_values="N/A").set_index("Date").sort_index()
    gone = np.log(rates["LTL"]).diff().iloc[1:].isna().to_numpy()
    assert 0 < gone.sum() < 7125
    assert not table.loc[gone, "mean[LTL]"].any()
    code, _, err = run("jacobian", *GAPS[:-2], "--model", path, capsys=capsys)
    assert code == 1
    assert "is missing at Date" in err
    assert "--missing marginalise" in err


@pytest.fixture
def table(tmp_path: Path) -> Path:
    data = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 4)), columns=list("abcd"))
    data["e"] = data[["a", "b"]].sum(axis=1) + 0.5 * data["c"]
    data["flat"], data["half"], data["other"] = 1.0, data["a"].where(data.index < 30), data["b"].where(data.index >= 30)
    data.to_csv(tmp_path / "x.csv", index=False)
    return tmp_path / "x.csv"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["-c", "a,b,flat"], 3, "'flat' is constant over all 60 rows"),
        (["-c", "a,b,c,e"], 3, "'e' is, to rounding, a linear combination of"),
        (["-c", "half,other,c", "--missing", "marginalise"], 1, "never observed in the same row, .*'half' and 'other'"),
        (["-c", "a,half"], 1, "'half' is missing at row 31"),
        (["-c", "a,b,c,d", "--structure", "low-rank:2"], 1, "2 factors of 4 variables"),
        (["-c", "a,b,c,d", "--structure", "low-rank"], 2, "--structure: .* low-rank:RANK"),
        (["-c", "a,b,c,d", "--structure", "low-rank:x"], 2, "--structure: .* positive whole number"),
        (["-c", "a,b,c,d", "--structure", "kronecker:4"], 2, "--structure: .* as in kronecker:3x4"),
        (["-c", "a,b,c,d", "--structure", "block-diagonal"], 2, "BlockDiagonal has no default start; pass an instance"),
        (["-c", "a,b,c,d", "--structure", "lowrank:1"], 2, "Did you mean 'low-rank'"),
        (["-c", "a,b,c,d", "--structure", "kronecker:2x3"], 1, "2 × 3 are 6 variables"),
        (["-c", "a,b,c,d,e", "--structure", "toeplitz", "--max-iterations", "1"], 1, "NOT converged, stopped after 1 iterations"),
        (["-c", "a,b", "--missing", "guess"], 2, "guess"),
    ],
)  # fmt: skip
def test_errors(table: Path, tmp_path: Path, capsys, options: list[str], code: int, says: str) -> None:
    before = set(tmp_path.iterdir())
    got, out, err = run("fit", table, *options, "-o", tmp_path / "m.safetensors", capsys=capsys)
    assert (got, out) == (code, "")
    assert re.search(says, " ".join(err.replace("│", " ").split()))
    assert set(tmp_path.iterdir()) == before, "an incomplete file is left"


def test_a_heywood_case_is_named_and_kept(tmp_path: Path, capsys) -> None:
    """The model file contains it; parameters at the bound have no standard errors, and the others are conditional on them."""
    path = tmp_path / "m.safetensors"
    code, _, err = run("fit", *RETURNS, "--structure", "low-rank:8", "-o", path, capsys=capsys)
    assert code == 0
    assert "at the bound, 0.005 of the variance (a Heywood case): cov_diag[" in err
    estimate = mvnjac.fit(torch.from_numpy(returns().to_numpy()), "low-rank:8", names=COMPLETE)
    loaded = mvnjac.load(path)
    assert loaded.boundary == estimate.boundary
    assert "cov_diag[HKD]" in loaded.boundary
    code, out, _ = run("score", *RETURNS, "--model", path, "--wrt", "cov_diag", "--format", "json", capsys=capsys)
    assert code == 0
    for entry, error in zip(json.loads(out)["parameters"], estimate.standard_errors()["cov_diag"], strict=True):
        if entry["parameter"] in estimate.boundary:
            assert entry["expected_error"] is entry["sandwich_error"] is None
        else:
            assert entry["expected_error"] == pytest.approx(float(error), rel=1e-4)
            assert entry["sandwich_error"] is not None


def test_the_bound_is_an_option(tmp_path: Path, capsys) -> None:
    arguments = ["fit", *RETURNS, "--structure", "low-rank:7", "--lower", "0.02", "-o", tmp_path / "m.safetensors"]
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 0
    assert "at the bound, 0.02 of the variance" in err
    arguments[arguments.index("0.02")] = "0"
    code, _, err = run(*arguments, "--force", capsys=capsys)
    assert code == 2
    assert "--lower: got 0.0; expected a share of the variance" in err


def test_only_one_source_of_the_covariance(table: Path, model: Path, tmp_path: Path, capsys) -> None:
    for more in (["--structure", "dense"], ["--mean", table], ["--covariance", table]):
        code, _, err = run("score", table, "--model", model, *more, capsys=capsys)
        assert code == 2
        assert "exclude each other" in err
    pd.DataFrame([[0.0, 0.0]], columns=["a", "half"]).to_csv(tmp_path / "mean.csv", index=False)
    given = ["--mean", tmp_path / "mean.csv", "--missing", "marginalise"]
    code, _, err = run("score", table, "-c", "a,half", *given, capsys=capsys)
    assert code == 2
    assert "give both or neither" in err


def test_outputs_of_fit(table: Path, tmp_path: Path, capsys) -> None:
    target = tmp_path / "m.safetensors"
    assert run("fit", table, "-c", "a,b")[0] == 2
    assert run("fit", table, "-c", "a,b", "-o", tmp_path / "m.parquet", capsys=capsys)[0] == 2
    target.write_text("precious")
    assert run("fit", table, "-c", "a,b", "-o", target, capsys=capsys)[0] == 2
    assert run("fit", table, "-c", "a,flat", "-o", target, "--force", capsys=capsys)[0] == 3
    assert target.read_text() == "precious"
    assert run("fit", table, "-c", "a,b", "-o", target, "--force")[0] == 0
    assert mvnjac.load(target).names == ["a", "b"]
    for command in ("score", "jacobian"):
        code, _, err = run(command, table, "--model", target, "-o", target, "--force", capsys=capsys)
        assert code == 2
        assert "is an input of this command" in err


def test_help_lists_the_structures() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "mvnjac", "fit", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout
    words = " ".join(shown.replace("│", " ").split())
    family = ("cholesky", "precision", "scale-correlation")
    for name in manual():
        assert name in words or name.endswith(family), name


def test_progress_in_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(displays, "_PAUSE", -1.0)
    assert run("fit", *RETURNS, "--structure", "low-rank:2", "-o", tmp_path / "m.safetensors")[0] == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("mvnjac: warning: ")]
    assert any(re.fullmatch(r"reading the rows: 7,125 rows, [0-9,]+ rows/s", line) for line in lines)
    assert any(re.fullmatch(r"reading the rows: 7,125 rows in [0-9.]+ s", line) for line in lines)
    iteration = r"fitting: score ratio .*e.*, target 1e-08, start 1 of \d+, iteration 0, log-likelihood \d+\.\d+, [0-9.]+ s"
    assert any(re.fullmatch(iteration, line) for line in lines)
    assert len(lines) > 8


def test_progress_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run("fit", *RETURNS, "--structure", "low-rank:2", "-o", tmp_path / "m.safetensors")[0] == 0
    assert "iteration" in terminal.getvalue()


def test_interrupted_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StageState, "iteration", interrupted)
    code, _, err = run("fit", *RETURNS, "--structure", "low-rank:2", "-o", tmp_path / "m.safetensors", capsys=capsys)
    assert code == 130
    assert "interrupted; nothing was written" in err
    assert not list(tmp_path.iterdir())
