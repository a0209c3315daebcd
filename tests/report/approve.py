"""Renews the screenshots in docs/images: `python -m tests.report.approve REPORT.html`. Check them before you commit them."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from tests.report.pages import IMAGES, SCHEMES, browser, screenshot


def main(report: Path) -> None:
    """Take screenshots of the report of the reference rates that `make demo` writes."""
    IMAGES.mkdir(exist_ok=True)
    with browser() as opened:
        for scheme in SCHEMES:
            target = screenshot(opened.new_page(), report, scheme, IMAGES / f"report-{scheme}.png")
            Image.open(target).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
