"""Reports for the tests, and a browser."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
#: names that are markup, or would end the JSON block, without escaping
NASTY = ["<script>alert(1)</script>", "a\"b'&c", "</script><img src=x onerror=alert(2)>"]
SCHEMES = ("light", "dark")


def data(path: Path) -> dict[str, Any]:
    """The numbers inside a report."""
    block = re.search(r'<script type="application/json" id="mvnjac-data">(.*?)</script>', path.read_text("utf-8"), re.S)
    assert block is not None
    return json.loads(block[1])


def nasty_table(path: Path, gaps: bool = True) -> Path:
    """300 rows of three variables; the variance of the second changes after row 120, and entries of the third are missing."""
    x = np.random.default_rng(0).normal(size=(300, 3))
    x[120:, 1] *= 3
    frame = pd.DataFrame(x, columns=NASTY)
    if gaps:
        frame.iloc[::10, 2] = np.nan
    frame.to_csv(path, index=False)
    return path


def chromium() -> str | None:
    """The system's Chromium or Chrome."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    return next((path for path in found if path is not None), None)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser without a sandbox, which containers do not allow; the pages are trusted."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--font-render-hinting=none"])
        yield opened
        opened.close()


def screenshot(page: Page, report: Path, scheme: Any, to: Path) -> Path:
    """The full page on a desktop, with a font that is available everywhere."""
    page.set_viewport_size({"width": 1000, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(report.as_uri())
    page.add_style_tag(content='body { font-family: "DejaVu Sans", sans-serif !important }')
    page.screenshot(path=to, full_page=True)
    return to


def difference(one: Path, other: Path) -> float:
    """The mean difference (0 to 255) of fields of about 20 pixels; infinite if the lengths of the pages differ."""
    a, b = (Image.open(path).convert("RGB") for path in (one, other))
    if a.width != b.width or abs(a.height - b.height) > 0.03 * b.height:
        return float("inf")
    size = (b.width // 20, b.height // 20)
    fields = [np.asarray(image.resize(size, Image.Resampling.BOX), dtype=float) for image in (a, b)]
    return float(np.abs(fields[0] - fields[1]).mean())
