"""`mvnjac report`: its numbers compared with other computations, the content of its page, and its errors."""

from __future__ import annotations

import html
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvnjac import inference
from mvnjac.engines.run import Run
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request, prepared
from mvnjac.report.analysis.load_rows import load_rows
from mvnjac.tensors import memory
from tests.cli.test_cli import COMPLETE, RATES, run
from tests.report.pages import NASTY, data, nasty_table

pytestmark = pytest.mark.usefixtures("without_charts")
PANELS = ["influence", "breaks", "correlation", "distances", "heat-map", "missing", "conditioning", "parameters"]


@pytest.fixture(scope="module")
def returns() -> pd.DataFrame:
    rates = pd.read_csv(RATES, index_col="Date").sort_index()[COMPLETE]
    return np.log(rates).diff().iloc[1:]


class Structure(HTMLParser):
    """The elements that are not closed, and the ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.seen = list[str](), list[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(name)
        self.ids += [value or "" for key, value in attributes if key == "id"]
        if name not in ("meta", "link", "wbr"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name


# --- the reference rates -----------------------------------------------------------------------------------------------


def test_the_day_of_the_franc_is_the_most_influential(ecb: Path) -> None:
    top = data(ecb)["influence"]["top"]
    first = top[0]
    assert (first["label"], first["most_changed"]) == ("2015-01-15", "covariance_matrix[CHF,CHF]")
    assert first["standard_errors"] < -10
    assert [row["distance"] for row in top] == sorted((row["distance"] for row in top), reverse=True)


def test_each_currency_has_its_break(ecb: Path, returns: pd.DataFrame) -> None:
    breaks = {test["variable"]: test for test in data(ecb)["breaks"]}
    assert list(breaks) == COMPLETE
    table = Data(RATES, COMPLETE, "Date", True)
    source, names, estimate = prepared(table, Request(), Run())  # rows and estimate as the report has them, to the last bit
    x = load_rows(table, source, names, 170, Run()).x
    np.testing.assert_allclose(x.numpy(), returns.to_numpy(), rtol=0, atol=1e-15)
    J, days = estimate.jacobian(x), list(returns.index)
    serial = inference.score_process(J, dates=days, scores_covariance=inference.scores_covariance(J)).by_variable()
    independent = inference.score_process(J, dates=days).by_variable()
    for name, found in breaks.items():
        assert (found["test"], found["date"], found["parameters"]) == ("supLM", serial[name].date, 18)
        assert found["statistic"] == pytest.approx(serial[name].statistic, rel=1e-6)
        assert found["p_value"] == pytest.approx(serial[name].p_value, rel=1e-4)
        assert found["significant"] == (found["p_value"] < 0.05)
        assert found["independent_date"] == independent[name].date
        assert found["independent_statistic"] == pytest.approx(independent[name].statistic, rel=1e-6)
        assert found["independent_p_value"] == pytest.approx(independent[name].p_value, rel=1e-4)
    assert [name for name, found in breaks.items() if found["significant"]] == ["SGD"]


def test_the_map_of_the_variances_is_the_kurtosis(ecb: Path, returns: pd.DataFrame) -> None:
    """On the diagonal, the sandwich has m₄ − s⁴ and the information 2 s⁴."""
    z = ((returns - returns.mean()) / returns.std(ddof=0)).to_numpy()
    record = data(ecb)
    assert record["heat_map"]["of"] == "robust over classical variance"
    values = np.array(record["heat_map"]["values"])
    np.testing.assert_allclose(np.diag(values), ((z**4).mean(0) - 1) / 2, rtol=1e-7)
    r = z.T @ z / len(z)
    np.testing.assert_allclose(values, ((z**2).T @ (z**2) / len(z) - r**2) / (1 + r**2), rtol=1e-7)


def test_estimates_and_condition(ecb: Path, returns: pd.DataFrame) -> None:
    record = data(ecb)
    rows = pd.DataFrame(record["parameters"]).set_index("parameter").T.to_dict()
    assert rows["mean[USD]"]["description"] == "mean of USD"
    assert len(rows) == record["model"]["parameters"] == 170
    n, usd = len(returns), returns["USD"]
    mean, variance = rows["mean[USD]"], rows["covariance_matrix[USD,USD]"]
    assert mean["estimate"] == pytest.approx(usd.mean(), rel=1e-9)
    assert mean["classical_error"] == pytest.approx(usd.std(ddof=0) / n**0.5, rel=1e-9)
    assert variance["estimate"] == pytest.approx(usd.var(ddof=0), rel=1e-9)
    assert variance["classical_error"] == pytest.approx(usd.var(ddof=0) * (2 / n) ** 0.5, rel=1e-7)
    assert variance["robust_error"] == pytest.approx(((usd - usd.mean()) ** 2).std(ddof=0) / n**0.5, rel=1e-7)
    assert 1 < variance["series_error"] / variance["classical_error"] < 5
    condition = record["conditioning"]
    assert condition["correlation"] == pytest.approx(np.linalg.cond(returns.corr()), rel=1e-6)
    assert condition["covariance"] == pytest.approx(np.linalg.cond(returns.cov()), rel=1e-6)
    assert {name for name, _ in condition["combination"][:2]} == {"USD", "HKD"}
    assert condition["digits64"] == pytest.approx(-np.log10(np.finfo(float).eps * condition["correlation"]), rel=1e-9)
    assert record["data"] | {"first": "1999-01-05", "rows": 7125, "sorted": True} == record["data"]


# --- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_asks_no_one(ecb: Path) -> None:
    text = ecb.read_text("utf-8")
    structure = Structure(text)
    assert structure.open == []
    assert [name for name in structure.ids if name in PANELS] == PANELS
    assert len(set(structure.ids)) == len(structure.ids)
    assert not re.search(r"(?:src|href)=\"(?!#|data:,)|url\((?!#)|@import|https?:", text)
    assert "default-src 'none'" in html.unescape(text)
    assert "7,125 log returns" in text
    assert "divisor n, not n − 1" in text
    assert len(text) < 700_000


def test_names_stay_text(nasty: Path) -> None:
    text, record = nasty.read_text("utf-8"), data(nasty)
    assert record["data"]["variables"] == NASTY
    assert [test["variable"] for test in record["breaks"]] == NASTY
    assert Structure(text).open == []
    assert "img" not in Structure(text).seen
    assert "<script>alert" not in text
    assert text.count("<script") == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_planted_break_and_gaps(nasty: Path) -> None:
    record = data(nasty)
    breaks = {test["variable"]: test for test in record["breaks"]}
    changed = breaks[NASTY[1]]
    assert abs(changed["date"] - 120) < 8
    assert abs(changed["independent_date"] - 120) < 8
    assert changed["independent_p_value"] < 1e-3 < 0.01 < changed["p_value"]  # the break itself inflates Newey and West's
    assert min(breaks.values(), key=lambda test: test["p_value"]) is changed
    missing = record["missing"]
    assert (missing["entries"], missing["count"], missing["by_variable"]) == (30, 2, [0, 0, 30])
    assert missing["patterns"] == [
        {"rows": 270, "observed": [True, True, True]},
        {"rows": 30, "observed": [True, True, False]},
    ]
    assert record["notes"][0] == "classical: observed information"


def test_given_parameters_are_tested(tmp_path: Path) -> None:
    table = nasty_table(tmp_path / "x.csv", gaps=False)
    x = pd.read_csv(table)
    pd.DataFrame([[0.0, 0.0, 0.0]], columns=NASTY).to_csv(tmp_path / "mean.csv", index=False)
    pd.DataFrame(np.eye(3), columns=NASTY).to_csv(tmp_path / "covariance.csv", index=False)
    given = ["--mean", tmp_path / "mean.csv", "--covariance", tmp_path / "covariance.csv"]
    assert run("report", table, *given, "-o", tmp_path / "x.html")[0] == 0
    record, text = data(tmp_path / "x.html"), (tmp_path / "x.html").read_text("utf-8")
    assert not record["model"]["estimated"]
    scores = 0.5 * (x.to_numpy()[:, :, None] * x.to_numpy()[:, None, :] - np.eye(3))  # by Σ = I, about 0
    np.testing.assert_allclose(record["heat_map"]["values"], scores.sum(0) / np.sqrt((scores**2).sum(0)), rtol=1e-9)
    expected = 300 * (x.mean() ** 2).sum() + (2 * scores.sum(0) ** 2).sum() / 300
    assert record["model"]["total_score"]["statistic"] == pytest.approx(expected, rel=1e-9)
    assert record["model"]["total_score"]["p_value"] < 1e-10
    assert record["breaks"] == []
    assert "do not sum to 0" in record["cusum"]["unavailable"]
    assert "do not sum to 0" in text
    assert "divisor n" not in text
    assert all(f'id="{panel}"' in text for panel in PANELS)


@pytest.mark.parametrize("structure", ["low-rank:1", "diagonal", "cholesky", "ar:1", "compound-symmetric"])
def test_structures(tmp_path: Path, structure: str) -> None:
    frame = pd.read_csv(RATES, usecols=["Date", "USD", "JPY", "CHF", "GBP", "SEK"]).iloc[:800]
    frame.to_csv(tmp_path / "x.csv", index=False)
    options = ["--index", "Date", "--log-returns", "--structure", structure, "-o", tmp_path / "x.html"]
    assert run("report", tmp_path / "x.csv", *options)[0] == 0
    record = data(tmp_path / "x.html")
    assert record["model"]["estimated"]
    assert len(record["breaks"]) == 5
    assert all(test["p_value"] is not None for test in record["breaks"])
    values = np.array(record["heat_map"]["values"], dtype=float)
    assert np.isfinite(np.diag(values)).all()
    off_diagonal = values[np.tril_indices(5, -1)]
    assert np.isnan(off_diagonal).all() if structure == "diagonal" else np.isfinite(off_diagonal).all()
    assert any("HAC" in note for note in record["notes"])


def test_a_model_of_these_rows_is_an_estimate_and_of_others_is_not(tmp_path: Path) -> None:
    nasty_table(tmp_path / "x.csv", gaps=False)
    pd.read_csv(tmp_path / "x.csv").iloc[:150].to_csv(tmp_path / "half.csv", index=False)
    assert run("fit", tmp_path / "x.csv", "-o", tmp_path / "m.safetensors", "--structure", "low-rank:1")[0] in (0, 3)
    assert run("fit", tmp_path / "x.csv", "-o", tmp_path / "m.safetensors", "--force")[0] == 0
    for table, estimated in (("x.csv", True), ("half.csv", False)):
        page = tmp_path / f"{table}.html"
        assert run("report", tmp_path / table, "--model", tmp_path / "m.safetensors", "-o", page)[0] == 0
        assert data(page)["model"]["estimated"] == estimated


@pytest.mark.parametrize("noise", [1e-4, 1e-6])
def test_an_ill_conditioned_estimate_is_an_estimate(tmp_path: Path, noise: float) -> None:
    """The parameters count as the estimate in spite of rounding; the same numbers from files count as given."""
    x, page = tmp_path / "x.csv", tmp_path / "x.html"
    rows = np.random.default_rng(0).normal(size=(500, 4))
    rows[:, 3] = rows[:, 0] + rows[:, 1] + noise * rows[:, 3]
    pd.DataFrame(rows, columns=list("abcd")).to_csv(x, index=False)
    assert run("fit", x, "-o", tmp_path / "m.safetensors")[0] == 0
    pd.DataFrame([rows.mean(0)], columns=list("abcd")).to_csv(tmp_path / "mean.csv", index=False)
    pd.DataFrame(np.cov(rows.T, bias=True), columns=list("abcd")).to_csv(tmp_path / "covariance.csv", index=False)
    given = ["--mean", tmp_path / "mean.csv", "--covariance", tmp_path / "covariance.csv"]
    for options, estimate in (([], True), (["--model", tmp_path / "m.safetensors"], True), (given, False)):
        assert run("report", x, *options, "-o", page, "--force")[0] == 0
        record, text = data(page), page.read_text("utf-8")
        assert record["model"]["estimated"] == estimate
        assert ("divisor n" in text) == estimate
        assert ("Given are the mean from mean.csv" in text) != estimate
        assert ("total_score" in record["parameters"]) != estimate


def test_a_model_of_other_rows_with_the_same_moments_is_given(tmp_path: Path) -> None:
    """Two tables with the same number of rows, means 0 and variances 1."""
    for seed, name in enumerate(("one", "two")):
        rows = np.random.default_rng(seed).normal(size=(200, 3))
        frame = pd.DataFrame((rows - rows.mean(0)) / rows.std(0), columns=list("abc"))
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    assert run("fit", tmp_path / "one.csv", "-o", tmp_path / "m.safetensors")[0] == 0
    found = []
    for name in ("one", "two"):
        page = tmp_path / f"{name}.html"
        assert run("report", tmp_path / f"{name}.csv", "--model", tmp_path / "m.safetensors", "-o", page)[0] == 0
        found.append(data(page)["model"]["estimated"])
    assert found == [True, False]
    assert "taken as given" in (tmp_path / "two.html").read_text("utf-8")


def test_too_few_rows_for_a_panel_say_so(tmp_path: Path) -> None:
    pd.DataFrame(np.random.default_rng(1).normal(size=(4, 3)), columns=list("abc")).to_csv(tmp_path / "x.csv", index=False)
    assert run("report", tmp_path / "x.csv", "-o", tmp_path / "x.html")[0] == 0
    record = data(tmp_path / "x.html")
    assert "more rows than parameters" in record["cusum"]["unavailable"]
    assert len(record["influence"]["top"]) == 4
    assert 'class="why"' in (tmp_path / "x.html").read_text("utf-8")


def test_a_variable_is_tested_where_it_is_observed(tmp_path: Path) -> None:
    """A variable that starts in the middle and changes its variance after two thirds; the report shows the tested period."""
    x = np.random.default_rng(3).normal(size=(1200, 3))
    x[900:, 2] *= 2
    x[:600, 2] = np.nan
    days = pd.date_range("2015-01-01", periods=1200).strftime("%Y-%m-%d")
    pd.DataFrame(x, columns=list("abc"), index=pd.Index(days, name="day")).to_csv(tmp_path / "x.csv")
    options = ["--index", "day", "--missing", "marginalise", "-o", tmp_path / "x.html"]
    assert run("report", tmp_path / "x.csv", *options)[0] == 0
    record, text = data(tmp_path / "x.html"), (tmp_path / "x.html").read_text("utf-8")
    late = {test["variable"]: test for test in record["breaks"]}["c"]
    assert (late["first"], late["last"]) == (days[600 + 89], days[600 + 509])
    assert late["first"] <= late["date"] <= late["last"]
    assert abs(list(days).index(late["independent_date"]) - 899) < 30
    assert late["independent_p_value"] < 0.01
    assert "999 Gaussian multipliers" in record["cusum"]["law"]
    assert "lag" in record["cusum"]["covariance"]
    assert "tested from" in text


def test_more_parameters_than_rows_have_holms_correction(tmp_path: Path) -> None:
    pd.DataFrame(np.random.default_rng(1).normal(size=(8, 3)), columns=list("abc")).to_csv(tmp_path / "x.csv", index=False)
    assert run("report", tmp_path / "x.csv", "-o", tmp_path / "x.html")[0] == 0
    record, text = data(tmp_path / "x.html"), html.unescape((tmp_path / "x.html").read_text("utf-8"))
    assert len(record["breaks"]) == 3
    assert record["cusum"]["correction"] == "p-values have Holm's correction over 3 variables"
    assert "Holm's correction over 3 variables" in text
    assert "8 rows for 9 parameters" in text


def test_rows_are_brought_into_the_order_of_time(tmp_path: Path) -> None:
    x = np.random.default_rng(2).normal(size=(60, 2))
    days = pd.date_range("2020-01-01", periods=60)
    frame = pd.DataFrame(x, columns=["a", "b"]).assign(day=days.strftime("%Y-%m-%d"))
    frame.to_csv(tmp_path / "up.csv", index=False)
    frame.iloc[::-1].to_csv(tmp_path / "down.csv", index=False)
    frame.assign(day=days.strftime("%d.%m.%y")).to_csv(tmp_path / "file.csv", index=False)
    found = {}
    for name in ("up", "down", "file"):
        page = tmp_path / f"{name}.html"
        assert run("report", tmp_path / f"{name}.csv", "--index", "day", "-o", page)[0] == 0
        found[name] = data(page)
    assert found["up"]["data"]["first"] == found["down"]["data"]["first"] == "2020-01-01"
    up, down, as_is = ([test["statistic"] for test in found[name]["breaks"]] for name in found)
    assert up == pytest.approx(down, rel=1e-9)
    assert up == pytest.approx(as_is, rel=1e-9)
    assert [found[name]["data"]["sorted"] for name in found] == [True, True, False]
    assert "in their original order" in (tmp_path / "file.html").read_text("utf-8")


# --- how it fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["-c", "a,nope"], 2, "there is no column 'nope'"),
        (["-c", "a,flat"], 3, "'flat' is constant"),
        (["-c", "a,half"], 1, "'half' is missing at row 31"),
        (["-c", "a,b", "--structure", "lowrank:1"], 2, "Did you mean 'low-rank'"),
        (["-c", "a,b", "-o", "x.pdf"], 2, "a report is an HTML file; expected the suffix .html"),
        (["-c", "a,b", "-o", "nowhere/x.html"], 1, "does not exist"),
        ([f"-c{','.join(f'v{i}' for i in range(70))}"], 2, "2555 parameters, but a report can have at most 2000"),
    ],
)
def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, options: list[str], code: int, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 72)), columns=["a", "b", *(f"v{i}" for i in range(70))])
    frame = frame.assign(flat=1.0, half=frame["a"].where(frame.index < 30))
    frame.to_csv("x.csv", index=False)
    got, out, err = run("report", "x.csv", *(["-o", "x.html"] if "-o" not in options else []), *options, capsys=capsys)
    assert (got, out) == (code, "")
    assert says in err
    assert os.listdir() == ["x.csv"], "an incomplete file is left"


def test_rows_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The error is raised before all rows are read; slightly more memory is enough."""
    pd.DataFrame(np.random.default_rng(0).normal(size=(4000, 2)), columns=["a", "b"]).to_csv(tmp_path / "x.csv", index=False)
    needed = 8 * (4000 * (7 * 5 + 2) + 13 * 5**2)
    for free, code in ((needed - 1, 1), (needed, 0)):
        monkeypatch.setattr(memory, "available", lambda device, free=free: free)
        got, _, err = run("report", tmp_path / "x.csv", "-o", tmp_path / "x.html", capsys=capsys)
        assert got == code
        assert (tmp_path / "x.html").exists() == (code == 0)
        assert ("a report needs 1.19 MB for 4,000 rows and 5 parameters" in err) == (code == 1)


def test_outputs_are_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    table, page = nasty_table(tmp_path / "x.csv", gaps=False), tmp_path / "x.html"
    page.write_text("precious")
    assert run("report", table, "-o", page, capsys=capsys)[0] == 2
    assert run("report", table, "-o", tmp_path / "y.html", "--model", tmp_path / "none.safetensors", capsys=capsys)[0] == 1

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "replace", full)
        code, _, err = run("report", table, "-o", page, "--force", capsys=capsys)
    assert code == 1
    assert "No space left" in err
    assert page.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["x.csv", "x.html"]
    code, _, err = run("report", table, "-o", page, "--force", capsys=capsys)
    assert code == 0
    assert "300 rows of 3 variables, 9 parameters." in err
    assert page.read_text("utf-8").startswith("<!doctype html>")
