"""The ticks of an axis and their labels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

_DATE = re.compile(r"(\d{4})-\d{2}")
#: the widths of a year and of any other label, in pixels
_YEAR, _LABEL = 46, 92


def number_ticks(highest: float, count: int = 5) -> list[float]:
    """0, and about `count` round numbers up to the highest."""
    if not highest > 0:
        return [0.0]
    rough = highest / count
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [i * step for i in range(int(highest / step) + 1)]


def decades(lowest: float, highest: float) -> list[float]:
    """The powers of ten between two numbers; if there are few, also their multiples by 2 and 5."""
    first, last = math.floor(math.log10(lowest)), math.floor(math.log10(highest))
    ticks = [factor * 10.0**k for k in range(first, last + 1) for factor in (1, 2, 5)]
    inside = [tick for tick in ticks if lowest <= tick <= highest]
    return inside if len(inside) <= 6 else [10.0**k for k in range(first, last + 1) if lowest <= 10.0**k]


def row_ticks(labels: Sequence[Any], width: float) -> list[tuple[int, str]]:
    """(row, text): for dates the first rows of round years, otherwise evenly spaced labels."""
    texts = [str(label) for label in labels]
    if all(_DATE.match(text) for text in texts):
        years = [(i, int(text[:4])) for i, text in enumerate(texts) if i and text[:4] != texts[i - 1][:4]]
        if len(years) >= 3:
            step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if len(years) / s * _YEAR <= width or s == 1000)
            return [(i, str(year)) for i, year in years if year % step == 0]
    count = max(2, min(int(width / _LABEL), len(texts)))
    places = sorted({round(k * (len(texts) - 1) / (count - 1)) for k in range(count)})
    return [(i, texts[i][:12]) for i in places]
