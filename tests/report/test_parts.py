"""Parts of a report: markup, formatted numbers, ticks, and the order of rows."""

from __future__ import annotations

import pytest
import torch

import mvnjac
from mvnjac import inference
from mvnjac.errors import ArgumentError, MemoryLimitError, NotIdentifiedError, SingularError
from mvnjac.report.analysis.load_rows import sortable
from mvnjac.report.analysis.unavailable import Unavailable, attempt
from mvnjac.report.html import formatting
from mvnjac.report.html.markup import Markup, tag
from mvnjac.report.html.page import kept_together


def test_only_markup_is_not_escaped() -> None:
    assert tag("p", "a < b", Markup("<b>c</b>"), title='"&') == '<p title="&quot;&amp;">a &lt; b<b>c</b></p>'
    assert tag("link", rel="icon", href=None) == '<link rel="icon">'


def test_numbers_as_people_read_them() -> None:
    assert [formatting.short(v) for v in (0.0, -1.23456, 123456.7, 1.2e-7, 3e12, float("nan"))] == [
        "0", "−1.23", "123,457", "1.2e−7", "3e+12", "–",
    ]  # fmt: skip
    assert [formatting.probability(p) for p in (0.0, 0.04567, 1.0)] == ["< 1e−15", "0.0457", "1"]


def test_reasons_are_in_the_words_of_a_report() -> None:
    def fail(error: Exception) -> None:
        raise error

    few = attempt(lambda: fail(NotIdentifiedError("score_process: pass lag=None")), 4, 9)
    assert few == Unavailable(
        "There are 4 rows for 9 parameters, but more rows than parameters are needed: use more rows, fewer variables or a structure "
        "with fewer parameters."
    )
    for error in (SingularError("f: x"), torch.linalg.LinAlgError("linalg.cholesky: The factorization could not be completed")):
        found = attempt(lambda error=error: fail(error), 40, 9)
        assert isinstance(found, Unavailable)
        assert found.reason.startswith("The scores of the rows are linearly dependent")
    memory = attempt(lambda: fail(MemoryLimitError("covariance_of_estimates: needs 8 GB")))
    assert isinstance(memory, Unavailable)
    assert "does not fit into the memory" in memory.reason
    assert attempt(lambda: fail(ArgumentError("f: there are no rows."))) == Unavailable("There are no rows.")
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: fail(ZeroDivisionError()))


def test_headings_stay_with_their_charts() -> None:
    parts = [
        tag("h2", "a"),
        tag("p", "b"),
        tag("figure"),
        tag("p", "c"),
        tag("h3", "d"),
        tag("div", class_="table"),
        tag("h3", "e"),
    ]
    assert list(kept_together(parts)) == [
        '<div class="together"><h2>a</h2><p>b</p><figure></figure></div>',
        "<p>c</p>",
        '<div class="together before"><h3>d</h3></div>',
        '<div class="table"></div>',
        "<h3>e</h3>",
    ]


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
