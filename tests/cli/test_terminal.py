"""Commands on a terminal: the table of scores, the head of a Jacobian, the default name of a report, and the help."""

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
from rich.cells import cell_len

from tests.cli.test_cli import RETURNS, run
from tests.support.terminal import everything_written, without_sequences

FEW = [*RETURNS[:2], "USD,JPY,CHF,GBP", *RETURNS[3:]]
COMMANDS = ["jacobian", "score", "fit", "report", "verify"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch):
    """A function that runs a command with standard output on a terminal of some width, and returns the lines."""

    def lines(width: int, *arguments: object) -> list[str]:
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            patch.setenv("COLUMNS", str(width))
            patch.setenv("TERM", "xterm-256color")
            assert run(*arguments)[0] == 0
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).splitlines()

    return lines


@pytest.fixture(scope="module")
def ugly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 series, some of which start late, with gaps and names of any kind."""
    generator = np.random.default_rng(7)
    kinds = ["Nestlé SA", "BRK,B", "Johnson & Johnson", "三菱UFJ", "A", "Deutsche Telekom AG Namens-Aktien"]
    names = [f"{kinds[i % 6]} {i:02d}" for i in range(60)]
    x = 0.01 * (
        generator.standard_t(5, size=(300, 3)) @ generator.normal(size=(3, 60)) + generator.standard_t(5, size=(300, 60))
    )
    prices = pd.DataFrame(100 * np.exp(x.cumsum(0)), columns=names, index=pd.bdate_range("2020", periods=300, name="Date"))
    for i in range(0, 60, 3):
        prices.iloc[: 2 * i, i] = np.nan
    path = tmp_path_factory.mktemp("ugly") / "prices.2024.csv"
    prices.mask(generator.random(prices.shape) < 0.02).to_csv(path)
    return path


@pytest.mark.parametrize("width", [60, 80, 120])
def test_score_fits(on_terminal, capsys, width: int) -> None:
    lines = on_terminal(width, "score", *RETURNS)
    assert max(map(len, lines)) <= width
    rule = next(i for i, line in enumerate(lines) if set(line) == {"-"})
    rows = lines[rule + 1 : rule + 31]
    assert all(re.match(r"(mean|variance|covariance) of \S", line) for line in rows)
    text = " ".join(lines)
    assert "30 of 170 parameters, those with the largest |z|; --top 170 shows all" in text
    assert ("95 % interval (" in text) == (width == 60), "what is left out is said"
    _, piped, _ = run("score", *RETURNS, capsys=capsys)
    assert len(piped.splitlines()) > 173, "a pipe gets all parameters"
    assert " of 170 parameters" not in piped


@pytest.mark.parametrize("width", [60, 80, 120])
def test_an_ugly_table_fits(on_terminal, ugly: Path, width: int) -> None:
    arguments = [ugly, "--index", "Date", "--log-returns", "--missing", "marginalise", "--structure", "diagonal"]
    lines = on_terminal(width, "score", *arguments)
    assert max(map(cell_len, lines)) <= width
    assert "30 of 120 parameters" in " ".join(lines)
    lines = on_terminal(width, "jacobian", *arguments)
    assert max(map(cell_len, lines)) <= width
    assert "299 rows, 120 columns of numbers; -o FILE writes them, a pipe gets CSV" in " ".join(lines)


def test_top(on_terminal, capsys) -> None:
    lines = on_terminal(100, "score", *FEW, "--top", 3)
    assert sum("variance of " in line for line in lines) == 3
    code, out, _ = run("score", *FEW, "--top", 3, "--format", "csv", capsys=capsys)
    assert code == 0
    found = list(csv.DictReader(io.StringIO(out)))
    assert len(found) == 3
    assert abs(float(found[0]["z"])) > abs(float(found[1]["z"])) > abs(float(found[2]["z"]))
    assert run("score", *FEW, "--top", 0)[0] == 2


def test_the_columns_of_an_estimate_and_of_given_values(tmp_path: Path, on_terminal, capsys) -> None:
    """A model of these rows is an estimate; of other rows, and --mean with --covariance, are given values."""
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    assert run("fit", *FEW, "--structure", "low-rank:1", "-o", same)[0] == 0
    rates = pd.read_csv(FEW[0], na_values="N/A").head(4000)
    rates.to_csv(tmp_path / "newer.csv", index=False)
    assert run("fit", tmp_path / "newer.csv", *FEW[1:], "--structure", "low-rank:1", "-o", other)[0] == 0
    for model, at_estimate in ((same, True), (other, False)):
        lines = on_terminal(110, "score", *FEW, "--model", model)
        assert ("maximum-likelihood estimate" in " ".join(lines)) == at_estimate
        heading = next(line for line in lines if line.startswith("parameter")).split()
        shown = ["estimate", "error", "error", "z", "from", "to"] if at_estimate else ["value", "score", "deviation", "ratio"]
        assert heading == ["parameter", *shown]
        capsys.readouterr()
        _, out, _ = run("score", *FEW, "--model", model, "--format", "json", capsys=capsys)
        record = json.loads(out)
        assert record["at_estimate"] is at_estimate
        keys = ["parameter", "estimate", "score", "deviation", "ratio"]
        more = ["expected_error", "sandwich_error", "z", "lower", "upper"] if at_estimate else []
        assert list(record["parameters"][0]) == [*keys, *more]
    entry = next(each for each in record["parameters"] if each["parameter"] == "cov_diag[USD]")
    assert abs(entry["ratio"]) > 2, "the data contradict the other model"


def test_z_and_the_interval_are_from_the_last_errors(capsys) -> None:
    _, out, _ = run("score", *FEW, "--wrt", "mean", "--format", "csv", "--errors", "sandwich,expected", capsys=capsys)
    for row in csv.DictReader(io.StringIO(out)):
        value, error = float(row["estimate"]), float(row["expected_error"])
        assert float(row["z"]) == pytest.approx(value / error)
        assert float(row["lower"]) == pytest.approx(value - 1.959964 * error, abs=1e-9)
        assert float(row["upper"]) == pytest.approx(value + 1.959964 * error, abs=1e-9)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_head_of_a_jacobian(on_terminal, capsys, width: int) -> None:
    lines = on_terminal(width, "jacobian", *RETURNS)
    assert max(map(len, lines)) <= width
    assert lines[0].split()[0] == "mean"
    assert lines[1].split()[:2] == ["Date", "[USD]"]
    assert lines[1].endswith("…")
    assert [line.split()[0] for line in lines[2:4]] == ["1999-01-05", "1999-01-06"]
    assert set(lines[12].split()) == {"…"}
    assert " ".join(lines[14:]).startswith("7,125 rows, 170 columns of numbers")
    _, out, _ = run("jacobian", *RETURNS, capsys=capsys)
    rows = list(csv.reader(io.StringIO(out)))
    assert len(rows) == 7126, "a pipe gets CSV"
    for i in range(10):
        shown = lines[2 + i].split()[1:-1]
        assert [float(value) for value in shown] == pytest.approx([float(v) for v in rows[1 + i][1 : 1 + len(shown)]], rel=1e-4)


def test_the_head_of_sums_and_of_small_tables(on_terminal, tmp_path: Path) -> None:
    pd.DataFrame({"a": [1.0, 2, 4], "b": [1.0, 0, 5]}).to_csv(tmp_path / "x.csv", index=False)
    lines = on_terminal(120, "jacobian", tmp_path / "x.csv")
    assert lines[1].split() == ["row", "[a]", "[b]", "[a,a]", "[b,a]", "[b,b]"]
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "3"]
    assert lines[-1].startswith("3 rows, 5 columns of numbers")
    assert "…" not in "".join(lines)
    lines = on_terminal(80, "jacobian", tmp_path / "x.csv", "--sum-only")
    assert lines[1].split() == ["parameter", "sum"]
    assert lines[-1].startswith("5 rows, 1 column of numbers")
    lines = on_terminal(80, "jacobian", tmp_path / "x.csv", "--gram", "--wrt", "mean")
    assert lines[1].split() == ["parameter", "[a]", "[b]"]


def test_the_head_counts_the_rows_of_given_parameters(on_terminal, tmp_path: Path) -> None:
    """A CSV file does not state its length, and nothing is estimated from it."""
    pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), columns=["a", "b"]).to_csv(tmp_path / "x.csv", index=False)
    pd.DataFrame([[0.0, 0.0]], columns=["a", "b"]).to_csv(tmp_path / "mean.csv", index=False)
    pd.DataFrame([[1.0, 0.0], [0.0, 1.0]], columns=["a", "b"]).to_csv(tmp_path / "cov.csv", index=False)
    given = ["--mean", tmp_path / "mean.csv", "--covariance", tmp_path / "cov.csv", "--layout", "full"]
    lines = on_terminal(80, "jacobian", tmp_path / "x.csv", *given)
    assert lines[-1].startswith("30 rows, 6 columns of numbers")


def test_the_default_name_of_a_report(ugly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    columns = ["-c", "A 04,A 10", "--missing", "marginalise", "--index", "Date", "--log-returns"]
    assert run("report", ugly, *columns, capsys=capsys)[0] == 0
    assert [each.name for each in tmp_path.iterdir()] == ["prices.2024.report.html"]
    code, _, err = run("report", ugly, *columns, capsys=capsys)
    assert code == 2
    assert err == "mvnjac: prices.2024.report.html: exists already; pass --force to replace it.\n"
    assert run("report", ugly, *columns, "--force")[0] == 0


@pytest.mark.parametrize("command", [*COMMANDS, None])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_help(capsys, monkeypatch: pytest.MonkeyPatch, command: str | None, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERMINAL_WIDTH", str(width))
    code, out, _ = run(*filter(None, [command]), "--help", capsys=capsys)
    assert code == 0
    assert "<bool>" not in out
    assert "BOOLEAN" not in out
    examples = out[out.index("Examples") :]
    assert re.search(rf"mvnjac {command or 'score'} ", examples)
    if command in COMMANDS[:4]:
        panels = re.findall(r"╭─ (.*?) ─", out)
        assert panels[0] == "Arguments"
        assert panels[-2:] == ["Output", "Running"]
        assert "Options" not in panels
        assert panels.index("Data") == 1


def test_examples_in_the_help_are_commands_that_exist(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option of an example is one of its command."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    for command in COMMANDS:
        _, out, _ = run(command, "--help", capsys=capsys)
        body, examples = out.split("Examples")
        for example in re.findall(rf"mvnjac {command} .*", examples):
            for option in re.findall(r" (--[a-z-]+|-[a-z]) ", example.split("|")[0].split("&&")[0]):
                assert re.search(rf"│ .*{option}\b", body), (command, option)


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_real_terminal(width: int) -> None:
    import pty

    main, other = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "mvnjac", "score", *FEW]
    process = subprocess.Popen(command, stdout=other, stderr=other, stdin=other, env=environment)
    os.close(other)
    text = without_sequences(everything_written(main))
    assert process.wait() == 0
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= width
    assert "summing the scores" in text
    assert "variance of USD" in text
