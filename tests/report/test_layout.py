"""No chart overlaps or is clipped, on a phone, a tablet, a desktop, and on A4, with few and with many variables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from playwright.sync_api import Browser

import mvnjac
from tests.report.layout import A4, problems
from tests.report.pages import browser, chromium, data

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (apt-get install chromium)")

#: names as people have them: short, long, in other alphabets, and with what could be taken for markup or a formula
NAMES = ("USD", "Compagnie Financière Richemont SA", "日本電信電話", "a_b$c$", "<b>bold</b>", "BRK.B", "  spaces  ", "Ω/σ²")


def ugly_table(d: int, n: int, gaps: bool = True) -> pd.DataFrame:
    """Heavy tails, volatility that changes, late starters, early ends, single gaps, and a series that stands still."""
    rng = np.random.default_rng(d)
    factors = rng.standard_normal((n, 3)) @ (0.6 * rng.normal(size=(3, d)))
    volatility = 0.01 * np.exp(0.9 * np.cumsum(rng.standard_normal(n)) / np.sqrt(n))
    x = (factors + 0.7 * rng.standard_t(4, size=(n, d))) * volatility[:, None]
    x[n // 2 : n // 2 + 20, 1] = 0.0
    x[int(0.6 * n) :, 2] *= 3
    if gaps:
        x[rng.integers(0, n, size=12), rng.integers(0, d, size=12)] = np.nan
        x[: n // 5, ::5] = np.nan
        x[-n // 10 :, 3::11] = np.nan
    names = [NAMES[i] if i < len(NAMES) else f"{NAMES[i % len(NAMES)]} {i}" for i in range(d)]
    return pd.DataFrame(x, columns=names, index=pd.bdate_range("2015-01-01", periods=n, name="Date").date)


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as running:
        yield running


def assert_clean(opened: Browser, report: Path) -> None:
    page = opened.new_page()
    assert problems(page, report) == []
    page.close()


def written(frame: pd.DataFrame, structure: str, folder: Path) -> Path:
    """The report of the estimate from a table."""
    path = folder / "x.html"
    missing = "marginalise" if frame.isna().to_numpy().any() else None
    fit = mvnjac.fit(torch.tensor(frame.to_numpy()), structure, missing=missing, names=[str(name) for name in frame.columns])
    mvnjac.write_report(fit, frame.rename_axis("Date"), path)
    return path


def test_six_variables(opened: Browser, tmp_path: Path) -> None:
    report = written(ugly_table(6, 500), "dense", tmp_path)
    assert_clean(opened, report)
    record = data(report)
    assert [run["variable"] for run in record["alerts"]["stale"]] == [NAMES[1]]
    assert record["data"]["variables"] == list(NAMES[:6])


def test_seventeen_variables(opened: Browser, ecb: Path) -> None:
    assert_clean(opened, ecb)


def test_given_parameters_and_numbered_rows(opened: Browser, tmp_path: Path) -> None:
    x = ugly_table(4, 80, gaps=False).to_numpy()
    mvnjac.write_report(mvnjac.Gaussian(torch.zeros(4), 1e-4 * torch.eye(4)), x, tmp_path / "x.html")
    assert_clean(opened, tmp_path / "x.html")


@pytest.mark.parametrize("gaps", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.long)])
def test_sixty_variables(opened: Browser, tmp_path: Path, gaps: bool) -> None:
    """Maps of more than 30 variables are drawn on a canvas, and on paper as an image."""
    report = written(ugly_table(60, 2200, gaps), "dense", tmp_path)
    assert report.stat().st_size < 1_100_000
    assert_clean(opened, report)
    page = opened.new_page(viewport={"width": 1280, "height": 900})
    page.goto(report.as_uri())
    canvas = page.locator("#correlation .wide canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    assert abs(box["width"] - box["height"]) < 1.5
    page.mouse.move(box["x"] + 0.5, box["y"] + box["height"] - 0.5)
    correlation = data(report)["correlation"][59][0]
    name = data(report)["data"]["variables"][59]
    assert page.locator(".tip").inner_text() == f"{name}, USD: {correlation:.3g}".replace("-", "−").replace("  ", " ")
    assert page.locator("#correlation .wide svg image").evaluate("e => getComputedStyle(e).visibility") == "hidden"
    light = canvas.evaluate("e => [...e.getContext('2d').getImageData(0, 0, 1, 1).data]")
    page.emulate_media(color_scheme="dark")
    assert canvas.evaluate("e => [...e.getContext('2d').getImageData(0, 0, 1, 1).data]") != light
    page.emulate_media(media="print")
    assert not canvas.is_visible()
    assert page.locator("#correlation .wide svg image").evaluate("e => getComputedStyle(e).visibility") == "visible"
    assert page.locator("#all-parameters tbody tr").count() == 1890
    assert page.locator("#parameters tbody tr:visible").count() == 30
    page.close()


@pytest.mark.long
@pytest.mark.parametrize("gaps", [False, True])
def test_two_hundred_variables(opened: Browser, tmp_path: Path, gaps: bool) -> None:
    frame = ugly_table(200, 700, gaps)
    report = written(frame, "diagonal" if gaps else "compound-symmetric", tmp_path)
    assert report.stat().st_size < 4_000_000
    assert_clean(opened, report)


@pytest.mark.slow
def test_no_heading_is_alone_at_the_end_of_a_page(opened: Browser, ecb: Path) -> None:
    """In the printed area a heading, its text and its chart are in one block, which is not divided between pages."""
    page = opened.new_page(viewport={"width": A4[0], "height": A4[1]})
    page.emulate_media(media="print")
    page.goto(ecb.as_uri())
    blocks = page.locator(".together").evaluate_all(
        "all => all.map((e) => [e.getBoundingClientRect().height, getComputedStyle(e).breakInside, "
        "e.classList.contains('before') ? getComputedStyle(e).breakAfter : 'avoid'])"
    )
    assert len(blocks) >= 8
    assert all(height < A4[1] and inside == after == "avoid" for height, inside, after in blocks)
    page.close()
