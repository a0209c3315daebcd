"""The options for reading DATA: the same for all commands, for workers, checkpoints and parts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvnjac.cli.table_options import ReadingOptions
from mvnjac.jobs import point_out
from mvnjac.tables import slices
from mvnjac.tables.formats import csv
from mvnjac.tables.reading import ReadOptions
from tests.cli.test_cli import run

OPTIONS = ["--decimal", ",", "--comment", "#", "--missing-values", "'n.v.',-999", "--exclude", "Name"]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The rows of `ugly`, as an ordinary table without missing values."""
    rows = np.random.default_rng(0).normal(size=(300, 2)).round(4)
    table = pd.DataFrame(rows, columns=["A", "B"])
    table.insert(0, "Tag", pd.date_range("2020-01-01", periods=300).strftime("%Y-%m-%d"))
    table.to_csv(tmp_path / "plain.csv", index=False)
    return tmp_path / "plain.csv"


@pytest.fixture
def ugly(plain: Path) -> Path:
    """The same, as it comes: semicolons, decimal commas, German dates, comments, a column of text, incomplete rows."""
    table = pd.read_csv(plain, parse_dates=["Tag"])
    lines = ["# exported", "", "Tag;Name;A;B"]
    for i, (day, a, b) in enumerate(table.itertuples(index=False)):
        lines.append(f"{day:%d.%m.%Y};row {i};{str(a).replace('.', ',')};{str(b).replace('.', ',')}")
        if i % 50 == 3:
            lines += ["# a gap", f"{day:%d.%m.%Y};x;n.v.;1", f"{day:%d.%m.%Y};x;1;-999,0"]
    path = plain.with_name("ugly.csv")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_options_are_those_of_the_library() -> None:
    assert set(vars(ReadingOptions())) - {"returns"} == set(vars(ReadOptions()))
    assert ReadingOptions().reading() == ReadOptions()
    given = ReadingOptions(missing_values=["a,'b'", '"c,d"'], exclude=["x"]).reading()
    assert (given.missing_values, given.exclude) == (("a", "'b'", "c,d"), ("x",))


@pytest.mark.parametrize("command", ["jacobian", "score", "fit", "report"])
def test_all_commands_read_it(plain: Path, ugly: Path, command: str, tmp_path: Path, capsys) -> None:
    suffix = {"jacobian": ".csv", "score": ".json", "fit": ".safetensors", "report": ".html"}[command]
    found, expected = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"
    options = [*OPTIONS[:5], "n.v.,-999", *OPTIONS[6:]]
    code, _, said = run(command, ugly, *options, "--missing", "drop", "-o", found, capsys=capsys)
    assert code == 0, said
    assert f"{ugly}: the rows are labelled by 'Tag', which consists of dates" in said
    assert "warning: " + f"{ugly}: 12 of 312 rows have missing values and are left out; 300 remain." in said
    assert run(command, plain, "-o", expected)[0] == 0
    if command in ("jacobian", "score"):
        assert found.read_text() == expected.read_text()


def test_what_cannot_be_read_is_said_in_one_line(ugly: Path, tmp_path: Path, capsys) -> None:
    for options, code, says in (
        (["--exclude", "Name"], 1, "'A' is '0,1257' at row 1, which is not a number; use --decimal ,."),
        (
            [*OPTIONS[:4], *OPTIONS[6:]],
            1,
            "'A' is 'n.v.' at row 5, which is not a number; if it means a missing value, use --missing-values ",
        ),
        (["--decimal", "x"], 2, "--decimal: got 'x'"),
        (["--log-returns", "--returns"], 2, "exclude each other"),
        (["--exclude", "Nam", *OPTIONS[:6]], 2, "no column 'Nam'. Did you mean 'Name'"),
    ):
        got, _, said = run("score", ugly, "--comment", "#", *options, capsys=capsys)
        (line,) = [line for line in said.splitlines() if "labelled by" not in line]
        assert got == code, said
        assert line.startswith("mvnjac: ")
        assert says in line


def test_missing_values_are_an_error_by_default(ugly: Path, capsys) -> None:
    options = [*OPTIONS[:5], "n.v.,-999", *OPTIONS[6:]]
    code, _, said = run("score", ugly, *options, capsys=capsys)
    assert code == 1
    assert "'A' is missing at Tag 2020-01-04; " in said
    assert "--missing drop" in said
    assert run("score", ugly, *options, "--missing", "marginalise")[0] == 0


@pytest.mark.slow
def test_workers_and_resumed_runs_have_the_options(
    plain: Path, ugly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Byte ranges of the file, read by worker processes, into parts and sums that only the same options continue."""
    monkeypatch.setattr(csv, "_BLOCK", 256)
    monkeypatch.setattr(slices, "READ_BYTES", 1024)
    monkeypatch.setattr(slices, "WRITTEN_BYTES", 4096)
    options = [*OPTIONS[:5], "n.v.,-999", *OPTIONS[6:], "--missing", "drop"]
    parts = tmp_path / "parts"
    assert run("jacobian", ugly, *options, "-o", parts, "--format", "csv", "--workers", 2)[0] == 0
    assert len(list(parts.glob("part-*.csv"))) >= 3
    written = pd.concat([pd.read_csv(part) for part in sorted(parts.glob("part-*.csv"))], ignore_index=True)
    assert run("jacobian", plain, "-o", tmp_path / "plain_scores.csv")[0] == 0
    pd.testing.assert_frame_equal(written, pd.read_csv(tmp_path / "plain_scores.csv"), rtol=1e-12)
    about = json.loads((parts / "_manifest.json").read_text())
    assert json.dumps(about).count('"decimal": ","') == 1
    keep = ["--keep", tmp_path / "kept"]
    assert run("score", ugly, *options, *keep, "-o", tmp_path / "1.json")[0] == 0
    assert run("score", ugly, *options, *keep, "--resume", "-o", tmp_path / "2.json")[0] == 0
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    capsys.readouterr()
    other = [*options[:4], *options[4:6], *options[6:-1], "marginalise"]
    code, _, said = run("score", ugly, *other, *keep, "--resume", capsys=capsys)
    assert code == 2
    assert re.search("kept.*missing", said)


def test_rows_of_a_large_table_are_counted_by_the_engine(ugly: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(point_out, "_MOST_BYTES", 10)
    options = [*OPTIONS[:5], "n.v.,-999", *OPTIONS[6:], "--missing", "drop"]
    code, _, said = run("score", ugly, *options, capsys=capsys)
    assert code == 0
    assert "12 of 312 rows have missing values and are left out; 300 remain." in said


def test_stale_and_outlying_values_are_pointed_out(plain: Path, capsys) -> None:
    table = pd.read_csv(plain)
    table.loc[100:119, "A"] = 0.5
    table.loc[7, "B"] = 1000.0
    table.to_csv(plain, index=False)
    _, _, said = run("score", plain, capsys=capsys)
    assert f"mvnjac: warning: {plain}: stale values in 1 column: A is 0.5 in 20 rows, 2020-04-10 to 2020-04-29." in said
    assert re.search(r"outliers in 1 column: B is 1000 at 2020-01-08 \(\d+ standard deviations from the median\)", said)


def test_returns_and_given_parameters(tmp_path: Path, capsys) -> None:
    (tmp_path / "p.csv").write_text(
        "d;a;b\n" + "".join(f"{i + 1:02d}.01.2020;{1 + i % 5},5;{2 + i % 3},5\n" for i in range(20))
    )
    (tmp_path / "mean.csv").write_text("b;a\n0,5;0,25\n")
    (tmp_path / "cov.csv").write_text("n;a;b\na;1,5;0\nb;0;2\n")
    given = ["--mean", tmp_path / "mean.csv", "--covariance", tmp_path / "cov.csv", "--decimal", ",", "--format", "json"]
    code, out, said = run("score", tmp_path / "p.csv", "--returns", *given, capsys=capsys)
    assert code == 0, said
    record = json.loads(out)
    assert record["rows"] == 19
    assert [each["estimate"] for each in record["parameters"][:3]] == [0.25, 0.5, 1.5]
