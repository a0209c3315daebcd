"""Numbers as text."""

from __future__ import annotations


def short(value: float) -> str:
    """Three significant digits."""
    return _written(value, 3)


def digits(value: float) -> str:
    """Five significant digits."""
    return _written(value, 5)


def probability(p_value: float) -> str:
    """A p-value; values below 1e−15 are not distinguished."""
    return "< 1e−15" if p_value < 1e-15 else short(p_value)


def equals(p_value: float) -> str:
    """A p-value after the letter p: "= 0.02" or "< 1e−15"."""
    shown = probability(p_value)
    return shown if shown.startswith("<") else f"= {shown}"


def _written(value: float, count: int) -> str:
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}".replace("-", "−")
    return "–" if value != value else f"{value:.{count}g}".replace("-", "−").replace("e+0", "e").replace("e−0", "e−")
