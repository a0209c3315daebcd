"""This machine: this process, or processes beside it.

They are spawned, never forked: threads of torch and of Arrow's allocator, which begins one as soon as it is imported, survive no fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait

from mvnjac.engines.engine import Engine, Resources
from mvnjac.engines.job import Job, Packed, Result, Unit, run, run_here
from mvnjac.errors import MvnjacError
from mvnjac.tensors.allocation import refusal

#: a worker takes about two seconds to start: so many units must wait for each before it is worth it
_UNITS_A_WORKER = 8
_LESS = "fewer workers (--workers) or fewer variables (--columns) need less."
#: how often a unit may be begun again after its worker has died
_TRIALS = 5


class Local(Engine):
    """One worker is this process itself."""

    def __init__(self, workers: int | None) -> None:
        self._workers = workers

    def results(self, job: Job, units: Sequence[Unit], on_rows: Callable[[int], None]) -> Iterator[Result]:
        workers = self._workers or max(1, min(cores(), len(units) // _UNITS_A_WORKER))
        if workers == 1:
            for unit in units:
                yield run_here(job, unit, on_rows)
            return
        pool = _Pool(Packed(job).content, min(workers, len(units)))
        try:
            for result in pool.results(units):
                on_rows(result.rows)
                yield result
        finally:
            pool.end()

    def close(self) -> None:
        """A pool ends with the results that were asked of it."""


class _Worker:
    """A process that does one unit at a time."""

    def __init__(self, content: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, content, os.getpid()), daemon=True)
        self.process.start()
        there.close()
        self.unit: Unit | None = None

    def begin(self, unit: Unit) -> None:
        """Send it a unit. If it has died, that is found when it is waited for."""
        self.unit = unit
        with contextlib.suppress(OSError):
            self.connection.send(unit)

    def answer(self) -> Result | Exception | None:
        """What has become of its unit; None if it has died."""
        try:
            answer: Result | Exception = self.connection.recv()
        except (EOFError, OSError):
            return None
        self.unit = None
        return answer

    def end(self) -> None:
        """At once: a unit that is under way is given up."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Pool:
    """Workers; one that dies is replaced, and its unit begun again. Nothing of what it did counts."""

    def __init__(self, content: bytes, workers: int) -> None:
        self._content, self._trials = content, dict[int, int]()
        self._workers = [_Worker(content) for _ in range(workers)]

    def results(self, units: Sequence[Unit]) -> Iterator[Result]:
        """As they come."""
        waiting, left = list(reversed(units)), len(units)
        while left:
            for worker in self._workers:
                if worker.unit is None and waiting:
                    worker.begin(waiting.pop())
            ready = wait([worker.connection for worker in self._workers if worker.unit is not None])
            for i, worker in enumerate(self._workers):
                if worker.connection not in ready:
                    continue
                unit, answer = worker.unit, worker.answer()
                if isinstance(answer, Exception):
                    raise answer
                if answer is not None:
                    left -= 1
                    yield answer
                elif unit is not None:
                    self._count(unit)
                    worker.end()
                    self._workers[i] = _Worker(self._content)
                    waiting.append(unit)

    def end(self) -> None:
        """Of all of them."""
        for worker in self._workers:
            worker.end()

    def _count(self, unit: Unit) -> None:
        trials = self._trials[unit.number] = self._trials.get(unit.number, 0) + 1
        if trials > _TRIALS:
            raise MvnjacError(
                f"{unit.at}: a worker died {trials} times while this was under way. Was it killed for its memory? Fewer workers "
                "(--workers) need less."
            )


def _serve(connection: Connection, content: bytes, driver: int) -> None:
    """Do units until there is no driver. An interruption is the driver's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(driver,), daemon=True).start()
    while True:
        try:
            unit = connection.recv()
        except EOFError:
            return
        try:
            answer: Result | Exception = run(content, unit)
        except Exception as error:
            answer = error
        try:
            connection.send(answer)
        except Exception as error:  # nothing of it has been sent: it could not be pickled
            connection.send(
                refusal(error, str(unit.at), _LESS) or MvnjacError(f"{unit.at}: its result cannot be sent: {error}")
            )


def _watch(driver: int) -> None:
    """End with the driver, whatever is under way."""
    while os.getppid() == driver:
        time.sleep(0.5)
    os._exit(1)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_engine(resources: Resources) -> Engine:
    return Local(resources.workers)
