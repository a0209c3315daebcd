"""Words of messages."""

from __future__ import annotations

_IRREGULAR = {"matrix": "matrices", "entry": "entries", "such entry": "such entries", "degree of freedom": "degrees of freedom"}


def counted(count: int, noun: str, form: str = "") -> str:
    """A number and what it counts: "1 row", "3 rows"; form: of the number, such as ",".

    Example:
        >>> from mvnjac.words import counted
        >>> counted(1, "variable"), counted(2000, "row", ",")
        ('1 variable', '2,000 rows')
    """
    return f"{count:{form}} {noun if count == 1 else _IRREGULAR.get(noun, noun + 's')}"
