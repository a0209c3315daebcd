"""Converts plain docstrings to reStructuredText: indented formulas become literal blocks, special characters are escaped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes|Example|Source):")


def literal_formulas(lines: list[str]) -> list[str]:
    """The lines with each indented block turned into a literal block; Napoleon's sections (Args, Returns, …) are not changed.

    Example:
        >>> literal_formulas(["With r = x − µ:", "", "    a = Σ⁻¹ r", "", "Args:", "    x: (n, d)"])
        ['With r = x − µ:', '', '::', '', '    a = Σ⁻¹ r', '', 'Args:', '    x: (n, d)']
    """
    result: list[str] = []
    section = literal = False
    for line in lines:
        indented = line.startswith("    ")
        if SECTION.match(line):
            section = True
        elif line and not indented:
            section = False
        if indented and not section and not literal and (not result or not result[-1]):
            result += ["::", ""]
            literal = True
        elif line and not indented:
            literal = False
        result.append(line)
    return result


def escaped(line: str) -> str:
    """The line with |, * and trailing _ escaped, except inside code and except the stars around the title of a book.

    Example:
        >>> print(escaped("the lag |i − j| of `a_` and Σ_ here, *args"))
        the lag \\|i − j\\| of `a_` and Σ\\_ here, \\*args
    """
    if line.startswith("    >>>") or ">>>" in line:
        return line
    parts = re.split(r"(``.*?``|`.*?`)", line)
    parts[1::2] = [re.sub(r"^`(\..*)`$", r"``\1``", part) for part in parts[1::2]]  # `.solve(v)` is a call, not a reference
    parts[::2] = [re.sub(r"(\*[A-Z][\w ,-]*\w\*)|([|*]|_(?=\W|$))", _escape, part) for part in parts[::2]]
    return "".join(parts)


def _escape(found: re.Match[str]) -> str:
    title, mark = found.groups()
    return title or f"\\{mark}"


def process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = literal_formulas(lines)
    literal = example = False
    for i, line in enumerate(lines):
        if line == "::":
            literal = True
        elif line and not line.startswith("    "):
            literal = False
            example = line.startswith("Example:")
        if not literal and not example:
            lines[i] = escaped(line)


def skip(app: Sphinx, what: str, name: str, obj: object, skipped: bool, options: object) -> bool | None:
    """Skip the metadata-routing methods that scikit-learn adds to estimators: their docstrings link into its documentation."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)  # before Napoleon
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
