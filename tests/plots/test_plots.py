"""The drawing functions: what is drawn, labels that stay apart and inside, and the axes of rows."""

from __future__ import annotations

import itertools
import re
from datetime import date, datetime

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from mvnjac.plots import axes, diagnostics, estimates, matrices, series
from mvnjac.plots.marks import label_points
from mvnjac.plots.palette import DEFAULT

DAYS = [day.date() for day in pd.bdate_range("2015-01-01", periods=1500)]


def new(width: float = 8, height: float = 4) -> Axes:
    """Axes of a figure outside of pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def shown(ax: Axes) -> list[Text]:
    """The texts that are drawn, of ticks and annotations."""
    ax.figure.draw_without_rendering()
    ticks = [label for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels() if label.get_visible()]
    return [text for text in [*ticks, *ax.texts] if text.get_text()]


def assert_apart(texts: list[Text]) -> None:
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.padded(-0.5).overlaps(b.padded(-0.5)), f"{one} overlaps {other}"


# --- axes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (DAYS, "date"),
        ([datetime(2020, 1, 1, hour) for hour in range(9)], "date"),
        ([str(day) for day in DAYS], "date"),
        (list(pd.date_range("2020-01-01", periods=5)), "date"),
        (list(range(1, 9)), "number"),
        ([1.5, 2.5, 2.5], "number"),
        (list("abc"), "text"),
        ([3, 1, 2], "text"),
        ([date(2020, 1, 2), date(2020, 1, 1)], "text"),
        (["2020-01-02", "no date at all"], "text"),
        ([1, None, 3], "text"),
        ([True, False], "text"),
    ],
)
def test_positions_of_rows(labels: list[object], kind: str) -> None:
    positions, found = axes.row_positions(labels)
    assert found == kind
    assert len(positions) == len(labels)
    assert (np.diff(positions) >= 0).all()
    fractions = axes.row_fractions(labels)
    assert 0 < fractions[0] <= fractions[-1] < 1


@pytest.mark.parametrize("width", [3, 5, 10])
@pytest.mark.parametrize(
    ("labels", "form"),
    [(DAYS, r"\d{4}"), (DAYS[:200], r"\d{4}-\d{2}"), (DAYS[:12], r"\d{4}-\d{2}-\d{2}"), (list(range(1, 501)), r"\d+")],
)
def test_labels_of_rows(labels: list[object], form: str, width: float) -> None:
    ax = new(width)
    axes.style(ax, DEFAULT)
    axes.row_axis(ax, labels, DEFAULT)
    axes.settle(ax)
    axes.thin_labels(ax.xaxis)
    texts = [text for text in shown(ax) if text in ax.xaxis.get_ticklabels()]
    inside = [text for text in texts if ax.get_xlim()[0] <= text.get_position()[0] <= ax.get_xlim()[1]]
    assert 1 <= len(inside) <= 12
    assert_apart(inside)
    if width == 10:
        assert all(re.fullmatch(form, text.get_text()) for text in inside)


def test_rows_are_named() -> None:
    assert axes.row_text(datetime(2020, 1, 2)) == axes.row_text(pd.Timestamp("2020-01-02")) == "2020-01-02"
    assert axes.row_text(datetime(2020, 1, 2, 3)) == "2020-01-02 03:00:00"
    assert axes.row_text(7) == "7"


def test_long_names_are_shortened() -> None:
    assert axes.shortened("Compagnie Financière Richemont SA") == "Compagnie Financière…"
    assert axes.shortened("日本電信電話株式会社東京", 10) == "日本電信…"
    assert axes.shortened(" two\nlines ") == "two lines"
    assert axes.shortened("") == "(no name)"


def test_names_are_no_formulas() -> None:
    ax = new()
    estimates.draw_bars(ax, ["a_b$c$", "$\\frac{"], np.array([1.0, 2.0]))
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a_b$c$", "$\\frac{"]
    ax.figure.draw_without_rendering()


def test_labels_are_thinned_evenly() -> None:
    ax = new(4, 2)
    estimates.draw_bars(ax, [f"name {i}" for i in range(60)], np.ones(60))
    axes.settle(ax)
    assert axes.thin_labels(ax.yaxis)
    kept = [int(text.get_text()[5:]) for text in ax.get_yticklabels() if text.get_visible()]
    assert 3 <= len(kept) < 20
    assert len(set(np.diff(kept))) == 1
    assert_apart([text for text in ax.get_yticklabels() if text.get_visible()])


def test_marks_stay_inside_and_apart() -> None:
    ax = new(5, 3)
    ax.set(xlim=(0, 10), ylim=(0, 10))
    points = [
        (0.1, 8.5, "2015-01-15"),
        (0.2, 8.4, "2015-01-16"),
        (9.9, 5.0, "2020-03-12"),
        (9.8, 5.1, "2020-03-13"),
        (5, 0, "x" * 99),
    ]
    label_points(ax, points, DEFAULT)
    ax.figure.draw_without_rendering()
    assert "2015-01-15" in [text.get_text() for text in ax.texts]
    assert "x" * 99 not in [text.get_text() for text in ax.texts]
    assert_apart(list(ax.texts))
    frame = ax.get_window_extent().padded(1)
    for text in ax.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1


# --- matrices ------------------------------------------------------------------------------------------------------------


def correlation(d: int) -> np.ndarray:
    B = np.random.default_rng(d).normal(size=(d, 2))
    S = B @ B.T + np.eye(d)
    return S / np.sqrt(np.outer(np.diag(S), np.diag(S)))


@pytest.mark.parametrize("d", [1, 2, 6, 17, 40])
def test_a_map_has_a_cell_for_each_element(d: int) -> None:
    R = correlation(d)
    ax = matrices.draw_matrix(new(9, 8), R, [f"v{i}" for i in range(d)], matrices.correlations())
    ax.figure.draw_without_rendering()
    if d > matrices.CELLS:
        pixels = ax.images[0].get_array()
        assert pixels.shape == (d, d, 4)
        assert (pixels[np.triu_indices(d, 1)] == 0).all()
        strengths = np.abs([DEFAULT.diverging()((r + 1) / 2)[3] for r in R[np.tril_indices(d)]])
        np.testing.assert_allclose(pixels[..., 3][np.tril_indices(d)], strengths, atol=1e-12)
        step = 2 / DEFAULT.diverging().N  # the colours are steps
        assert np.abs(strengths - np.abs(R[np.tril_indices(d)])).max() <= step
    else:
        np.testing.assert_allclose(ax.collections[0].get_array(), R[np.tril_indices(d)])
        numbers = [text.get_text() for text in ax.texts]
        assert len(numbers) == d * (d + 1) / 2
        assert numbers[0] == "1.00"
    bar = ax.figure.axes[1]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["−1", "−0.5", "0", "0.5", "1"]


def test_scales() -> None:
    values = np.array([[1.0, np.nan], [-4.0, 2.0]])
    signed = matrices.signed(values)
    np.testing.assert_allclose(signed.strength(values)[1], [-1, 0.5])
    assert signed.range == (-1, 0.5)
    assert [text for _, text in signed.ticks] == ["−4", "−2", "0", "2"]
    ratio = matrices.ratios(np.array([0.5, 1.0, 100.0, np.nan]))
    np.testing.assert_allclose(ratio.strength(np.array([1.0, 100.0, 0.01])), [0, 1, -1])
    assert tuple(text for _, text in ratio.ticks) == ("1", "10", "100")
    assert ratio.range[0] == pytest.approx(np.log(0.5) / np.log(100))
    assert matrices.ratios(np.ones(3)).range[0] < matrices.ratios(np.ones(3)).range[1]
    assert matrices.signed(np.zeros(3)).range == (-1, 1)
    assert np.isfinite(matrices.ratios(np.array([0.0, 2.0])).strength(np.array([0.0, 2.0]))).all()
    assert [matrices.correlations().text(v) for v in (1.0, 0.234, -0.5, -0.001)] == ["1.00", ".23", "−.50", ".00"]
    for low, high in ((0.99, 1.01), (0.2, 3), (1, 1e6), (1e-4, 1)):
        assert len(matrices.ratios(np.array([low, high])).ticks) >= 2


# --- rows over time --------------------------------------------------------------------------------------------------


def test_the_largest_value_of_each_part_is_drawn() -> None:
    rng = np.random.default_rng(0)
    values = rng.chisquare(2, size=10_000)
    values[5000], values[77] = 1e6, np.nan
    rows = series.largest_by_bin(np.arange(10_000.0), values, 100)
    assert len(rows) == 100
    assert 5000 in rows
    assert 77 not in rows
    assert all(values[row] == np.nanmax(values[100 * k : 100 * (k + 1)]) for k, row in enumerate(rows))


@pytest.mark.parametrize("labels", [DAYS, list(range(1500))])
def test_stems_and_statistics(labels: list[object]) -> None:
    values = np.random.default_rng(1).chisquare(3, size=1500)
    values[[200, 201, 900]] = 500, 400, 90
    ax = series.draw_stems(new(), values, labels, threshold=50)
    assert ax.get_yscale() == "log"
    assert {axes.row_text(labels[200]), axes.row_text(labels[900])} <= {text.get_text() for text in shown(ax)}
    assert_apart(list(ax.texts))
    path = np.abs(np.sin(np.arange(1500) / 300))
    path[:100] = np.nan
    ax = series.draw_statistic(new(), path, labels, 0.8, int(np.nanargmax(path)))
    assert "5% line" in [text.get_text() for text in ax.texts]
    assert_apart(list(ax.texts))
    assert ax.get_ylim()[1] > 1
    series.draw_small_statistic(new(2, 1), path, labels, 0.8, 400).figure.draw_without_rendering()


@pytest.mark.parametrize("values", [np.zeros(5), np.full(5, np.nan), np.ones(1)])
def test_degenerate_rows(values: np.ndarray) -> None:
    labels = list(range(len(values)))
    series.draw_stems(new(), values, labels).figure.draw_without_rendering()
    series.draw_statistic(new(), np.nan_to_num(values), labels, None, 0).figure.draw_without_rendering()


# --- estimates and diagnostics -------------------------------------------------------------------------------------------


def test_intervals() -> None:
    values, half = np.array([1.0, -2.0, 0.5]), np.array([0.5, 1.0, np.nan])
    ax = estimates.draw_intervals(new(), ["a", "b", "c"], values, values - half, values + half)
    lines = [line for line in ax.lines if line.get_gid() == estimates.ITEMS_ID]
    assert [tuple(line.get_xdata()) for line in lines] == [(0.5, 1.5), (-3.0, -1.0), (0.5, 0.5)]


def test_quantiles_and_eigenvalues() -> None:
    expected = np.sort(np.random.default_rng(0).chisquare(4, 2000))
    rows = diagnostics.quantile_rows(2000)
    assert {0, 1999, 1900} <= set(rows.tolist())
    assert len(rows) < 450
    ax = diagnostics.draw_quantiles(new(5, 5), expected, expected**1.3, DAYS + DAYS[:500])
    assert_apart(list(ax.texts))
    fractions = diagnostics.quantile_fractions(expected)
    assert 0 < fractions[0] < fractions[-1] < 1
    estimates.draw_eigenvalues(new(), np.array([3.0, 1e-3, 0.0])).figure.draw_without_rendering()


def test_missing_shares_are_those_of_each_part_of_time() -> None:
    """Also if rows are not evenly spaced, so that parts of the axis have no rows."""
    labels = [*DAYS[:100], *DAYS[1000:1100]]
    missing = np.zeros((200, 2), dtype=bool)
    missing[:50, 0] = True
    shares, first = diagnostics.missing_shares(missing, labels, 22)
    assert shares.shape == (2, 22)
    assert np.nanmax(shares[1]) == 0
    assert shares[0, 0] == 1
    assert shares[0, -1] == 0
    assert np.isnan(shares[:, 10]).all()
    assert first[0] == 0
    diagnostics.draw_timeline(new(), shares, ["a", "b"], labels).figure.draw_without_rendering()
