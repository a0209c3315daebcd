"""How a table is read: the options for text tables and Excel sheets, with their checks."""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mvnjac.errors import UsageError

#: cells that mean a missing value, by default; "-999" and the like must be named
MISSING = (
    *("", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "null", "NULL", "Null", "None", "<NA>"),
    *("#N/A", "#VALUE!", "#DIV/0!", "#NUM!", "#REF!", "#NAME?", "-", "--", ".", "?"),
)
#: words for separators, which are easier to type in a shell
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " "}
#: options that apply to tables of any format
_GENERAL = ("exclude",)


@dataclass(frozen=True)
class ReadOptions:
    """How a table is read. Each format understands some of the options; the defaults read an ordinary CSV file.

    Args:
        separator: the character between the fields of a line; None: detected (comma, semicolon, tab or pipe).
        decimal: the decimal point of the numbers: "." or ",".
        thousands: the character that groups digits, such as "," in 1,234.5.
        missing_values: further cells that mean a missing value, besides `MISSING`. Numbers are compared by value.
        skip_rows: the number of lines before the header.
        header_rows: the number of rows of the header; 0: there is none, and columns are named "0", "1", …
        comment: lines that begin with this text are left out.
        encoding: the encoding of the text.
        percent: whether cells may end with a percent sign: 1.5% is .015.
        date_format: the format of the dates in the first column, such as "%d/%m/%Y"; None: recognised.
        sheet: the sheet of an Excel file; None: the first.
        exclude: columns that are left out.

    Raises:
        UsageError: an option has an invalid value.
    """

    separator: str | None = None
    decimal: str = "."
    thousands: str | None = None
    missing_values: tuple[str, ...] = ()
    skip_rows: int = 0
    header_rows: int = 1
    comment: str | None = None
    encoding: str = "utf-8"
    percent: bool = False
    date_format: str | None = None
    sheet: str | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.separator is not None:
            object.__setattr__(self, "separator", SEPARATORS.get(self.separator, self.separator))
        for name in ("missing_values", "exclude"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_characters()
        for name in ("skip_rows", "header_rows"):
            if getattr(self, name) < 0:
                raise UsageError(f"{flag(name)}: got {getattr(self, name)}; expected a number of rows, 0 or more.")
        if self.comment is not None and (not self.comment.strip() or "\n" in self.comment):
            raise UsageError(f"--comment: got {self.comment!r}; expected the characters that comments begin with, such as '#'.")
        if self.date_format is not None and not re.search("%[YyGFDc]", self.date_format):
            raise UsageError(
                f"--date-format: got {self.date_format!r}; expected a format such as '%d/%m/%Y' or '%Y-%m-%d %H:%M'."
            )
        try:
            object.__setattr__(self, "encoding", codecs.lookup(self.encoding).name)
        except LookupError:
            raise UsageError(
                f"--encoding: {self.encoding!r} is unknown; expected an encoding such as utf-8, latin-1, cp1252 or utf-16."
            ) from None

    def _check_characters(self) -> None:
        if self.separator is not None and (not _is_character(self.separator) or self.separator in '"\r\n'):
            raise UsageError(
                f"--separator: got {self.separator!r}; expected one ASCII character, or one of {', '.join(SEPARATORS)}."
            )
        if self.decimal not in (".", ","):
            raise UsageError(f"--decimal: got {self.decimal!r}; expected . or , (a point or a comma).")
        if self.thousands is not None and (len(self.thousands) != 1 or self.thousands.isalnum() or self.thousands in "+-%\r\n"):
            raise UsageError(f"--thousands: got {self.thousands!r}; expected one character, such as ',' or ' '.")
        if self.thousands == self.decimal:
            raise UsageError(f"--thousands and --decimal are both {self.decimal!r}; they must differ.")

    def given(self) -> list[str]:
        """The names of the options with another value than the default, without those that apply to tables of any format."""
        default = ReadOptions()
        names = [field.name for field in dataclasses.fields(self) if field.name not in _GENERAL]
        return [name for name in names if getattr(self, name) != getattr(default, name)]

    def limited_to(self, names: Collection[str]) -> ReadOptions:
        """The same options, but only these; the others have their defaults."""
        return ReadOptions(**{name: getattr(self, name) for name in names})

    def fingerprint(self) -> dict[str, Any]:
        """The options that differ from the defaults, as JSON."""
        found: dict[str, Any] = {name: getattr(self, name) for name in [*self.given(), *_GENERAL] if getattr(self, name)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def missing_numbers(self) -> list[float]:
        """The given tokens that are numbers: they are compared by value, so that -999 also means -999.0."""
        return [float(text.replace(",", ".")) for text in self.missing_values if re.fullmatch(r"[-+]?\d+([.,]\d*)?", text)]


def flag(name: str) -> str:
    """The command-line option of an argument: "missing_values" → "--missing-values"."""
    return f"--{name.replace('_', '-')}"


def _is_character(text: str) -> bool:
    return len(text) == 1 and text.isascii()
