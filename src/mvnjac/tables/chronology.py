"""Text that stands for dates: whether its order letter by letter is the order of time."""

from __future__ import annotations

import re
from collections.abc import Iterable

_YEAR = re.compile(r"\d{4}", re.ASCII)
#: a year, a month and a day, with the same separator or none
_DAY = re.compile(r"\d{4}([-/._ ]?)(\d\d)\1(\d\d)", re.ASCII)
_DIGIT = re.compile(r"\d", re.ASCII)
#: the offset of a time zone, behind a time of day
_ZONE = re.compile(r":\d\d(?:\.\d+)?\s?([+-]\d\d(?::?\d\d)?)$", re.ASCII)
_HALF_DAY = re.compile(r"\b[ap]\.?m\b|\d[ap]m\b", re.IGNORECASE | re.ASCII)


def sorts_in_time(texts: Iterable[str]) -> bool:
    """Whether these texts, sorted letter by letter, are in the order of time.

    They are if all begin with the year, have their digits in the same places and everything else in common: "2020-03-31",
    "20200331", "2020-03-31T16:00:00+01:00" (all of the same time zone), "2020Q1". Text that begins with the day or the month is not
    ("30/12/2020", "30122020"), nor are names of months, numbers of different lengths ("2020-9-1") or hours up to 12 (am, pm).
    """
    first = None
    for text in texts:
        form = _form(text)
        if form is None or (first is not None and form != first):
            return False
        first = form
    return True


def _form(text: str) -> tuple[str, str] | None:
    """The text with 0 in place of each digit, and its time zone; None where it does not begin with a year."""
    day, zone = _DAY.match(text), _ZONE.search(text)
    if not _YEAR.match(text) or _HALF_DAY.search(text):
        return None
    if day and not (1 <= int(day[2]) <= 12 and 1 <= int(day[3]) <= 31):
        return None
    return _DIGIT.sub("0", text), zone[1] if zone else ""
