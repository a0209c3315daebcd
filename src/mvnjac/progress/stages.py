"""What a computation reports its progress to. `Progress` and `Stage` show nothing; `displays` derives from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

#: (stage, iteration, log-likelihood) → None, as callers of `fit` may pass
Callback = Callable[[str, int, float], None]


class Stage:
    """One stage: rows or steps that are counted, or the iterations of a search."""

    def advance(self, amount: int) -> None:
        """Report that further rows or steps are done."""

    def skip(self, amount: int) -> None:
        """Report that rows need no work, because their results are known; they do not count for the speed."""

    def iteration(self, iteration: int, log_likelihood: float, ratio: float, target: float, place: str = "") -> None:
        """Report an iteration of a search.

        Args:
            iteration: its number.
            log_likelihood: the largest so far.
            ratio: the quantity on which the search stops.
            target: the search stops when `ratio` is at most this.
            place: which of several searches it belongs to, in words.
        """


class Progress:
    """The stages of a computation, one after the other, or one within the other."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> Iterator[Stage]:
        """Begin a stage, which ends with the block. A stage of the same name may begin again, as each pass of a search does.

        Args:
            name: what is done, such as "reading the rows".
            total: the number of all rows or steps; None: unknown.
            unit: what is counted, in the plural.
        """
        yield Stage()


class CallbackProgress(Progress):
    """Calls a function at each iteration of a search."""

    def __init__(self, callback: Callback) -> None:
        self._callback = callback

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> Iterator[Stage]:
        yield _CallbackStage(self._callback, name)


class _CallbackStage(Stage):
    def __init__(self, callback: Callback, name: str) -> None:
        self._callback, self._name = callback, name

    def iteration(self, iteration: int, log_likelihood: float, ratio: float, target: float, place: str = "") -> None:
        self._callback(self._name, iteration, log_likelihood)
