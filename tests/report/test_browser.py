"""The page in Chromium: no errors, no requests, all panels, sorting, both colour schemes, phone and paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page

from tests.report.pages import IMAGES, NASTY, SCHEMES, browser, chromium, data, difference, screenshot
from tests.report.test_report import PANELS

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture
def page(opened: Browser) -> Iterator[Page]:
    """An offline page, which must not log errors or request other files."""
    context = opened.new_context(offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: complaints.append(request.url) if not request.url.endswith(".html") else None)
    yield page
    context.close()
    assert complaints == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_looks_as_approved(page: Page, ecb: Path, tmp_path: Path, scheme: str) -> None:
    taken = screenshot(page, ecb, scheme, tmp_path / "taken.png")
    other = next(name for name in SCHEMES if name != scheme)
    assert difference(taken, IMAGES / f"report-{scheme}.png") < 4
    assert difference(taken, IMAGES / f"report-{other}.png") > 100


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_what_it_shows(page: Page, ecb: Path, panel: str) -> None:
    page.goto(ecb.as_uri())
    section = page.locator(f"section#{panel}")
    assert section.locator("h2").is_visible()
    drawings = section.locator("svg:visible")
    expected = {"influence": 1, "breaks": 13, "correlation": 2, "distances": 1, "heat-map": 1, "conditioning": 1}
    assert drawings.count() == expected.get(panel, 0)
    for i in range(drawings.count()):
        box = drawings.nth(i).bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 30
    if panel == "influence":
        assert "2015-01-15" in drawings.locator("text").all_text_contents()
    if panel in ("heat-map", "correlation"):
        cells = drawings.first.locator("path > title").all_text_contents()
        assert len(cells) == 153
        assert cells[1].startswith("JPY, USD: ")


def test_a_table_sorts(page: Page, ecb: Path) -> None:
    page.goto(ecb.as_uri())
    table = page.locator("#all-parameters")

    def column(j: int) -> list[float]:
        cells = table.locator(f"tbody tr > :nth-child({j})").all_text_contents()
        return [float(text.replace("−", "-").replace(",", "")) for text in cells]

    before = column(2)
    heading = table.get_by_role("button", name="estimate")
    heading.click()
    assert before != column(2) == sorted(before)
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("estimate")
    heading.press("Enter")
    assert column(2) == sorted(before, reverse=True)
    assert table.locator("th[aria-sort]").count() == 1
    first = table.locator("tbody tr").first.locator("th, td").all_text_contents()
    table.get_by_role("button", name="parameter").click()
    names = table.locator("tbody th").all_text_contents()
    assert names == sorted(names, key=str.casefold)
    row = table.locator("tbody tr").nth(names.index(first[0]))
    assert row.locator("th, td").all_text_contents() == first, "a row was not moved as a whole"


def test_a_long_table_is_folded_searched_and_saved(page: Page, ecb: Path) -> None:
    page.goto(ecb.as_uri())
    section = page.locator("section#parameters")
    rows = section.locator("tbody tr:visible")
    assert rows.count() == 30
    assert section.locator(".shown").inner_text() == "30 of 170 rows."
    section.get_by_role("searchbox").fill("mean of chf")
    assert rows.locator("th").all_inner_texts() == ["mean of CHF"]
    section.get_by_role("searchbox").fill("")
    section.get_by_role("button", name="Show all 170 rows").click()
    assert rows.count() == 170
    with page.expect_download() as saved:
        section.get_by_role("button", name="CSV").click()
    table = pd.read_csv(saved.value.path())
    assert saved.value.suggested_filename == "all-parameters.csv"
    pd.testing.assert_frame_equal(table, pd.DataFrame(data(ecb)["parameters"]), check_exact=True)


def test_each_download_has_its_rows(page: Page, nasty: Path) -> None:
    """Names with quotation marks and commas stay whole."""
    page.goto(nasty.as_uri())
    record = data(nasty)
    expected = {"breaks": record["breaks"], "missing": record["missing"]["variables"], "distances": record["distances"]["top"]}
    for panel, rows in expected.items():
        with page.expect_download() as saved:
            page.locator(f"section#{panel}").get_by_role("button", name="CSV").click()
        found = pd.read_csv(saved.value.path())
        pd.testing.assert_frame_equal(found, pd.DataFrame(rows), check_exact=True)


def test_values_are_shown_on_hover(page: Page, ecb: Path) -> None:
    page.goto(ecb.as_uri())
    overlay = page.locator("#influence .wide .overlay")
    overlay.scroll_into_view_if_needed()
    box = overlay.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    tip = page.locator(".tip")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d: [\d.e−]+", tip.inner_text())
    page.mouse.move(5, 5)
    assert not tip.is_visible()


def test_names_are_text_in_the_browser(page: Page, nasty: Path) -> None:
    page.goto(nasty.as_uri())
    headings = page.locator("#breaks h3").all_inner_texts()
    assert sorted(headings) == sorted(["Variable by variable", *NASTY])
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate('JSON.parse(document.getElementById("mvnjac-data").textContent).data.variables') == NASTY
    assert page.locator("#missing .box.gone").count() == 1
    assert page.locator("#missing tbody th", has_text=NASTY[0]).count() == 1


def test_no_other_script_would_run(opened: Browser, nasty: Path, tmp_path: Path) -> None:
    """The content security policy blocks injected scripts."""
    text = nasty.read_text("utf-8").replace("</main>", "<script>document.title = 'taken over'</script></main>")
    (tmp_path / "broken.html").write_text(text, "utf-8")
    page = opened.new_page()
    page.goto((tmp_path / "broken.html").as_uri())
    assert page.title() != "taken over"
    page.close()


def test_on_a_phone(page: Page, ecb: Path) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    page.goto(ecb.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator(".wide:visible").count() == 0
    assert page.locator(".narrow:visible").count() == 7
    drawing = page.locator("#influence .narrow svg")
    box = drawing.bounding_box()
    assert box is not None
    drawn = drawing.evaluate("e => e.viewBox.baseVal.width")
    assert box["width"] / drawn * 12 > 9, "letters are too small to read"


def test_on_paper(page: Page, ecb: Path) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(ecb.as_uri())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    whole = page.locator("#parameters .table")
    assert whole.evaluate("e => e.scrollHeight <= e.clientHeight"), "a part of the table is not printed"
    assert not page.locator(".toolbar:visible, .overlay:visible").count()
    assert not page.locator("nav").is_visible()
    assert page.locator(".narrow:visible").count() == 0


def test_without_scripts_everything_is_there(opened: Browser, ecb: Path) -> None:
    context = opened.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(ecb.as_uri())
    assert page.locator("section").count() == len(PANELS)
    assert page.locator("#all-parameters tbody tr").count() == 170
    context.close()
