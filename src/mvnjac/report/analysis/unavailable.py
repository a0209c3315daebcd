"""Results that cannot be computed from the rows: the panel then shows the reason, in the words of a report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mvnjac.errors import MemoryLimitError, MvnjacError, NotIdentifiedError, ShapeError, SingularError
from mvnjac.linalg.solvers import LinAlgError

Result = TypeVar("Result")
#: what is the same at the beginning of all messages: the function that raised the error
_FUNCTION = re.compile(r"^[A-Za-z_.]+: ")


@dataclass(frozen=True)
class Unavailable:
    """Stands for a result that is not available; `reason` is a sentence."""

    reason: str


def attempt(compute: Callable[[], Result], rows: int | None = None, parameters: int | None = None) -> Result | Unavailable:
    """The result, or the reason why it is not available, such as too few rows or linearly dependent scores."""
    try:
        return compute()
    except (MvnjacError, LinAlgError) as error:
        return Unavailable(_reason(error, rows, parameters))


def _reason(error: Exception, rows: int | None, parameters: int | None) -> str:
    """The message of an error without the names of functions and arguments."""
    if isinstance(error, MemoryLimitError):
        return "The result does not fit into the memory of this computer: use fewer rows or fewer variables."
    if isinstance(error, NotIdentifiedError | SingularError | ShapeError | LinAlgError):
        if rows is not None and parameters is not None and rows <= parameters:
            return (
                f"There are {rows:,} rows for {parameters:,} parameters, but more rows than parameters are needed: use more rows, "
                "fewer variables or a structure with fewer parameters."
            )
        return (
            "The scores of the rows are linearly dependent or nearly so, so that their covariance cannot be inverted: use more rows, "
            "or leave out a variable that is a combination of others."
        )
    message = _FUNCTION.sub("", str(error))
    return message[:1].upper() + message[1:]
