"""Cells that are text to Arrow's reader, but numbers to people: 1,234.5, 1.5%, or padded with spaces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mvnjac.tables.reading import MISSING, ReadOptions

#: spaces that programs write between groups of digits: the ordinary, the non-breaking and the narrow one
_SPACES = " \u00a0\u202f"
_GROUPS = r"\d{1,3}(?:T\d{2,3})*T\d{3}"


class CellError(ValueError):
    """A cell that is not a number.

    Attributes:
        row: its row, from 0, within the converted column.
        value: its text.
        reason: what is wrong with it, if this is not obvious.
    """

    def __init__(self, row: int, value: str, reason: str = "") -> None:
        super().__init__(f"{value!r} at row {row + 1}")
        self.row, self.value, self.reason = row, value, reason


@dataclass(frozen=True)
class NumberText:
    """How text is converted to numbers, by the options of a table."""

    options: ReadOptions

    @property
    def tokens(self) -> list[str]:
        """The cells that mean a missing value."""
        return list(dict.fromkeys([*MISSING, *self.options.missing_values]))

    def convert(self, column: pa.Array) -> pa.Array:
        """A column of text as float64; missing values are null.

        Raises:
            CellError: a cell is not a number.
        """
        text = self._without_missing(column)
        bad = pc.index(self.matches(column), False).as_py()
        if bad >= 0:
            raise CellError(bad, column[bad].as_py())
        if self.options.percent:
            self._require_same_signs(text)
            text = pc.replace_substring_regex(text, r"\s*%$", "e-2")
        if self.options.thousands is not None:
            text = pc.replace_substring_regex(text, f"[{self._grouping()}]", "")
        if self.options.decimal != ".":
            text = pc.replace_substring(text, self.options.decimal, ".")
        return pc.replace_substring(text, "\u2212", "-").cast(pa.float64())

    def matches(self, column: pa.Array) -> pa.Array:
        """Which cells are numbers; null where a value is missing."""
        return pc.match_substring_regex(self._without_missing(column), self._pattern())

    def _without_missing(self, column: pa.Array) -> pa.Array:
        """The cells without the spaces around them; missing values are null."""
        text, tokens = pc.utf8_trim_whitespace(column), dict.fromkeys(token.strip() for token in self.tokens)
        return pc.if_else(pc.is_in(text, pa.array(list(tokens), text.type)), pa.scalar(None, text.type), text)

    def _grouping(self) -> str:
        """The characters that group digits, for a class of a regular expression."""
        thousands = self.options.thousands or ""
        return _SPACES if thousands == " " else re.escape(thousands)

    def _pattern(self) -> str:
        point = re.escape(self.options.decimal)
        whole = r"\d+" if self.options.thousands is None else rf"(?:{_GROUPS.replace('T', f'[{self._grouping()}]')}|\d+)"
        digits = rf"(?:{whole}(?:{point}\d*)?|{point}\d+)"
        scale = r"(?:[eE][-+]?\d+|\s*%)?" if self.options.percent else r"(?:[eE][-+]?\d+)?"
        return rf"^[-+\x{{2212}}]?(?:{digits}{scale}|(?i:inf(?:inity)?))$"

    def _require_same_signs(self, text: pa.Array) -> None:
        """Refuse a column in which some numbers have a percent sign and others, besides 0, do not."""
        signed = pc.ends_with(text, "%")
        zero = pc.match_substring_regex(text, r"^[-+]?0*[.,]?0*$")
        if pc.any(signed).as_py():
            bad = pc.index(pc.or_(signed, zero), False).as_py()
            if bad >= 0:
                raise CellError(bad, text[bad].as_py(), "without the percent sign of other cells in this column")


def advice(value: str, options: ReadOptions) -> str:
    """What to do about a cell that is not a number, as the end of a message."""
    text = value.strip()
    for pattern, hint in _HINTS:
        if re.fullmatch(pattern, text) and not _already_given(hint, options):
            return f"use {hint}"
    if options.comment is None and text.startswith(("#", "//")):
        return f"if it begins a comment, use --comment '{text[: 2 if text.startswith('//') else 1]}'"
    if len(text) <= 30 and "'" not in text and "\n" not in text:
        return f"if it means a missing value, use --missing-values '{text}'"
    return "correct the value"


_SIGNED = r"[-+\u2212]?"
#: cells, and the options that make them numbers, beginning with the most particular
_HINTS: Sequence[tuple[str, str]] = (
    (rf"{_SIGNED}\d{{1,3}}(\.\d{{3}})+,\d+", "--decimal , --thousands ."),
    (rf"{_SIGNED}\d{{1,3}}(,\d{{3}})+\.\d+", "--thousands ,"),
    (rf"{_SIGNED}\d{{1,3}}(,\d{{3}}){{2,}}", "--thousands ,"),
    (rf"{_SIGNED}\d{{1,3}}(\.\d{{3}}){{2,}}", "--thousands ."),
    (rf"{_SIGNED}\d{{1,3}},\d{{3}}", "--decimal , if the comma is a decimal point, or --thousands , if it groups digits"),
    (rf"{_SIGNED}\d*,\d+([eE][-+]?\d+)?", "--decimal ,"),
    (rf"{_SIGNED}[\d.]+\s*%", "--percent"),
    (rf"{_SIGNED}[\d.,]+\s*%", "--percent --decimal ,"),
    (rf"{_SIGNED}\d{{1,3}}('\d{{3}})+(\.\d*)?", '--thousands "\'"'),
    (rf"{_SIGNED}\d{{1,3}}([{_SPACES}]\d{{3}})+(\.\d*)?", "--thousands ' '"),
    (rf"{_SIGNED}\d{{1,3}}([{_SPACES}]\d{{3}})+,\d*", "--decimal , --thousands ' '"),
    (rf"{_SIGNED}[\d.]+(\s+{_SIGNED}[\d.]+)+", "--separator space"),
)


def _already_given(hint: str, options: ReadOptions) -> bool:
    given = {
        "--decimal ,": options.decimal == ",",
        "--thousands": options.thousands is not None,
        "--percent": options.percent,
        "--separator": options.separator is not None,
    }
    named = [option for option in given if option in hint]
    return all(given[option] for option in named)
