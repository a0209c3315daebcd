"""Displays of progress: on a terminal, in a notebook, or as plain lines."""

from __future__ import annotations

import contextlib
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from mvnjac.errors import ArgumentError
from mvnjac.progress.stages import Callback, CallbackProgress, Progress, Stage
from mvnjac.progress.states import StageState, fitting

#: seconds between two plain lines, and between two updates of a notebook
_PAUSE, _NOTEBOOK_PAUSE = 5.0, 0.2


@contextlib.contextmanager
def requested(function: str, progress: bool | Callback | None) -> Iterator[Progress]:
    """The progress that the argument `progress` of a function asks for.

    Args:
        function: the name of the function, for messages.
        progress: True: display it; False or None: show nothing; a function: call it at each iteration.

    Raises:
        ArgumentError: something else.
    """
    if progress is True:
        with displayed() as shown:
            yield shown
    elif progress is None or progress is False:
        yield Progress()
    elif callable(progress):
        yield CallbackProgress(progress)
    else:
        raise ArgumentError(
            f"{function}: progress is {progress!r}; expected True, False, or a function of (stage, iteration, log-likelihood)."
        )


@contextlib.contextmanager
def displayed() -> Iterator[Progress]:
    """A display for the place where messages go: a notebook, a terminal, or, elsewhere, a line on stderr every few seconds."""
    display = _NotebookDisplay() if _in_notebook() else _TerminalDisplay() if sys.stderr.isatty() else _Lines()
    with display.open():
        yield display


class Display(Progress):
    """A display of the stages. `stages`: the latest state of each, in the order of their beginning."""

    def __init__(self) -> None:
        self.stages, self._counts = dict[str, StageState](), dict[str, int]()

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """The time in which the display is visible."""
        yield

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> Iterator[Stage]:
        number = self._counts[name] = self._counts.get(name, 0) + 1
        state = self.stages[name] = StageState(name, total, unit, number, self.show)
        self.show(state)
        yield state
        state.end()

    @abstractmethod
    def show(self, stage: StageState) -> None:
        """Show the new state of a stage."""


class _Lines(Display):
    """A line at most every few seconds, on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._last = time.monotonic()

    def show(self, stage: StageState) -> None:
        if time.monotonic() - self._last > _PAUSE:
            self._last = time.monotonic()
            print(f"{stage.name}: {fitting(stage.pieces())}", file=sys.stderr, flush=True)


class _TerminalDisplay(Display):
    """A line for each stage, redrawn in place while the computation runs, and removed at its end."""

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        live = Live(
            console=console,
            get_renderable=lambda: self._drawn(console),
            transient=True,
            refresh_per_second=8,
            redirect_stdout=False,
        )
        with live:
            yield
            live.refresh()

    def show(self, stage: StageState) -> None:
        """The display is redrawn by a thread."""

    def _drawn(self, console: Any) -> Any:
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.text import Text

        stages = list(self.stages.values())
        unicode = console.encoding.lower().startswith("utf")
        mark = Spinner("dots" if unicode else "line").render(console.get_time())
        wide = max((len(stage.name) for stage in stages), default=0)
        lines = []
        for stage in stages:
            sign = Text(("✓" if unicode else "+") if stage.ended else str(mark), style="green")
            state = fitting(stage.pieces(), console.width - wide - 5)
            lines.append(Text.assemble(sign, f" {stage.name:{wide}}  ", (state, "dim" if stage.ended else "")))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines)


class _NotebookDisplay(Display):
    """A line for each stage in the output of the cell."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None
        self._last = 0.0

    def show(self, stage: StageState) -> None:
        if stage.ended or time.monotonic() - self._last > _NOTEBOOK_PAUSE:
            self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        self._last = time.monotonic()
        lines = [f"{'✓' if stage.ended else '…'} {stage.name}: {fitting(stage.pieces())}" for stage in self.stages.values()]
        content = {"text/plain": "\n".join(lines)}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    return getattr(shell, "kernel", None) is not None
