"""Text tables as they come: separators, numbers, headers, comments, encodings, dates, compression, folders."""

from __future__ import annotations

import bz2
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mvnjac.errors import TableError, TableWarning, UsageError
from mvnjac.tables.base import open_source
from mvnjac.tables.formats import csv
from mvnjac.tables.reading import MISSING, ReadOptions
from mvnjac.tables.rows import tensor_batches
from mvnjac.tables.text.layout import joined_names

GERMAN = "Datum;A;B\n31.01.2020;1.000,5;7,1\n29.02.2020;1.100,25;8,2\n"
GERMAN_OPTIONS = ReadOptions(decimal=",", thousands=".")
YAHOO = (
    "Price,Close,Close,High,High\nTicker,AAPL,MSFT,AAPL,MSFT\nDate,,,,\n2020-01-02,72.5,153.3,73,154\n2020-01-03,71.5,,74,155\n"
)


def file(folder: Path, text: str | bytes, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return folder / name


def read(
    path: Path, options: ReadOptions | None = None, index: str | None = None
) -> tuple[list[str], str | None, list[list[float]]]:
    source = open_source(path, index, options)
    key = index or source.recognised_index(None)
    source.use_index(key)
    names = source.variables(None, key)
    x = torch.cat([rows.x for rows in tensor_batches(source, names, key, allow_missing=True)])
    return names, key, x.tolist()


def labels(path: Path, options: ReadOptions | None = None) -> list[str]:
    source = open_source(path, None, options)
    key = source.recognised_index(None)
    assert key is not None
    source.use_index(key)
    found = pa.chunked_array([batch.column(0) for batch in source.batches([key])])
    assert found.type == source.schema.field(key).type
    return [str(value) for value in found]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_detected(tmp_path: Path, separator: str) -> None:
    text = 'day,"a,b;c",d\n2020-01-01,1.5,2\n2020-01-02,2.5,3\n'.replace('"a,b;c"', "\0").replace(",", separator)
    path = file(tmp_path, text.replace("\0", '"a,b;c|x\ty"'))
    assert read(path) == (["a,b;c|x\ty", "d"], "day", [[1.5, 2.0], [2.5, 3.0]])


def test_decimal_commas(tmp_path: Path) -> None:
    path = file(tmp_path, GERMAN)
    assert read(path, GERMAN_OPTIONS) == (["A", "B"], "Datum", [[1000.5, 7.1], [1100.25, 8.2]])
    assert labels(path, GERMAN_OPTIONS) == ["2020-01-31", "2020-02-29"]
    with pytest.raises(TableError, match=r"'A' is '1\.000,5' at row 1, which is not a number; use --decimal , --thousands \."):
        read(path)
    simple = file(tmp_path, "a;b\n1,5;2\n2,5;3\n")
    assert read(simple, ReadOptions(decimal=",")) == (["a", "b"], None, [[1.5, 2.0], [2.5, 3.0]])
    with pytest.raises(TableError, match=r"'a' is '1,5' at row 1, which is not a number; use --decimal ,\."):
        read(simple)
    assert read(file(tmp_path, "a\n1,5\n2,5\n"), ReadOptions(decimal=",")) == (["a"], None, [[1.5], [2.5]])


@pytest.mark.parametrize(
    ("cell", "options", "value"),
    [
        ('"1,234.5"', {"thousands": ","}, 1234.5),
        ('"12,34,567"', {"thousands": ","}, 1234567.0),
        ("1'234.5", {"thousands": "'"}, 1234.5),
        ("1\u00a0234", {"thousands": " "}, 1234.0),
        ("1.1%", {"percent": True}, 0.011),
        ("-2 %", {"percent": True}, -0.02),
        (" +1.5 ", {}, 1.5),
        ("\u22121.5e-3", {}, -0.0015),
    ],
)
def test_numbers_as_text(tmp_path: Path, cell: str, options: dict, value: float) -> None:
    path = file(tmp_path, f"a;b\n{cell};1\n NA ;2\n")
    _, _, x = read(path, ReadOptions(**options))
    assert x[0][0] == value, "as the nearest float64, not as a quotient of rounded numbers"
    assert np.isnan(x[1][0])


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("1,234.5", "use --thousands ,"),
        ("1,234", "use --decimal , if the comma is a decimal point, or --thousands , if it groups digits"),
        ("1.234.567,8", "use --decimal , --thousands ."),
        ("1.5%", "use --percent"),
        ("1,5%", "use --percent --decimal ,"),
        ("1 234", "use --thousands ' '"),
        ("n.v.", "if it means a missing value, use --missing-values 'n.v.'"),
        ("1 2 3", "use --separator space"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_cell_that_is_no_number_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str, hint: str, late: bool
) -> None:
    """In the first block, which determines the types, and after it."""
    monkeypatch.setattr(csv, "_BLOCK", 64)
    before = 100 if late else 1
    path = file(tmp_path, "a;b\n" + "1;2\n" * before + f"1;{cell}\n")
    with pytest.raises(TableError) as raised:
        read(path)
    assert f"t.csv: 'b' is '{cell}' at row {before + 1}, which is not a number; {hint}" in str(raised.value)


def test_the_option_for_a_column_that_begins_with_other_text(tmp_path: Path) -> None:
    path = file(tmp_path, "a;b\nn/v;1\n1,5;2\n")
    with pytest.raises(TableError, match="'a' is '1,5' at row 2, which is not a number; use --decimal ,"):
        read(path)
    with pytest.raises(TableError, match="'a' is 'n/v' at row 1, which is not a number; if it means a missing value"):
        read(path, ReadOptions(decimal=","))
    with pytest.raises(TableError, match=r"column 'a' is not numeric \(string\)"):
        read(file(tmp_path, "a;b\nx;1\ny;2\n"))


def test_grouped_digits_and_percent_signs_are_checked(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"'a' is '1,23' at row 2"):
        read(file(tmp_path, 'a\n"1,234"\n"1,23"\n'), ReadOptions(thousands=","))
    with pytest.raises(TableError, match="'a' is '2' at row 2, without the percent sign of other cells"):
        read(file(tmp_path, "a,b\n1%,2\n2,3\n"), ReadOptions(percent=True))
    assert read(file(tmp_path, "a,b\n1%,2\n0,3\n"), ReadOptions(percent=True))[2] == [[0.01, 2.0], [0.0, 3.0]]


def test_missing_values(tmp_path: Path) -> None:
    rows = "".join(f'"{token}",1,2\n' for token in MISSING)
    _, _, x = read(file(tmp_path, f"a,b,c\n1,2,3\n{rows}5,-999,-999.0\n"), ReadOptions(missing_values=("-999",)))
    assert np.isnan(x[1:-1]).sum() == len(MISSING)
    assert np.isnan(x[-1]).tolist() == [False, True, True], "numbers are compared by value"


def test_comments_skipped_rows_and_no_header(tmp_path: Path) -> None:
    text = "# made by hand\n\n# on Monday\na|b\n1|2\n # in the middle\n3|4\n"
    path = file(tmp_path, text)
    assert read(path, ReadOptions(comment="#")) == (["a", "b"], None, [[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(TableError, match=r"the first line '# made by hand' is not divided into fields.*--comment '#'"):
        read(path)
    assert read(file(tmp_path, "A title\n\na;b\n1;2\n"), ReadOptions(skip_rows=1)) == (["a", "b"], None, [[1.0, 2.0]])
    with pytest.raises(TableError, match=r"numbers; expected a header of column names.*--header-rows 0"):
        read(file(tmp_path, "1.5,2.5\n2,3\n"))
    assert read(file(tmp_path, "1.5,2.5\n2,3\n"), ReadOptions(header_rows=0)) == (["0", "1"], None, [[1.5, 2.5], [2.0, 3.0]])
    with pytest.raises(UsageError, match="--skip-rows 9"):
        read(path, ReadOptions(skip_rows=9))


def test_a_header_of_several_rows(tmp_path: Path) -> None:
    path = file(tmp_path, YAHOO)
    names, key, x = read(path, ReadOptions(header_rows=3))
    assert (names, key, x[0]) == (["Close AAPL", "Close MSFT", "High AAPL", "High MSFT"], "Date", [72.5, 153.3, 73.0, 154.0])
    with pytest.raises(TableError, match=r"the 2 rows below the header are text \('Close' is 'AAPL'\).*--header-rows 3"):
        read(path)
    assert joined_names([["Price", "Close", "Close"], ["Ticker", "A", "B"], ["Date", "", ""]]) == (["Date", "A", "B"], True)
    assert joined_names([["Price", "Close"], ["Ticker", "A"], ["Date", ""]]) == (["Date", "A"], True)
    assert joined_names([["", "Close", "", "High", ""], ["d", "A", "B", "A", "B"]]) == (
        ["d", "Close A", "Close B", "High A", "High B"],
        False,
    )
    assert joined_names([["a", "b"], ["m", "m"]]) == (["a", "b"], False)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-8-sig"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = file(tmp_path, "Tag;Größe\n2020-01-01;1\n2020-01-02;2\n", encoding=encoding)
    assert read(path, ReadOptions(encoding=encoding)) == (["Größe"], "Tag", [[1.0], [2.0]])
    if encoding in ("latin-1", "utf-16"):
        with pytest.raises(TableError, match=f"not in UTF-8; name the encoding.*--encoding {encoding}"):
            read(path)


def test_labels_in_another_encoding(tmp_path: Path) -> None:
    path = file(tmp_path, "k,b\nä,2\n", encoding="latin-1")
    with pytest.raises(TableError, match="not in the encoding utf-8; name the encoding"):
        read(path, index="k")
    assert read(path, ReadOptions(encoding="latin-1"), index="k") == (["b"], "k", [[2.0]])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2020-01-31", "2020-02-29"], ["2020-01-31", "2020-02-29"]),
        (["31.01.2020", "29.02.2020"], ["2020-01-31", "2020-02-29"]),
        (["1/31/2020", "2/29/2020"], ["2020-01-31", "2020-02-29"]),
        (["31/1/2020", "29/2/2020"], ["2020-01-31", "2020-02-29"]),
        (["31-Jan-2020", "29-Feb-2020"], ["2020-01-31", "2020-02-29"]),
        (["20200131", "20200229"], ["2020-01-31", "2020-02-29"]),
        (["31.01.2020 16:30", "29.02.2020 16:30"], ["2020-01-31 16:30:00", "2020-02-29 16:30:00"]),
        (["2020-01-31 16:30:00", "2020-02-29 16:30:00"], ["2020-01-31 16:30:00", "2020-02-29 16:30:00"]),
        (["202001", "202002"], ["202001", "202002"]),
        (["2020Q1", "2020Q2"], ["2020Q1", "2020Q2"]),
    ],
)
def test_a_first_column_of_dates_labels_the_rows(tmp_path: Path, cells: list[str], expected: list[str]) -> None:
    path = file(tmp_path, "when,a\n" + "".join(f"{cell},1\n" for cell in cells))
    assert labels(path) == expected
    assert read(path)[:2] == (["a"], "when")
    unnamed = file(tmp_path, ",a\n" + "".join(f"{cell},1\n" for cell in cells))
    assert read(unnamed)[:2] == (["a"], "index")


@pytest.mark.parametrize("cells", [["20200131", "20200131"], ["20201331", "20201332"], ["5", "6"], ["1.5", "2.5"]])
def test_numbers_are_not_dates(tmp_path: Path, cells: list[str]) -> None:
    names, key, _ = read(file(tmp_path, "x,a\n" + "".join(f"{cell},1\n" for cell in cells)))
    assert (names, key) == (["x", "a"], None)


def test_ambiguous_dates(tmp_path: Path) -> None:
    path = file(tmp_path, "day,a\n01/02/2020,1\n02/02/2020,2\n")
    with pytest.warns(TableWarning, match=r"could be %d/%m/%Y or %m/%d/%Y, and remain text; name their format"):
        assert labels(path) == ["01/02/2020", "02/02/2020"]
    assert labels(path, ReadOptions(date_format="%d/%m/%Y")) == ["2020-02-01", "2020-02-02"]
    with pytest.raises(TableError, match="--date-format is '%Y/%m/%d', but the first column 'day' is '01/02/2020'"):
        labels(path, ReadOptions(date_format="%Y/%m/%d"))
    second = open_source(file(tmp_path, "a,day\n1,01/02/2020\n"), "day", ReadOptions(date_format="%d/%m/%Y"))
    assert [str(batch.column(1)[0]) for batch in second.batches(["a", "day"])] == ["2020-02-01"]


@pytest.mark.parametrize("suffix", [".csv.bz2", ".csv.zst", ".csv.zip", ".zip", ".tsv", ".txt", ".txt.gz"])
def test_other_suffixes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    if suffix.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/de.csv", GERMAN)
            archive.writestr("__MACOSX/de.csv", "")
    elif suffix.endswith(".bz2"):
        path.write_bytes(bz2.compress(GERMAN.encode()))
    elif suffix.endswith((".zst", ".gz")):
        with pa.output_stream(str(path), compression="zstd" if suffix.endswith("zst") else "gzip") as stream:
            stream.write(GERMAN.encode())
    else:
        path.write_text(GERMAN)
    assert read(path, GERMAN_OPTIONS)[2] == [[1000.5, 7.1], [1100.25, 8.2]]
    assert len(open_source(path, None, GERMAN_OPTIONS).slices(1)) == 1


def test_archives_that_cannot_be_used(tmp_path: Path) -> None:
    for names, message in ([], "is empty"), (["a.csv", "b.csv"], "holds 2 files"), (["a.xls"], "expected a text table"):
        with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
            for name in names:
                archive.writestr(name, GERMAN)
        with pytest.raises(TableError, match=message):
            read(tmp_path / "t.zip")
    (tmp_path / "t.zip").write_bytes(b"junk")
    with pytest.raises(TableError, match="the archive cannot be read"):
        read(tmp_path / "t.zip")


def big(n: int) -> str:
    """Rows whose numbers need options, with comments and blank lines between them."""
    rows = [f"{i // 12 + 1900}-{i % 12 + 1:02d}-01;1.{i:03d},5;{i},25%\n" for i in range(n)]
    return "# head\nday;a;ä\n" + "".join(row + ("# no row\n\n" if i % 7 == 3 else "") for i, row in enumerate(rows))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_slices_with_options_are_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    monkeypatch.setattr(csv, "_BLOCK", 64)
    path = file(tmp_path, big(200), encoding=encoding)
    source = open_source(path, "day", ReadOptions(decimal=",", thousands=".", comment="#", percent=True, encoding=encoding))
    slices = source.slices(20)
    assert (len(slices) > 3) == (encoding != "utf-16")
    options = source.settled()
    parts = [rows for at in slices for rows in tensor_batches(open_source(at.path, "day", options), ["a", "ä"], "day", at=at)]
    x = torch.cat([rows.x for rows in parts]).numpy()
    np.testing.assert_array_equal(x[:, 0], 1000.5 + np.arange(200))
    np.testing.assert_array_equal(x[:, 1], [float(f"{i}.25e-2") for i in range(200)])
    assert len({str(label) for rows in parts for label in rows.index}) == 200


def test_rows_of_a_slice_are_counted_without_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "_BLOCK", 64)
    path = file(tmp_path, big(200).replace("1.190,5", "bad"))
    source = open_source(path, "day", ReadOptions(decimal=",", thousands=".", comment="#", percent=True))
    last = source.slices(20)[-1]
    with pytest.raises(TableError, match="'a' is 'bad' at row 191, which is not a number"):
        list(tensor_batches(source, ["a", "ä"], "day", at=last))


def test_a_folder_of_text_tables(tmp_path: Path) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    file(folder, "day;a\n31.01.2020;1,5\n", "1.csv")
    file(folder, "day;a\n01.02.2020;2\n02.02.2020;\n", "2.csv")
    file(folder, "", ".3.csv")
    options = ReadOptions(decimal=",")
    names, key, x = read(folder, options)
    assert (names, key) == (["a"], "day")
    np.testing.assert_array_equal(x, [[1.5], [2.0], [np.nan]])
    assert labels(folder, options) == ["2020-01-31", "2020-02-01", "2020-02-02"]
    source = open_source(folder, "day", options)
    assert [Path(path).name for path in source.inputs()] == ["1.csv", "2.csv"]
    parts = [open_source(at.path, "day", source.settled()).batches(["day", "a"], at) for at in source.slices(1)]
    assert [str(batch.column(0)[0]) for part in parts for batch in part] == ["2020-01-31", "2020-02-01"]
    with pytest.raises(TableError, match=r"1\.csv: 'a' is '1,5' at row 1"):
        read(folder)
    file(folder, "day;b\n31.01.2020;1\n", "4.csv")
    with pytest.raises(TableError, match=r"4\.csv: differs in the column '[ab]' from 1\.csv"):
        read(folder, options)
    file(folder, "notes", "4.doc")
    with pytest.raises(TableError, match=r"holds '4\.doc' besides text tables"):
        read(folder, options)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("separator", ";;", "expected one ASCII character"),
        ("decimal", ";", "expected . or ,"),
        ("thousands", "1", "expected one character"),
        ("thousands", ".", "must differ"),
        ("header_rows", -1, "0 or more"),
        ("comment", " ", "characters that comments begin with"),
        ("encoding", "utf-99", "is unknown"),
        ("date_format", "day", "expected a format such as"),
    ],
)
def test_invalid_options(option: str, value: object, says: str) -> None:
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')}.*{says}"):
        ReadOptions(**{option: value})


def test_options_that_do_not_apply(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.zeros((2, 2)))
    with pytest.raises(UsageError, match=r"--header-rows does not apply to .*t\.npy"):
        open_source(tmp_path / "t.npy", None, ReadOptions(header_rows=2))
    assert open_source(tmp_path / "t.npy", None, ReadOptions(exclude=("0",))).variables(None, None) == ["1"]


def test_excluded_columns(tmp_path: Path) -> None:
    path = file(tmp_path, "day,name,a\n2020-01-01,x,1\n")
    source = open_source(path, None, ReadOptions(exclude=("name", "day")))
    assert source.recognised_index(None) is None
    assert source.variables(None, None) == ["a"]
    with pytest.raises(UsageError, match="both selected and excluded"):
        source.variables(["name"], None)
    with pytest.raises(UsageError, match=r"no column 'nam'\. Did you mean 'name'"):
        open_source(path, None, ReadOptions(exclude=("nam",))).variables(None, None)
