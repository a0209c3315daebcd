"""The command line on real data: outputs, messages, and errors."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac import cli
from mvnjac.jobs import commands

ROOT = Path(__file__).resolve().parents[2]
RATES = str(ROOT / "examples" / "data" / "ecb_reference_rates.csv.gz")
COMPLETE = [
    "USD",
    "JPY",
    "CZK",
    "DKK",
    "GBP",
    "HUF",
    "PLN",
    "SEK",
    "CHF",
    "NOK",
    "AUD",
    "CAD",
    "HKD",
    "KRW",
    "NZD",
    "SGD",
    "ZAR",
]
RETURNS = [RATES, "--columns", ",".join(COMPLETE), "--index", "Date", "--log-returns"]


def run(*arguments: object, capsys: pytest.CaptureFixture[str] | None = None) -> tuple[int, str, str]:
    """The command in this process: exit code, standard output, standard error."""
    before = sys.argv
    sys.argv = ["mvnjac", *map(str, arguments)]
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    captured = capsys.readouterr() if capsys else None
    return code, captured.out if captured else "", captured.err if captured else ""


def returns() -> pd.DataFrame:
    """The log returns, read with pandas."""
    rates = pd.read_csv(RATES, na_values="N/A").set_index("Date").sort_index()[COMPLETE]
    return np.log(rates).diff().iloc[1:]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ecb") / "scores.parquet"
    assert run("jacobian", *RETURNS, "-o", path)[0] == 0
    return path


def test_one_row_a_day_and_170_named_columns(written: Path) -> None:
    table = pd.read_parquet(written)
    assert table.columns[0] == "mean[USD]"
    assert table.columns[17] == "covariance_matrix[USD,USD]"
    assert table.columns[18] == "covariance_matrix[JPY,USD]"
    assert table.shape == (7125, 170)
    expected = returns()
    assert table.index.name == "Date"
    assert list(table.index.strftime("%Y-%m-%d")) == list(expected.index)
    x = torch.from_numpy(expected.to_numpy())
    mean = x.mean(0)
    J = mvnjac.jacobian(x, mean, (x - mean).mT @ (x - mean) / len(x), names=COMPLETE)
    assert J.columns() == list(table.columns)
    M = J.matrix().numpy()
    np.testing.assert_allclose(table.to_numpy() / abs(M).max(0), M / abs(M).max(0), atol=1e-10)


def test_column_sums_are_the_totals(written: Path, tmp_path: Path, capsys) -> None:
    """At the fit and at a given mean and covariance, to 1e-10 of the sum of absolute scores of each column."""
    x = returns()
    mean = (x.mean() + 0.1 * x.std()).to_frame().T
    sigma = x.cov() * 1.3
    mean[COMPLETE[::-1]].to_csv(tmp_path / "mean.csv", index=False)
    sigma.loc[COMPLETE[::-1], COMPLETE[::-1]].to_csv(tmp_path / "sigma.csv")
    given = ["--mean", tmp_path / "mean.csv", "--covariance", tmp_path / "sigma.csv"]
    perturbed = tmp_path / "perturbed.parquet"
    assert run("jacobian", *RETURNS, *given, "-o", perturbed)[0] == 0
    capsys.readouterr()
    for path, options in ((written, []), (perturbed, given)):
        code, out, _ = run("score", *RETURNS, *options, "--format", "json", capsys=capsys)
        record = json.loads(out)
        assert code == 0
        assert record["rows"] == 7125
        table = pd.read_parquet(path)
        for entry in record["parameters"]:
            column = table[entry["parameter"]]
            assert abs(column.sum() - entry["score"]) <= 1e-10 * column.abs().sum()
            assert entry["deviation"] == pytest.approx(np.sqrt((column**2).sum()), rel=1e-10)
            assert entry["ratio"] == pytest.approx(entry["score"] / entry["deviation"], rel=1e-12)
    assert record["parameters"][0]["estimate"] == pytest.approx(mean["USD"].iloc[0])


def test_standard_errors(capsys) -> None:
    """Expected and observed standard errors agree with the textbook, also for single elements."""
    kinds = ["--errors", "expected,observed"]
    _, out, _ = run("score", *RETURNS, *kinds, "--format", "json", capsys=capsys)
    record = json.loads(out)
    n = record["rows"]
    values = {entry["parameter"]: entry for entry in record["parameters"]}
    for a, b in (("USD", "USD"), ("JPY", "USD")):
        entry = values[f"covariance_matrix[{a},{b}]"]
        cov = {k: values[f"covariance_matrix[{k}]"]["estimate"] for k in (f"{a},{a}", f"{b},{b}", f"{a},{b}")}
        expected = np.sqrt((cov[f"{a},{a}"] * cov[f"{b},{b}"] + cov[f"{a},{b}"] ** 2) / n)
        assert entry["expected_error"] == pytest.approx(expected, rel=1e-10)
        assert entry["observed_error"] == pytest.approx(expected, rel=1e-7)
    assert values["mean[USD]"]["expected_error"] == pytest.approx(np.sqrt(values["covariance_matrix[USD,USD]"]["estimate"] / n))
    _, out, _ = run(
        "score", *RETURNS, "--wrt", "covariance_matrix[JPY,USD],scale[USD]", *kinds, "--format", "json", capsys=capsys
    )
    some = {entry["parameter"]: entry for entry in json.loads(out)["parameters"]}
    alone = some["covariance_matrix[JPY,USD]"]
    assert alone["expected_error"] == pytest.approx(values["covariance_matrix[JPY,USD]"]["expected_error"], rel=1e-10)
    scale = values["covariance_matrix[USD,USD]"]  # delta method: √σ has the error of σ over 2 √σ
    assert some["scale[USD]"]["expected_error"] == pytest.approx(
        scale["expected_error"] / 2 / np.sqrt(scale["estimate"]), rel=1e-9
    )


@pytest.mark.parametrize("structure", ["dense", "low-rank:1"])
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_kinds_of_standard_errors(tmp_path: Path, capsys, structure: str, gaps: bool, parts: int) -> None:
    """The requested kinds, in this order, agree with those of all rows in memory."""
    rng = np.random.default_rng(3)
    x = rng.standard_t(6, size=(400, 4)) @ (np.eye(4) + 0.5)
    x[:, 1:][rng.random((400, 3)) < (0.2 if gaps else 0)] = np.nan
    for part, rows in enumerate(np.array_split(np.arange(400), parts)):
        table = pd.DataFrame(x[rows], columns=list("abcd")).assign(day=rows)
        (tmp_path / "data").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "data" / f"{part}.parquet")
    asked = ["score", tmp_path / "data", "--index", "day", "--structure", structure, "--format", "json"]
    asked += ["--missing", "marginalise"] if gaps else []
    code, out, err = run(*asked, "--errors", "sandwich,hac,observed", capsys=capsys)
    assert code == 0, err
    record = json.loads(out)
    entries, keys = record["parameters"], ["parameter", "estimate", "score", "deviation", "ratio"]
    assert re.match(r"HAC \(Newey–West, lag \d+, prewhite [01]", record["notes"]["hac"])
    assert list(entries[0]) == [*keys, "sandwich_error", "hac_error", "observed_error", "z", "lower", "upper"]
    rows = torch.from_numpy(x)
    estimate = mvnjac.fit(rows, structure, missing="marginalise" if gaps else None, names=list("abcd"))
    J = estimate.gaussian.jacobian(rows)
    for kind in ("sandwich", "hac", "observed"):
        wanted = mvnjac.inference.covariance_of_estimates(J, kind).standard_errors.tolist()
        found = [np.nan if entry[f"{kind}_error"] is None else entry[f"{kind}_error"] for entry in entries]
        np.testing.assert_allclose(found, wanted, rtol=2e-6)
    code, out, _ = run(*asked, "--errors", "none", capsys=capsys)
    assert code == 0
    assert list(json.loads(out)["parameters"][0]) == keys


def test_short_series_are_not_prewhitened(tmp_path: Path, capsys) -> None:
    x = np.random.default_rng(1).standard_normal((20, 5))
    pd.DataFrame(x, columns=list("abcde")).to_csv(tmp_path / "few.csv", index=False)
    code, out, err = run("score", tmp_path / "few.csv", "--errors", "hac", capsys=capsys)
    assert code == 0, err
    assert re.search(r"HAC error: HAC \(Newey–West, lag \d+, prewhite 0\)", " ".join(out.split()))


def test_unknown_kinds_of_standard_errors(capsys) -> None:
    code, _, err = run("score", *RETURNS, "--errors", "expected,robust", capsys=capsys)
    assert code == 2
    assert "--errors: unknown kind 'robust'; expected some of expected, observed, sandwich, hac, or none" in err


def test_standard_errors_away_from_a_maximum_are_left_out(tmp_path: Path, capsys) -> None:
    """Minus the Hessian may not be positive definite; JSON then has null."""
    pd.DataFrame([[1.0, 0.0], [0.0, 1.0]], columns=["a", "b"]).to_csv(tmp_path / "sigma.csv", index=False)
    pd.DataFrame([[0.0, 0.0]], columns=["a", "b"]).to_csv(tmp_path / "mean.csv", index=False)
    pd.DataFrame({"a": [0.1, -0.1, 0.0], "b": [0.0, 0.1, -0.1]}).to_csv(tmp_path / "data.csv", index=False)
    given = ["--mean", tmp_path / "mean.csv", "--covariance", tmp_path / "sigma.csv"]
    code, out, _ = run(
        "score", tmp_path / "data.csv", *given, "--errors", "expected,observed", "--format", "json", capsys=capsys
    )
    assert code == 0
    entries = {entry["parameter"]: entry for entry in json.loads(out)["parameters"]}
    assert entries["covariance_matrix[a,a]"]["observed_error"] is None
    assert entries["covariance_matrix[a,a]"]["expected_error"] == pytest.approx(np.sqrt(2 / 3))


@pytest.mark.parametrize(
    ("options", "first", "width"),
    [
        (["--parametrisation", "cholesky"], "scale_tril[USD,USD]", 17 + 153),
        (["--parametrisation", "scale_tril"], "scale_tril[USD,USD]", 17 + 153),
        (["--parametrisation", "scale-correlation"], "scale[USD]", 17 + 17 + 136),
        (["--parametrisation", "precision", "--layout", "full"], "precision_matrix[USD,USD]", 17 + 289),
        (["--wrt", "mean,covariance_matrix[USD,JPY]"], "covariance_matrix[USD,JPY]", 18),
    ],
)
def test_parametrisations(tmp_path: Path, options: list[str], first: str, width: int) -> None:
    assert run("jacobian", *RETURNS, *options, "-o", tmp_path / "s.arrow")[0] == 0
    table = pd.read_feather(tmp_path / "s.arrow")
    assert table.columns[17] == first
    assert table.shape == (7125, width)


def test_natural_parameters_replace_the_mean(capsys) -> None:
    code, out, _ = run("score", *RETURNS, "--parametrisation", "natural", "--format", "csv", capsys=capsys)
    rows = list(csv.reader(io.StringIO(out)))
    assert code == 0
    assert rows[1][0] == "natural_location[USD]"
    assert len(rows) == 1 + 17 + 153


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".arrow", ".npy"])
def test_outputs_by_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s{suffix}"
    command = ["jacobian", RATES, "--columns", "USD", "--columns", "CHF", "--index", "Date", "--log-returns"]
    assert run(*command, "-o", path)[0] == 0
    read = {".parquet": pd.read_parquet, ".arrow": pd.read_feather}.get(suffix, pd.read_csv)
    values = np.load(path) if suffix == ".npy" else read(path).to_numpy()
    values = values[:, 1:].astype(float) if ".csv" in suffix else values  # without the dates, the index elsewhere
    assert values.shape == (7125, 5)
    assert abs(values.sum(0)).max() < 1e-8 * abs(values).sum(0).max()


def test_without_an_output_csv_goes_to_standard_output() -> None:
    command = [sys.executable, "-m", "mvnjac", "jacobian", RATES, "-c", "USD,CHF", "--index", "Date", "--log-returns"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows[0] == [
        "Date",
        "mean[USD]",
        "mean[CHF]",
        *(f"covariance_matrix[{n}]" for n in ("USD,USD", "CHF,USD", "CHF,CHF")),
    ]
    assert len(rows) == 7126
    assert all(line.startswith("mvnjac: warning: ") for line in done.stderr.splitlines())


def test_score_prints_a_table_that_is_not_cut_off(tmp_path: Path, capsys) -> None:
    code, out, _ = run("score", *RETURNS[:2], "USD,CHF", *RETURNS[3:], capsys=capsys)
    assert code == 0
    assert "covariance of USD and CHF" in out
    assert "7125 rows, log-likelihood" in out
    for suffix, start in ((".txt", ""), (".json", "{"), (".csv", "parameter,")):
        path = tmp_path / f"s{suffix}"
        assert run("score", *RETURNS[:2], "USD,CHF", *RETURNS[3:], "-o", path)[0] == 0
        assert path.read_text().startswith(start)
        assert ("covariance of USD and CHF" if suffix == ".txt" else "covariance_matrix[CHF,USD]") in path.read_text()


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    data = pd.DataFrame(generator.normal(size=(50, 3)), columns=["a", "b", "c"])
    data["twin"], data["flat"], data["text"] = data["a"] + data["b"], 1.25, "word"
    data["gap"] = data["c"].where(data.index != 7)
    data.to_csv(tmp_path / "data.csv", index=False)
    return tmp_path / "data.csv"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["-c", "a,b,flat"], 3, "'flat' is constant over all 50 rows: the variance is 0"),
        (["-c", "a,b,twin"], 3, "'twin' is, to rounding, a linear combination of 'a', 'b'"),
        (["-c", "a,gap"], 1, "'gap' is missing at row 8"),
        (["-c", "a,text"], 1, "'text' is not numeric"),
        ([], 1, "'text' is not numeric"),
        (["-c", "a,bb"], 2, "no column 'bb'. Did you mean 'b'"),
        (["-c", "a,b", "--index", "day"], 2, "no column 'day'"),
        (["-c", "a,b", "--wrt", "meen"], 2, "Did you mean 'mean'"),
        (["-c", "a,b", "--wrt", "mean[z]"], 2, "not an element of mean"),
        (["-c", "a,b", "--parametrisation", "spherical"], 2, "expected one of cholesky, dense"),
        (["-c", "a,b", "--layout", "packed"], 2, "packed"),
        (["-c", "a,b", "--mean", "absent.csv"], 1, "absent.csv: no such file"),
        (["-c", "a,b", "--nonsense"], 2, "nonsense"),
    ],
)  # fmt: skip
def test_errors(csv_file: Path, tmp_path: Path, capsys, options: list[str], code: int, says: str) -> None:
    before = set(tmp_path.iterdir())
    for command in ("jacobian", "score"):
        if command == "score" and "--layout" in options:
            continue
        got, out, err = run(
            command, csv_file, *options, "-o", tmp_path / ("out.parquet" if command == "jacobian" else "out.csv"), capsys=capsys
        )
        assert (got, out) == (code, "")
        assert says in " ".join(err.replace("│", " ").split())
    assert set(tmp_path.iterdir()) == before, "an incomplete file is left"


def test_the_pegged_currency_is_named(tmp_path: Path, capsys) -> None:
    rates = pd.read_csv(RATES, na_values="N/A")[["Date", "USD", "EEK"]].dropna()
    rates.to_csv(tmp_path / "eek.csv", index=False)
    code, _, err = run(
        "jacobian", tmp_path / "eek.csv", "--index", "Date", "--log-returns", "-o", tmp_path / "o.csv", capsys=capsys
    )
    assert code == 3
    assert "'EEK' is constant" in err


def test_invalid_given_covariances(csv_file: Path, tmp_path: Path, capsys) -> None:
    pd.DataFrame([[1.0, 2.0], [2.0, 1.0]], columns=["a", "b"]).to_csv(tmp_path / "indefinite.csv", index=False)
    pd.DataFrame([[1.0, 0.5], [0.4, 1.0]], columns=["a", "b"]).to_csv(tmp_path / "skew.csv", index=False)
    code, _, err = run("score", csv_file, "-c", "a,b", "--covariance", tmp_path / "indefinite.csv", capsys=capsys)
    assert code == 3
    assert "the Cholesky pivot of 'b' (pivot 2 of 2)" in err
    code, _, err = run("score", csv_file, "-c", "a,b", "--covariance", tmp_path / "skew.csv", capsys=capsys)
    assert code == 1
    assert "not symmetric: entry [0,1] ('a', 'b')" in err


def test_too_few_rows(csv_file: Path, tmp_path: Path, capsys) -> None:
    pd.read_csv(csv_file)[["a", "b", "c"]].head(3).to_csv(tmp_path / "short.csv", index=False)
    code, _, err = run("score", tmp_path / "short.csv", capsys=capsys)
    assert code == 3
    assert "3 rows for 3 variables" in err
    pd.read_csv(csv_file)[["a", "b"]].head(0).to_csv(tmp_path / "none.csv", index=False)
    assert run("score", tmp_path / "none.csv", capsys=capsys)[0] == 1


def test_outputs_are_not_overwritten_without_force(csv_file: Path, tmp_path: Path, capsys) -> None:
    target = tmp_path / "out.csv"
    target.write_text("precious")
    code, _, err = run("jacobian", csv_file, "-c", "a,b", "-o", target, capsys=capsys)
    assert (code, target.read_text()) == (2, "precious")
    assert "--force" in err
    assert run("jacobian", csv_file, "-c", "a,gap", "-o", target, "--force", capsys=capsys)[0] == 1
    assert target.read_text() == "precious", "an error must not change an existing file"
    assert run("jacobian", csv_file, "-c", "a,b", "-o", target, "--force", capsys=capsys)[0] == 0
    assert len(target.read_text().splitlines()) == 51
    code, _, err = run("jacobian", csv_file, "-c", "a,b", "-o", tmp_path / "no" / "o.csv", capsys=capsys)
    assert code == 1
    assert "does not exist" in err
    assert run("jacobian", csv_file, "-c", "a,b", "-o", tmp_path / "o.xlsx", capsys=capsys)[0] == 2


def test_an_input_is_never_overwritten(csv_file: Path, tmp_path: Path, capsys) -> None:
    before = csv_file.read_text()
    folder = tmp_path / "parts"
    folder.mkdir()
    pd.read_csv(csv_file)[["a", "b"]].to_parquet(folder / "p.parquet")
    for source, target in ((csv_file, csv_file), (folder, folder / "p.parquet")):
        for command in ("jacobian", "score"):
            code, _, err = run(command, source, "-c", "a,b", "-o", target, "--force", capsys=capsys)
            assert code == 2
            assert "is an input of this command" in err
    assert csv_file.read_text() == before


def test_names_with_commas_and_blanks(tmp_path: Path, capsys) -> None:
    data = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2)), columns=["BRK,B", "AAPL"])
    data.to_csv(tmp_path / "t.csv", index=False)
    code, out, _ = run("score", tmp_path / "t.csv", "--columns", 'AAPL, "BRK,B"', "--format", "csv", capsys=capsys)
    assert code == 0
    assert '"mean[BRK,B]"' in out
    assert run("score", tmp_path / "t.csv", "-o", tmp_path / "t.xlsx", capsys=capsys)[0] == 2


def test_a_table_without_a_header_is_refused(tmp_path: Path, capsys) -> None:
    pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2))).to_csv(tmp_path / "t.csv", index=False, header=False)
    code, _, err = run("score", tmp_path / "t.csv", capsys=capsys)
    assert code == 1
    assert "expected a header of column names" in err


def test_interrupted_leaves_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(400_000, 30)))
    command = [sys.executable, "-m", "mvnjac", "jacobian", str(tmp_path / "x.npy"), "-o", str(tmp_path / "o.parquet")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*o.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it could be interrupted"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "interrupted; nothing was written" in process.stderr.read()
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


PEAK = """
import atexit, sys
from mvnjac import cli
from tests.support.peak import peak
atexit.register(lambda: print(peak() // 2**20, file=sys.stderr))
sys.argv = ["mvnjac", *sys.argv[1:]]
cli.main()
"""


USED = ",".join(f"v{i}" for i in range(10))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, suffix: str) -> None:
    """600 000 additional rows of 20 variables (96 MB) and 65 scores (300 MB) do not increase the peak memory."""
    peaks = []
    for n in (200_000, 800_000):
        data = pd.DataFrame(np.random.default_rng(0).normal(size=(n, 20)).round(3), columns=[f"v{i}" for i in range(20)])
        path = tmp_path / f"{n}{suffix}"
        data.to_parquet(path, row_group_size=50_000) if suffix == ".parquet" else data.to_csv(path, index=False)
        command = [sys.executable, "-c", PEAK, "score", str(path), "--columns", USED, "-o", str(tmp_path / f"{n}.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        peaks.append(int(done.stderr.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 70, f"peaks {peaks} MB"


def test_help_is_fast_and_without_torch() -> None:
    code = (
        "import sys; from mvnjac import cli\nfor command in ([], ['jacobian'], ['score'], ['fit'], ['report'], ['verify']):\n"
    )
    code += "  sys.argv = ['mvnjac', *command, '--help']\n  try: cli.main()\n  except SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    times: list[float] = []
    while len(times) < 3 or (len(times) < 20 and min(times) >= 0.6):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "mvnjac", "--help"], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
    assert "jacobian" in done.stdout
    # 0.3 s is the target; a busy machine gets twice as much and more tries.
    assert min(times) < 0.6


def test_help_lists_the_parametrisations() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mvnjac", "jacobian", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    for name in commands.parametrisations():
        assert name in done.stdout


def test_progress_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    code, out, _ = run("score", *RETURNS[:2], "USD,CHF", *RETURNS[3:], "--format", "csv", capsys=capsys)
    assert code == 0
    assert out.startswith("parameter,")
    assert "rows" in terminal.getvalue()
