"""The local engine: this process, or worker processes on this machine.

Workers are spawned, not forked, because the threads of torch and of pyarrow's allocator do not survive a fork.
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

#: by default there is one worker per this many units, because starting a worker takes about two seconds
_UNITS_A_WORKER = 8
_ADVICE = "fewer workers (--workers) or fewer variables (--columns) need less."
#: how often a unit is retried after its worker has died
_TRIALS = 5


class Local(Engine):
    """With one worker, units run in this process."""

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
            pool.stop()

    def close(self) -> None:
        """Nothing to release: a pool of workers ends with its results."""


class _Worker:
    """A worker process, which runs one unit at a time."""

    def __init__(self, content: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, content, os.getpid()), daemon=True)
        self.process.start()
        there.close()
        self.unit: Unit | None = None

    def begin(self, unit: Unit) -> None:
        """Send a unit to the worker. If the worker has died, `answer` returns None later."""
        self.unit = unit
        with contextlib.suppress(OSError):
            self.connection.send(unit)

    def answer(self) -> Result | Exception | None:
        """The result or the error of its unit; None if the worker has died."""
        try:
            answer: Result | Exception = self.connection.recv()
        except (EOFError, OSError):
            return None
        self.unit = None
        return answer

    def stop(self) -> None:
        """Kill the worker; a running unit is abandoned."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Pool:
    """A pool of workers. A worker that dies is replaced, and its unit is run again."""

    def __init__(self, content: bytes, workers: int) -> None:
        self._content, self._trials = content, dict[int, int]()
        self._workers = [_Worker(content) for _ in range(workers)]

    def results(self, units: Sequence[Unit]) -> Iterator[Result]:
        """The results of the units, as they become available."""
        waiting, remaining = list(reversed(units)), len(units)
        while remaining:
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
                    remaining -= 1
                    yield answer
                elif unit is not None:
                    self._count_retry(unit)
                    worker.stop()
                    self._workers[i] = _Worker(self._content)
                    waiting.append(unit)

    def stop(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.stop()

    def _count_retry(self, unit: Unit) -> None:
        trials = self._trials[unit.number] = self._trials.get(unit.number, 0) + 1
        if trials > _TRIALS:
            raise MvnjacError(
                f"{unit.at}: a worker died {trials} times while it processed these rows. Was it killed because of its memory? "
                "Fewer workers (--workers) need less."
            )


def _serve(connection: Connection, content: bytes, driver: int) -> None:
    """The main loop of a worker: run units until the connection closes. SIGINT is ignored, since the driver handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_driver, args=(driver,), daemon=True).start()
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
        except Exception as error:  # the answer cannot be pickled; nothing has been sent
            connection.send(
                refusal(error, str(unit.at), _ADVICE) or MvnjacError(f"{unit.at}: its result cannot be sent: {error}")
            )


def _exit_with_driver(driver: int) -> None:
    """Exit as soon as the driver process has ended."""
    while os.getppid() == driver:
        time.sleep(0.5)
    os._exit(1)


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_engine(resources: Resources) -> Engine:
    return Local(resources.workers)
