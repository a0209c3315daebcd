"""Parts of a report: markup, formatted numbers, ticks, and the order of rows."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac import inference
from mvnjac.report.analysis.load_rows import sortable
from mvnjac.report.html import axes, formatting
from mvnjac.report.html.markup import Markup, tag


def test_only_markup_is_not_escaped() -> None:
    assert tag("p", "a < b", Markup("<b>c</b>"), title='"&') == '<p title="&quot;&amp;">a &lt; b<b>c</b></p>'
    assert tag("link", rel="icon", href=None) == '<link rel="icon">'


def test_numbers_as_people_read_them() -> None:
    assert [formatting.short(v) for v in (0.0, -1.23456, 123456.7, 1.2e-7, 3e12, float("nan"))] == [
        "0", "−1.23", "123,457", "1.2e−7", "3e+12", "–",
    ]  # fmt: skip
    assert [formatting.probability(p) for p in (0.0, 0.04567, 1.0)] == ["< 1e−15", "0.0457", "1"]


def test_ticks() -> None:
    assert axes.number_ticks(3.2) == [0, 1, 2, 3]
    assert axes.number_ticks(0.0) == [0.0]
    assert axes.decades(0.02, 300) == pytest.approx([0.1, 1, 10, 100])
    assert axes.decades(0.3, 7) == pytest.approx([0.5, 1, 2, 5])
    days = [str(day)[:10] for day in pd.date_range("2001-05-01", "2021-05-01", freq="7D")]
    years = axes.row_ticks(days, 480)
    assert [text for _, text in years] == [str(year) for year in range(2002, 2022, 2)]
    assert all(days[row][:4] == text and days[row - 1][:4] != text for row, text in years)
    assert [row for row, _ in axes.row_ticks(list(range(101)), 300)] == [0, 50, 100]
    assert axes.row_ticks(["only"], 300) == [(0, "only")]


def test_what_can_be_sorted() -> None:
    assert sortable(["2020-01-02", "2020-01-01"])
    assert sortable([3, 1])
    assert not sortable(["30/12/2020", "01/01/2021"])
    assert not sortable([1, None])
    assert not sortable([1.0, float("nan")])


def test_the_line_of_sup_lm_has_its_level() -> None:
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    process = inference.score_process(mvnjac.fit(x).gaussian.jacobian(x))
    from mvnjac.inference import limiting_distributions

    line = process.critical_value(0.05, "sup_lm")
    assert limiting_distributions.supremum_p_value(line, 5, (0.15, 0.85)) == pytest.approx(0.05, rel=1e-6)
    assert process.critical_value(0.05, "sup_lm", 0.3) < line
    with pytest.raises(mvnjac.errors.ArgumentError, match="nyblom"):
        process.critical_value(0.05, "nyblom_hansen")
