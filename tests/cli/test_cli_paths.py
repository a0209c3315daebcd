"""Unusual files, folders and arguments: one line on standard error, and the correct exit code."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.test_cli import run

ROWS = "a,b\n" + "".join(f"{x:.4f},{y:.4f}\n" for x, y in np.random.default_rng(0).normal(size=(30, 2)))
FIT = ["-o", "o.safetensors"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    texts: dict[str, str | bytes] = {
        "ok.csv": ROWS,
        "empty.csv": "",
        "blank.csv": "\n\n",
        "header.csv": "a,b\n",
        "one.csv": "a,b\n1,2\n",
        "column.csv": "a\n1\n2\n4\n",
        "twice.csv": "a,a\n1,2\n3,4\n",
        "mark.csv": b"\xef\xbb\xbf" + ROWS.encode(),
        "windows.csv": ROWS.replace("\n", "\r\n"),
        "broken.csv.gz": gzip.compress(ROWS.encode())[:-20],
        "plain.csv.gz": ROWS,
        "nothing.csv.gz": gzip.compress(b""),
        "wide.csv": ROWS.encode("utf-16"),
        "broken.parquet": "nonsense",
        "empty.npy": b"",
        "broken.safetensors": "junk",
        "mean.csv": "a,b\n0,0\n",
        "cov.csv": "a,b\n1,0\n0,1\n",
    }
    for name, text in texts.items():
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    np.save("rows0.npy", np.zeros((0, 3)))
    np.save("columns0.npy", np.zeros((5, 0)))
    pq.write_table(pa.table({"a": [2**53 + 1, 1, 5], "b": [1.0, 2.0, 4.0]}), "large.parquet")
    pq.write_table(pa.table({"a": [2**53 + 1], "b": [1.0]}), "large_mean.parquet")
    for folder in ("folder", "folder.csv", "folder.npy", "folder.html", "folder.safetensors"):
        Path(folder).mkdir()
    Path("dangling.csv").symlink_to("nowhere.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (1, ["fit", "empty.csv", *FIT], "empty.csv: is empty"),
        (1, ["fit", "blank.csv", *FIT], "blank.csv: is empty"),
        (1, ["fit", "nothing.csv.gz", *FIT], "is empty"),
        (1, ["fit", "header.csv", *FIT], "there are no rows"),
        (1, ["score", "header.csv"], "there are no rows"),
        (1, ["report", "header.csv", "-o", "o.html"], "there are no rows"),
        (1, ["jacobian", "rows0.npy", "-o", "parts"], "there are no rows"),
        (1, ["score", "rows0.npy", "--missing", "marginalise"], "there are no rows"),
        (1, ["jacobian", "columns0.npy", "-o", "o.csv"], "there are no columns"),
        (1, ["fit", "columns0.npy", *FIT], "there are no columns"),
        (3, ["fit", "one.csv", *FIT], "one row has no variance"),
        (3, ["score", "one.csv"], "one row has no variance"),
        (1, ["fit", "twice.csv", *FIT], "'a' occurs more than once"),
        (1, ["fit", "broken.csv.gz", *FIT], "cannot be read"),
        (1, ["fit", "plain.csv.gz", *FIT], "cannot be read"),
        (1, ["fit", "wide.csv", *FIT], "not in UTF-8"),
        (1, ["fit", "broken.parquet", *FIT], "cannot be read"),
        (1, ["fit", "empty.npy", *FIT], "cannot be read"),
        (1, ["fit", "large.parquet", *FIT], "large.parquet: 'a' is 9007199254740993 at row 1"),
        (1, ["score", "ok.csv", "--mean", "large_mean.parquet", "--covariance", "cov.csv"], "large_mean.parquet: 'a' is 90071"),
        (1, ["fit", "folder", *FIT], "has no .parquet files"),
        (1, ["fit", "folder.csv", *FIT], "has no .parquet files"),
        (1, ["fit", "dangling.csv", *FIT], "no such file"),
        (1, ["fit", "", *FIT], "'': no such file"),
        (1, ["fit", "absent/x.csv", *FIT], "no such file"),
        (1, ["fit", "ok.csv/x.csv", *FIT], "is not a valid path"),
        (1, ["fit", "x" * 300 + ".csv", *FIT], "File name too long"),
        (2, ["fit", "ok.txt", "-o", "ok.csv"], "a model is a .safetensors file"),
        (1, ["fit", "ok.csv", "-o", "folder.safetensors"], "is a folder; expected a file name"),
        (1, ["fit", "ok.csv", "-o", "absent/o.safetensors"], "the folder absent does not exist"),
        (1, ["report", "ok.csv", "-o", "folder.html"], "is a folder; expected a file name"),
        (1, ["jacobian", "ok.csv", "-o", "absent/o.csv"], "the folder absent does not exist"),
        (1, ["jacobian", "ok.csv", "-o", "absent/parts"], "the folder cannot be created"),
        (1, ["jacobian", "ok.csv", "-o", "mean.csv/parts"], "is not a valid path"),
        (1, ["jacobian", "ok.csv", "-o", "x" * 300 + ".csv"], "File name too long"),
        (2, ["jacobian", "ok.csv", "-o", "ok.csv", "--force"], "is an input of this command"),
        (2, ["jacobian", "ok.csv", "-o", "mean.csv"], "exists already"),
        (2, ["jacobian", "ok.csv", "-o", "o.xyz"], "unknown suffix"),
        (2, ["jacobian", "ok.csv", "-o", "o.csv", "--wrt", "mean,mean"], "'mean' is given twice"),
        (2, ["score", "ok.csv", "--wrt", "zz"], "There is no parameter 'zz'"),
        (2, ["score", "ok.csv", "--columns", "a,a"], "given twice"),
        (1, ["score", "ok.csv", "--model", "broken.safetensors"], "cannot be read"),
        (1, ["score", "ok.csv", "--model", "folder"], "cannot be read"),
        (1, ["score", "ok.csv", "--keep", "ok.csv", "--resume"], "ok.csv"),
        (1, ["verify", "ok.csv"], "ok.csv: is a file; expected a folder of parts"),
        (1, ["verify", "absent"], "there is no such folder"),
        (1, ["verify", ""], "there is no such folder"),
        (1, ["verify", "folder"], "has no _manifest.json"),
        (1, ["verify", "ok.csv/x"], "is not a valid path"),
    ],
)
def test_a_sentence_and_an_exit_code(here: Path, code: int, arguments: list[str], says: str, capsys) -> None:
    before = set(here.iterdir())
    found, _, said = run(*arguments, capsys=capsys)
    assert found == code, said
    assert says in said
    assert said.startswith("mvnjac: ")
    assert len(said.strip().splitlines()) == 1, said
    assert set(here.iterdir()) - before <= {here / "parts"}


@pytest.mark.parametrize("name", ["mark.csv", "windows.csv", "column.csv"])
def test_a_mark_of_bytes_windows_lines_and_a_single_column_are_read(here: Path, name: str, capsys) -> None:
    code, _, said = run("fit", name, *FIT, capsys=capsys)
    assert code == 0, said
    assert ("of 1 variable, 3 rows" if name == "column.csv" else "of 2 variables, 30 rows: log-likelihood -72.77") in said


def test_a_count_of_one_is_one(here: Path, capsys) -> None:
    _, _, said = run("jacobian", "one.csv", "--mean", "mean.csv", "--covariance", "cov.csv", "-o", "parts", capsys=capsys)
    assert "parts: 1 row, 5 columns each, 1 part, " in said
    _, printed, _ = run("verify", "parts", capsys=capsys)
    assert "1 part, 1 row." in printed
