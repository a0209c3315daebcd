"""Warnings that point at the line outside this package that led to them, however many functions lie between."""

from __future__ import annotations

import sys
import warnings


def warn(message: str, category: type[Warning]) -> None:
    """Give a warning as if the first caller outside this package gave it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "mvnjac":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
