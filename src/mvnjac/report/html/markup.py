"""HTML and SVG that cannot be injected: text is escaped unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable

#: elements without an end tag
_VOID = ("meta", "link", "wbr")


class Markup(str):
    """Text that is HTML or SVG. Only `tag`, `join` and the assets make it."""

    __slots__ = ()


def text(value: object) -> Markup:
    """What is shown as it is written: a column that is called <script> stays text."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(parts: Iterable[object]) -> Markup:
    """One after the other."""
    return Markup("".join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Attributes: None is left out; `class_` is class, `data_row` is data-row."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(children)}</{name}>")
