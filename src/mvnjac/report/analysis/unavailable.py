"""A panel that cannot be computed from these rows says why; the others are there all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mvnjac.errors import ArgumentError, MemoryLimitError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Unavailable:
    """What stands in place of a result.

    Attributes:
        reason: the sentence of the error.
    """

    reason: str


def attempt(compute: Callable[[], Result]) -> Result | Unavailable:
    """The result, or why there is none: too few rows, scores that are linearly dependent, what would not fit into memory."""
    try:
        return compute()
    except (ArgumentError, MemoryLimitError) as error:
        return Unavailable(str(error))
