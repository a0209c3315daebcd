"""This machine: this process, or processes beside it. They are spawned, never forked: threads of torch and Arrow survive no fork."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from mvnjac.engines.engine import Engine, Resources
from mvnjac.engines.unit import Job, Packed, Result, Unit, run, run_here
from mvnjac.errors import MvnjacError

#: a worker takes about two seconds to start: so many units must wait for each before it is worth it
_UNITS_A_WORKER = 8
#: how often a unit may be begun again after its worker has died
_TRIALS = 5


class Local(Engine):
    """One worker is this process itself."""

    def __init__(self, workers: int | None) -> None:
        self._workers = workers

    def results(self, job: Job, units: Sequence[Unit], told: Callable[[int], None]) -> Iterator[Result]:
        workers = self._workers or max(1, min(cores(), len(units) // _UNITS_A_WORKER))
        if workers == 1:
            for unit in units:
                yield run_here(job, unit, told)
            return
        yield from _pooled(Packed(job).content, units, workers, told)


def _pooled(content: bytes, units: Sequence[Unit], workers: int, told: Callable[[int], None]) -> Iterator[Result]:
    """By a pool; one of whose workers has died is replaced, and what was under way is begun again."""
    waiting, trials = list(reversed(units)), dict[int, int]()
    while waiting:
        running: dict[Future[Result], Unit] = {}
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    unit = waiting.pop()
                    running[pool.submit(run, content, unit)] = unit
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    del running[future]
                    told(result.rows)
                    yield result
        except BrokenProcessPool:
            waiting += _again(running, trials)
        finally:
            _end(pool)


def _again(running: dict[Future[Result], Unit], trials: dict[int, int]) -> list[Unit]:
    """What was under way, the first one last. Nothing of it counts: a part that was written is written again."""
    units = sorted(running.values(), key=lambda unit: -unit.number)
    for unit in units:
        trials[unit.number] = trials.get(unit.number, 0) + 1
        if trials[unit.number] > _TRIALS:
            raise MvnjacError(
                f"{unit.at}: a worker died {_TRIALS + 1} times while this was under way. Was it killed for its memory? Fewer workers "
                "(--workers) need less; --resume goes on from here."
            )
    return units


def _end(pool: ProcessPoolExecutor) -> None:
    """At once: a unit that was given up is not waited for."""
    workers = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()


def _start() -> None:
    """An interruption is the driver's to answer; without a driver there is nothing left to do."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_the_driver()


def _die_with_the_driver() -> None:
    import threading
    import time

    driver = os.getppid()

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_engine(resources: Resources) -> Engine:
    return Local(resources.workers)
