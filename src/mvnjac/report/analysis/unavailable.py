"""Results that cannot be computed from the rows: the panel then shows the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mvnjac.errors import ArgumentError, MemoryLimitError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Unavailable:
    """Stands for a result that is not available; `reason` is the message of the error."""

    reason: str


def attempt(compute: Callable[[], Result]) -> Result | Unavailable:
    """The result, or the reason why it is not available, such as too few rows or linearly dependent scores."""
    try:
        return compute()
    except (ArgumentError, MemoryLimitError) as error:
        return Unavailable(str(error))
