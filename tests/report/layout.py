"""Measures a page in the browser: texts of charts that overlap or are clipped, and parts that are wider than the page."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

#: the viewports: a phone, a tablet, a desktop, and the printed area of A4 with margins of 15 mm, at 96 pixels per inch
SCREENS = (390, 768, 1280)
A4 = (680, 1009)

_MEASURE = """
([limit, tallest]) => {
  const found = [];
  const visible = (e) => e.getClientRects().length > 0;
  const shared = (from, to, a, b) => Math.min(a[to], b[to]) - Math.max(a[from], b[from]);
  const overlap = (a, b) => shared("left", "right", a, b) > 1 && shared("top", "bottom", a, b) > 1;
  let charts = 0;
  for (const svg of [...document.querySelectorAll(".chart svg")].filter(visible)) {
    charts += 1;
    const page = svg.getBoundingClientRect(), name = svg.querySelector("title").textContent;
    const texts = [...svg.querySelectorAll("text")].map((e) => [e.textContent, e.getBoundingClientRect()]);
    if (page.left < -1 || page.right > limit + 1) found.push(`${name}: the chart is wider than the page`);
    if (page.height > tallest) found.push(`${name}: the chart is taller than a page`);
    texts.forEach(([text, box], i) => {
      if (box.left < page.left - 1 || box.right > page.right + 1 || box.top < page.top - 1 || box.bottom > page.bottom + 1)
        found.push(`${name}: ${text} is clipped`);
      for (const [other, its] of texts.slice(i + 1)) if (overlap(box, its)) found.push(`${name}: ${text} overlaps ${other}`);
    });
  }
  for (const section of document.querySelectorAll("header, section, footer"))
    if (section.scrollWidth > section.clientWidth + 1) found.push(`${section.id || section.tagName} is clipped`);
  if (document.documentElement.scrollWidth > limit) found.push("the page is wider than the window");
  if (charts === 0) found.push("there is no chart");
  return found;
}
"""
_TABLES = """
() => [...document.querySelectorAll(".table")]
  .filter((e) => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1)
  .map((e) => `the table ${e.ariaLabel} is clipped on paper`)
"""


def problems(page: Page, report: Path) -> list[str]:
    """Everything that overlaps or is clipped, on screens and on paper."""
    found = []
    page.emulate_media(media="screen")
    for width in SCREENS:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(report.as_uri())
        found += [f"{width}: {problem}" for problem in page.evaluate(_MEASURE, [width, 10_000])]
    page.set_viewport_size({"width": A4[0], "height": A4[1]})
    page.emulate_media(media="print")
    page.goto(report.as_uri())
    found += [f"paper: {problem}" for problem in page.evaluate(_MEASURE, list(A4)) + page.evaluate(_TABLES)]
    page.emulate_media(media="screen")
    return found
