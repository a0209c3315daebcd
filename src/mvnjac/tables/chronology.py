"""Whether the lexicographic order of text labels, such as dates, is their order in time."""

from __future__ import annotations

import re
from collections.abc import Iterable

_YEAR = re.compile(r"\d{4}", re.ASCII)
#: year, month and day, with the same separator twice or with none
_DAY = re.compile(r"\d{4}([-/._ ]?)(\d\d)\1(\d\d)", re.ASCII)
_DIGIT = re.compile(r"\d", re.ASCII)
#: the UTC offset after a time of day
_ZONE = re.compile(r":\d\d(?:\.\d+)?\s?([+-]\d\d(?::?\d\d)?)$", re.ASCII)
_HALF_DAY = re.compile(r"\b[ap]\.?m\b|\d[ap]m\b", re.IGNORECASE | re.ASCII)


def sorts_in_time(texts: Iterable[str]) -> bool:
    """Whether the lexicographic order of these texts is their order in time.

    This is so if all texts begin with the year, have digits in the same places, and agree in everything else: "2020-03-31",
    "20200331", "2020-03-31T16:00:00+01:00" (all with the same UTC offset), "2020Q1". It is not so for text that begins with
    the day or the month ("30/12/2020", "30122020"), for names of months, for numbers of different lengths ("2020-9-1") and
    for 12-hour times (am, pm).
    """
    first = None
    for text in texts:
        pattern = _pattern(text)
        if pattern is None or (first is not None and pattern != first):
            return False
        first = pattern
    return True


def _pattern(text: str) -> tuple[str, str] | None:
    """The text with each digit replaced by 0, and its UTC offset; None if the text does not begin with a year."""
    day, zone = _DAY.match(text), _ZONE.search(text)
    if not _YEAR.match(text) or _HALF_DAY.search(text):
        return None
    if day and not (1 <= int(day[2]) <= 12 and 1 <= int(day[3]) <= 31):
        return None
    return _DIGIT.sub("0", text), zone[1] if zone else ""
