"""Small tables in HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

#: the most rows, and the most columns, that a notebook shows
MOST_ROWS, MOST_COLUMNS = 20, 8


def html_table(
    title: str, headings: Sequence[str], labels: Sequence[Any], rows: Sequence[Sequence[Any]], note: str = ""
) -> str:
    """A table with a title above it. Floating-point numbers have four significant digits.

    Args:
        headings: one per column, without that of the labels.
        labels: one per row.
        rows: the cells of each row.
        note: a line below the table.
    """
    head = "".join(f"<th>{escape(text)}</th>" for text in ["", *headings])
    body = "".join(
        f'<tr><th style="text-align:left">{escape(label)}</th>{"".join(map(_cell, row))}</tr>'
        for label, row in zip(label_texts(labels), rows, strict=True)
    )
    below = f"<div><small>{escape(note)}</small></div>" if note else ""
    if not labels:
        return f"<div><div>{escape(title)}</div>{below}</div>"
    return (
        f'<div><div>{escape(title)}</div><table class="dataframe"><thead><tr style="text-align:right">{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>{below}</div>"
    )


def _cell(value: Any) -> str:
    return f'<td style="text-align:right">{escape(number(value))}</td>'


def number(value: Any) -> str:
    """A cell as text: four significant digits; nothing for NaN."""
    if not isinstance(value, float):
        return str(value)
    return "" if value != value else f"{value:.4g}"


def label_texts(labels: Sequence[Any]) -> list[str]:
    """Row labels as text; dates without the time of day if all are at midnight."""
    times = [getattr(label, "time", None) for label in labels]
    if labels and all(callable(time) and not any((time().hour, time().minute, time().second)) for time in times):
        return [str(label.date()) for label in labels]
    return [str(label) for label in labels]
