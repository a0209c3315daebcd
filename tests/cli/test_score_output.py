"""The table of `mvnjac score`: it fits the width, says what it leaves out, and names parameters in words."""

from __future__ import annotations

import itertools
import math

import pytest
from rich.cells import cell_len

from mvnjac.cli.layout import cut, joined, number
from mvnjac.cli.options import Format
from mvnjac.cli.score_output import for_people, formatted
from mvnjac.jobs.total_scores import ScoreTable

VARIABLES = ["USD", "BRK,B", "Johnson & Johnson", "三菱UFJ", "Deutsche Telekom AG Namens-Aktien"]


def table(at_estimate: bool = True, kinds: tuple[str, ...] = ("expected", "sandwich"), variables: int = 5) -> ScoreTable:
    used = VARIABLES[:variables]
    pairs = list(itertools.combinations_with_replacement(used, 2))
    names = [*(f"mean[{a}]" for a in used), *(f"covariance_matrix[{b},{a}]" for a, b in pairs)]
    words = [f"mean of {a}" for a in used] + [f"variance of {a}" if a == b else f"covariance of {a} and {b}" for a, b in pairs]
    k = len(names)
    estimate = [-1.234567e-5 * (-1.7) ** i for i in range(k)]
    errors = {kind: [abs(v) / (i + 1) for i, v in enumerate(estimate)] for kind in kinds}
    return ScoreTable(7125, 226087.7837, names, words, estimate, [1e-9] * k, [2.0] * (k - 1) + [0.0], errors, at_estimate)


@pytest.mark.parametrize("kinds", [("expected", "sandwich"), ("observed",), ("expected", "observed", "sandwich", "hac"), ()])
@pytest.mark.parametrize("at_estimate", [True, False])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int, at_estimate: bool, kinds: tuple[str, ...]) -> None:
    shown = table(at_estimate, kinds)
    lines = for_people(shown, width, 20)
    assert max(map(cell_len, lines)) <= width
    head, rows = lines[:3], lines[3:23]
    assert set(head[2]) == {"-"}
    full = for_people(shown)
    assert width < 60 or {line.split()[0] for line in rows} == {"mean", "variance", "covariance"}
    text = " ".join(lines)
    if sum(map(len, head)) < sum(map(len, full[:3])) * 0.8 and "…" not in text:
        assert "not shown for want of width" in text


def test_at_80_columns_the_table_of_short_names_is_whole() -> None:
    found = ScoreTable(
        7125,
        226087.7837,
        ["covariance_matrix[CHF,USD]", "mean[CHF]"],
        ["covariance of CHF and USD", "mean of CHF"],
        [-1.234567e-5, 2.5e-5],
        [0.0, 0.0],
        [1.0, 1.0],
        {"expected": [2.345678e-7, 1e-4], "sandwich": [3.456789e-7, math.nan]},
        True,
    )
    lines = for_people(found, 80, 2)
    assert lines[:5] == [
        "                                               robust             95 %  interval",
        "parameter                  estimate    error    error      z      from        to",
        "-" * 80,
        "covariance of CHF and USD  -1.23e-5  2.35e-7  3.46e-7  -35.7  -1.30e-5  -1.17e-5",
        "mean of CHF                 2.50e-5  1.00e-4        –      –         –         –",
    ]
    assert "not shown" not in " ".join(lines)


def test_what_is_left_out_is_said() -> None:
    lines = for_people(table(), 60, 170)
    text = " ".join(lines)
    assert "not shown for want of width: error, 95 % interval (" in text
    assert "20 of 170 parameters, those with the largest |z|; --top 170 shows all" in text
    assert "z and the 95 % interval: from the robust error" in text
    assert "covariance of USD and BRK,B" in text
    assert any("…" in line for line in lines)


def test_given_values_are_tested() -> None:
    lines = for_people(table(at_estimate=False, kinds=()), 80, 20)
    assert lines[1].split() == ["parameter", "value", "score", "deviation", "ratio"]
    assert "beyond ±2" in " ".join(lines)
    assert lines[22].split()[-1] == "–", "the ratio to a deviation of 0"


def test_the_largest() -> None:
    whole = table()
    assert whole.largest(20) is whole
    some = whole.largest(3)
    assert some.names == whole.names[:-4:-1], "in descending order of |z|"
    assert some.rows == whole.rows
    given = ScoreTable(9, 1.0, list("abc"), list("abc"), [1.0] * 3, [1.0, -5.0, 0.0], [1.0, 1.0, 0.0], {}, False)
    assert given.largest(2).names == ["b", "a"]


def test_data_have_all_columns_and_the_exact_names() -> None:
    lines = formatted(table(), Format.csv).splitlines()
    assert lines[0] == "parameter,estimate,score,deviation,ratio,expected_error,sandwich_error,z,lower,upper"
    assert lines[7].startswith('"covariance_matrix[BRK,B,USD]",')
    assert len(lines) == 21
    assert "lower" not in formatted(table(at_estimate=False), Format.csv)
    assert '"at_estimate": true' in formatted(table(), Format.json)
    assert max(map(len, formatted(table(), Format.table).splitlines())) > 120, "a file is not cut"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.234567e-5, 3, "1.23e-5"),
        (-1e-300, 4, "-1.000e-300"),
        (123456.0, 3, "1.23e5"),
        (123456.0, 6, "123456"),
        (0.0, 4, "0.000"),
        (2.0, 3, "2.00"),
        (1e5, 1, "1e5"),
        (1e-4, 3, "1.00e-4"),
        (0.00354, 3, "0.00354"),
        (math.nan, 5, "–"),
        (math.inf, 3, "inf"),
        (-math.inf, 3, "-inf"),
    ],
)
def test_numbers(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_texts_are_cut_in_the_middle_with_a_mark() -> None:
    assert cut(["covariance of Alpha and Omega", "short"], 15) == ["covaria…d Omega", "short"]
    for text in ("三菱UFJ三菱UFJ三菱UFJ", "a三菱b三菱c三菱d三菱"):
        for width in range(8, 16):
            (found,) = cut([text], width)
            assert cell_len(found) <= width
            assert "…" in found
    assert [cell_len(line) for line in joined(["三菱", "abcdef"], [["1"], ["22"]])] == [10, 10]
