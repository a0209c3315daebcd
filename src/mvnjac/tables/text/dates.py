"""Dates in the first column of a text table: which format they have, if it is not the ISO format that Arrow recognises."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: patterns of dates, and the formats they may have
_DATES: Sequence[tuple[str, tuple[str, ...]]] = (
    (r"\d{1,2}\.\d{1,2}\.\d{4}", ("%d.%m.%Y",)),
    (r"\d{1,2}/\d{1,2}/\d{4}", ("%d/%m/%Y", "%m/%d/%Y")),
    (r"\d{1,2}-\d{1,2}-\d{4}", ("%d-%m-%Y", "%m-%d-%Y")),
    (r"\d{4}/\d{1,2}/\d{1,2}", ("%Y/%m/%d",)),
    (r"\d{4}\.\d{1,2}\.\d{1,2}", ("%Y.%m.%d",)),
    (r"\d{4}-\d{1,2}-\d{1,2}", ("%Y-%m-%d",)),
    (r"\d{1,2} [A-Za-z]{3} \d{4}", ("%d %b %Y",)),
    (r"\d{1,2}-[A-Za-z]{3}-\d{4}", ("%d-%b-%Y",)),
    (r"\d{1,2} [A-Za-z]{3,9} \d{4}", ("%d %B %Y",)),
    (r"[A-Za-z]{3} \d{1,2}, \d{4}", ("%b %d, %Y",)),
    (r"[A-Za-z]{3,9} \d{1,2}, \d{4}", ("%B %d, %Y",)),
)
_TIMES = (("", ""), (r" \d{1,2}:\d{2}", " %H:%M"), (r" \d{1,2}:\d{2}:\d{2}", " %H:%M:%S"))
#: months and quarters, which remain text: 2020-01, 2020Q1, 2020M01
_PERIOD = re.compile(r"\d{4}[-/ ]?(?:Q[1-4]|M?(?:0[1-9]|1[0-2]))")
_COMPACT = "%Y%m%d"


@dataclass(frozen=True)
class Dates:
    """The labels of a column of dates.

    Attributes:
        formats: the formats that all values have; more than one: the order of day and month is not known. None: the values are
            periods, such as 2020Q1.
    """

    formats: tuple[str, ...] = ()

    @property
    def format(self) -> str | None:
        """The format, if it is known."""
        return self.formats[0] if len(self.formats) == 1 else None


def dates_of(values: Sequence[str]) -> Dates | None:
    """The format of dates that these texts have; None if they are no dates."""
    if not values:
        return None
    for (date, formats), (time, suffix) in itertools.product(_DATES, _TIMES):
        pattern = re.compile(date + time)
        if pattern.fullmatch(values[0]) and all(map(pattern.fullmatch, values)):
            found = tuple(each + suffix for each in formats if all_parse(values, each + suffix))
            if found:
                return Dates(found)
    if all(map(_PERIOD.fullmatch, values)) and _is_monotone(values):
        return Dates()
    return None


def compact_dates(values: Sequence[int]) -> Dates | None:
    """The format of dates that are written as numbers, such as 20200131; 202001 is a month. None if they are other numbers.

    The values must be strictly ascending or descending, because any number of this size could be a measurement.
    """
    texts = [str(value) for value in values]
    if len(texts) < 2 or not _is_monotone(values):
        return None
    if all(len(text) == 8 and "1800" <= text[:4] <= "2200" for text in texts) and all_parse(texts, _COMPACT):
        return Dates((_COMPACT,))
    if all(len(text) == 6 and "1800" <= text[:4] <= "2200" and "01" <= text[4:] <= "12" for text in texts):
        return Dates()
    return None


def has_time(date_format: str) -> bool:
    """Whether a format contains the time of day."""
    return "%H" in date_format or "%I" in date_format or "%T" in date_format


def all_parse(values: Sequence[str], date_format: str) -> bool:
    """Whether all texts are dates in a format."""
    try:
        for value in dict.fromkeys(values):
            dt.datetime.strptime(value, date_format)
    except ValueError:
        return False
    return True


def _is_monotone(values: Sequence[Any]) -> bool:
    pairs = list(itertools.pairwise(values))
    return all(a < b for a, b in pairs) or all(a > b for a, b in pairs)
