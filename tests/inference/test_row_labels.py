"""Labels of rows for clusters and sorting: missing, mixed, in any container, and text that does not sort chronologically."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import mvnjac
from mvnjac import inference
from mvnjac.errors import ArgumentError, ShapeError, TableError
from mvnjac.tables.base import open_source
from mvnjac.tables.chronology import sorts_in_time
from mvnjac.tables.sorting import Ordered

N = 24
#: rows without a label in the tests below
GAPS = (3, 7, 8)
GROUPS = [i // 4 for i in range(N)]
DAYS = [datetime.datetime(2020, 1, 1) + datetime.timedelta(days=i // 4) for i in range(N)]


@pytest.fixture(scope="module")
def J() -> mvnjac.Jacobian:
    x = torch.randn(N, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return mvnjac.fit(x).gaussian.jacobian(x)


def clustered(J: mvnjac.Jacobian, clusters: Any) -> inference.Estimates:
    return inference.covariance_of_estimates(J, "clustered", clusters=clusters)


def holed(labels: list[Any], gap: Any) -> list[Any]:
    return [gap if i in GAPS else label for i, label in enumerate(labels)]


TEXT = [f"g{group}" for group in GROUPS]
FLOATS = [float(group) for group in GROUPS]
CONTAINERS: dict[str, Callable[[], Any]] = {
    "list with None": lambda: holed(TEXT, None),
    "tuple with None": lambda: tuple(holed(TEXT, None)),
    "list with one NaN object": lambda: holed(FLOATS, float("nan")),
    "list with separate NaNs": lambda: [float("nan") if i in GAPS else label for i, label in enumerate(FLOATS)],
    "list with NaT": lambda: holed(DAYS, pd.NaT),
    "list with pandas' NA": lambda: holed(GROUPS, pd.NA),
    "list with empty text": lambda: holed(TEXT, " "),
    "list of Decimals": lambda: holed([Decimal(group) for group in GROUPS], Decimal("sNaN")),
    "array of floats": lambda: np.array(holed(FLOATS, np.nan)),
    "array of objects": lambda: np.array(holed(TEXT, None), dtype=object),
    "array of dates": lambda: np.array(holed(DAYS, "NaT"), dtype="datetime64[us]"),
    "array of text": lambda: np.array(holed(FLOATS, np.nan)).astype(str),
    "masked array": lambda: np.ma.masked_array(GROUPS, [i in GAPS for i in range(N)]),
    "tensor": lambda: torch.tensor(holed(FLOATS, float("nan"))),
    "list of tensors": lambda: list(torch.tensor(holed(FLOATS, float("nan")))),
    "Series of floats": lambda: pd.Series(holed(FLOATS, np.nan)),
    "Series of text": lambda: pd.Series(holed(TEXT, np.nan), dtype="string"),
    "Series of nullable integers": lambda: pd.Series(holed(GROUPS, pd.NA), dtype="Int64"),
    "Series of dates": lambda: pd.Series(pd.to_datetime(holed(DAYS, None))),
    "Series of categories": lambda: pd.Series(pd.Categorical(holed(TEXT, None))),
    "Categorical": lambda: pd.Categorical(holed(TEXT, None)),
    "Index": lambda: pd.Index(holed(TEXT, None)),
    "Arrow text": lambda: pa.array(holed(TEXT, None)),
    "Arrow integers": lambda: pa.chunked_array([holed(GROUPS, None)]),
    "Arrow dictionary": lambda: pa.array(holed(TEXT, None)).dictionary_encode(),
    "Arrow scalars": lambda: list(pa.array(holed(GROUPS, None))),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_missing_labels_are_counted_in_any_container(J: mvnjac.Jacobian, container: str) -> None:
    words = r"clusters has no value in 3 of 24 rows \(counted from 0: 3, 7, 8\)"
    with pytest.raises(ArgumentError, match=words):
        clustered(J, CONTAINERS[container]())
    with pytest.raises(ArgumentError, match="order_by has no value in 3 of 24 rows"):
        inference.covariance_of_estimates(J, "hac", order_by=CONTAINERS[container]())
    with pytest.raises(ArgumentError, match="dates has no value in 3 of 24 rows"):
        inference.score_process(J, dates=CONTAINERS[container]())


@pytest.mark.parametrize(
    "labels",
    [
        TEXT,
        tuple(TEXT),
        np.array(GROUPS),
        np.array(TEXT),
        np.array(DAYS, dtype="datetime64[s]"),
        torch.tensor(GROUPS),
        list(torch.tensor(GROUPS)),
        pd.Series(DAYS),
        pd.Series(TEXT, dtype="category"),
        pd.Series(GROUPS, dtype="Int64"),
        pa.array(TEXT).dictionary_encode(),
        list(pa.array(GROUPS)),
        pa.chunked_array([GROUPS]),
        [-0.0 if i % 2 else 0.0 for i in range(4)] + FLOATS[4:],
        np.array(GROUPS)[:, None],
        pa.table({"g": TEXT}),
        {"g": TEXT},
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_the_same_groups_in_any_container(J: mvnjac.Jacobian, labels: Any) -> None:
    """By the definition: A⁻¹ Σ_g s_g s_gᵀ A⁻¹ G/(G − 1)."""
    scores, A = J.matrix(), inference.covariance_of_estimates(J, "observed").covariance
    sums = scores.reshape(6, 4, -1).sum(1)
    torch.testing.assert_close(clustered(J, labels).covariance, 6 / 5 * A @ sums.mT @ sums @ A)


def test_ways_in_the_columns_of_tables(J: mvnjac.Jacobian) -> None:
    other = [i % 6 for i in range(N)]
    expected = clustered(J, [GROUPS, other]).covariance
    frame = pd.DataFrame([GROUPS, other]).T
    frame.columns = ["g", "g"]  # pandas allows equal names
    for ways in (frame, pa.table({"g": GROUPS, "h": other}), np.stack([GROUPS, other], 1), torch.tensor([GROUPS, other]).mT):
        torch.testing.assert_close(clustered(J, ways).covariance, expected)
    with pytest.raises(ArgumentError, match=r"clusters\['h'\] has no value in 3 of 24"):
        clustered(J, {"g": GROUPS, "h": holed(other, None)})
    with pytest.raises(ShapeError, match=r"clusters\[1\] has 2 entries; expected one a row: 24"):
        clustered(J, [GROUPS, [1, 2]])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, "1"] * 12, r"mixes numbers \(1 in row 0\) and text \('1' in row 1\)"),
        ([1, True] * 12, r"mixes numbers .* and truth values"),
        ([datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1)] * 12, "mixes date objects"),
        ([datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)] * 12, "with a time zone"),
        ("a" * N, "clusters is a str; expected a sequence of labels"),
        (set(range(N)), "clusters is a set"),
        (5, "clusters is a int"),
        (np.zeros((N, 2, 2)), r"clusters is an array of shape \(24, 2, 2\)"),
        ([{"a": 1}] * N, "has 1 entry|a dict in row 0"),
        (np.array([{} for _ in range(N)], dtype=object), "has a dict in row 0"),
        ([], "has 0 entries"),
        ({}, "clusters is empty"),
    ],
)
def test_labels_that_cannot_tell_rows_apart(J: mvnjac.Jacobian, labels: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        clustered(J, labels)


# --- order -----------------------------------------------------------------------------------------------------------


def order(J: mvnjac.Jacobian, dates: Any) -> list[int]:
    return list(inference.score_process(J, dates=dates).row_numbers)


DATES = pd.date_range("2019-12-20", periods=N, freq="17D")
SHUFFLE = [(5 * i + 3) % N for i in range(N)]


@pytest.mark.parametrize(
    "form", ["%d/%m/%Y", "%m/%d/%y", "%d%m%Y", "%B %d, %Y", "%Y-%b-%d", "%d.%m.%Y", "%Y-%d-%m", "%Y-%m-%d %I:%M %p"]
)
def test_text_that_does_not_sort_in_time_is_refused(J: mvnjac.Jacobian, form: str) -> None:
    dates = DATES[SHUFFLE].strftime(form)
    with pytest.raises(ArgumentError, match=r"dates is text such as .* Write it as YYYY-MM-DD"):
        order(J, dates)
    with pytest.raises(ArgumentError, match="order_by is text such as"):
        inference.covariance_of_estimates(J, "hac", order_by=dates)
    with pytest.raises(ArgumentError, match="order_by is text such as"):
        inference.scores_covariance(J, order_by=list(dates))


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y%m%d", "%Y/%m/%d", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+01:00", "%Y-%j"])
def test_text_with_the_year_first_sorts(J: mvnjac.Jacobian, form: str) -> None:
    expected = np.argsort(DATES[SHUFFLE]).tolist()
    assert order(J, DATES[SHUFFLE].strftime(form)) == expected
    assert order(J, pa.array(DATES[SHUFFLE].strftime(form).tolist())) == expected


def test_other_labels_with_an_order(J: mvnjac.Jacobian) -> None:
    expected = np.argsort(SHUFFLE).tolist()
    categories = pd.Categorical.from_codes(SHUFFLE, [f"step {i}" for i in range(N)], ordered=True)
    stamps = DATES[SHUFFLE]
    for labels in (
        SHUFFLE,
        np.array(SHUFFLE),
        torch.tensor(SHUFFLE),
        categories,
        pd.Series(categories),
        pd.CategoricalIndex(categories),
        stamps,
        stamps.to_numpy(),
        pd.Series(stamps),
        stamps.tz_localize("Europe/Zurich"),
        stamps.to_period("D"),
        pa.array(stamps.to_pydatetime().tolist()),
        iter(SHUFFLE),
    ):
        assert order(J, labels) == expected, type(labels)
    zones = [stamp.tz_localize("UTC").tz_convert(zone) for stamp, zone in zip(stamps, ["Asia/Tokyo", "UTC"] * 12, strict=True)]
    assert order(J, zones) == expected  # instants


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([str(i) for i in range(N)], "text such as '0'"),  # "10" comes before "9"
        (pd.Categorical([str(i) for i in range(N)]), "text such as '0'"),
        (
            DATES[SHUFFLE].strftime("%Y-%m-%dT%H:%M:%S").to_numpy() + np.array(["+01:00", "+02:00"] * 12, dtype=object),
            "text such as",
        ),
        ([1j * i for i in SHUFFLE], "without an order"),
        ([1, "a"] * 12, "mixes numbers"),
        ([stamp.tz_localize("UTC") if i % 2 else stamp for i, stamp in enumerate(DATES)], "mixes dates with a time"),
        (np.zeros((N, 1)), "array of shape"),
        (range(3), "3 entries"),
    ],
)
def test_labels_without_an_order(J: mvnjac.Jacobian, labels: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        order(J, labels)


def test_rows_in_order_may_be_text_of_any_form_and_repeat(J: mvnjac.Jacobian) -> None:
    assert order(J, [f"{i:02d}/01/2020" for i in range(1, N + 1)]) == list(range(N))
    panel = [i % 12 for i in range(N)]  # two series, one below the other
    assert order(J, panel)[:4] == [0, 12, 1, 13]
    with pytest.raises(ArgumentError, match=r"order_by has 0 in 2 rows, and the rows are not in ascending order"):
        inference.covariance_of_estimates(J, "hac", order_by=panel)
    days = inference.covariance_of_estimates(J, "hac", order_by=sorted(panel)).covariance
    torch.testing.assert_close(days, inference.covariance_of_estimates(J, "hac").covariance)


def test_the_command_line_has_the_same_rule(tmp_path: Any) -> None:
    stamps = DATES[SHUFFLE]
    for i, (form, sorts) in enumerate({"%Y-%m-%d": True, "%d%m%Y": False, "%Y-%b-%d": False, "%d/%m/%Y": False}.items()):
        for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
            path = tmp_path / f"{i}.arrow"
            texts = stamps.strftime(form).tolist()
            assert sorts_in_time(texts) is sorts
            table = pa.table({"day": pa.array(texts).cast(kind), "a": np.arange(float(N))})
            with pa.ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table)
            if sorts:
                rows = pa.Table.from_batches(Ordered(open_source(path, "day"), "day").batches(["a"]))
                assert rows["a"].to_pylist() == np.argsort(stamps).tolist()
            else:
                with pytest.raises(TableError, match="is text such as"):
                    Ordered(open_source(path, "day"), "day")
