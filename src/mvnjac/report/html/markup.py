"""HTML and SVG, safe against injection: all text is escaped unless it is `Markup`."""

from __future__ import annotations

import html
from collections.abc import Iterable

#: elements without an end tag
_VOID = ("meta", "link", "wbr")


class Markup(str):
    """Text that is HTML or SVG. Only `tag`, `join` and the assets create it."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escaped text: the column name "<script>" is displayed as text."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(parts: Iterable[object]) -> Markup:
    """The concatenation of parts."""
    return Markup("".join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Attributes that are None are left out; `class_` becomes class, and `data_row` becomes data-row."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(children)}</{name}>")
