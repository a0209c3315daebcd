"""The state of a stage in words."""

from __future__ import annotations

import time
from collections.abc import Callable

from mvnjac.progress.stages import Stage


class StageState(Stage):
    """A stage that can be described.

    Args:
        name, total, unit: as for `Progress.stage`.
        number: how often the stage has begun.
        changed: called with this object after each change.
    """

    def __init__(self, name: str, total: int | None, unit: str, number: int, changed: Callable[[StageState], None]) -> None:
        self.name, self._total, self._unit, self._number, self._changed = name, total, unit, number, changed
        self._begun, self._ended = time.monotonic(), None
        self._done = self._skipped = 0
        self._search: list[str] = []

    _ended: float | None

    def advance(self, amount: int) -> None:
        self._done += amount
        self._changed(self)

    def skip(self, amount: int) -> None:
        self._skipped += amount
        self.advance(amount)

    def iteration(self, iteration: int, log_likelihood: float, ratio: float, target: float, place: str = "") -> None:
        stops = f"score ratio {ratio:.1e}, target {target:.0e}"
        self._search = [stops, *filter(None, [place]), f"iteration {iteration}", f"log-likelihood {log_likelihood:.10g}"]
        self._changed(self)

    def end(self) -> None:
        """The stage is complete."""
        self._ended = time.monotonic()
        self._changed(self)

    @property
    def ended(self) -> bool:
        """Whether the stage is complete."""
        return self._ended is not None

    def pieces(self) -> list[str]:
        """The state, the most important piece first."""
        number = [f"pass {self._number}"] if self._number > 1 else []
        if self._search:
            return [*number, *self._search, duration(self._seconds)]
        if self.ended:
            counted = f"{self._amount} in " if self._done else ""
            return [*number, f"{counted}{duration(self._seconds)}"]
        if not self._done:
            return [*number, duration(self._seconds)]
        return [*number, self._amount, *self._speed()]

    @property
    def _seconds(self) -> float:
        return (time.monotonic() if self._ended is None else self._ended) - self._begun

    @property
    def _amount(self) -> str:
        whole = "" if self._total is None or self.ended else f" of {self._total:,}"
        return f"{self._done:,}{whole} {self._unit}"

    def _speed(self) -> list[str]:
        """The time left, if it is known, and the speed."""
        worked = self._done - self._skipped
        if not worked:
            return []
        speed = worked / max(self._seconds, 1e-3)
        left = [] if self._total is None else [f"{duration(max(self._total - self._done, 0) / speed)} left"]
        return [*left, *([f"{speed:,.0f} rows/s"] if self._unit == "rows" else [])]


def fitting(pieces: list[str], width: int | None = None) -> str:
    """The first pieces that fit into the width; the first is always among them."""
    text = pieces[0]
    for piece in pieces[1:]:
        longer = f"{text}, {piece}"
        if width is not None and len(longer) > width:
            break
        text = longer
    return text


def duration(seconds: float) -> str:
    """A duration as text, such as 1.2 s, 3 min 20 s or 5 h 7 min."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
