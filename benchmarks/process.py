"""A contestant in a process of its own, stopped whenever it is not its turn.

Idle thread pools (OpenMP, OpenBLAS, XLA) spin for a while, and slow whoever comes next about twice: a stopped process cannot. Its
own process also makes its peak memory its own. The processes are forks of a server that has imported the libraries and
computed nothing.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.workload import Contestant, Data, Workload

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["mvnjac", "scipy.linalg", "threadpoolctl", "jax", "benchmarks.workloads"])
_PR_SET_PDEATHSIG = 1


class ContestantError(Exception):
    """A contestant raised; the text says what."""


class Process:
    """One contestant, ready.

    Attributes:
        seconds: what the first call took.
        peak: bytes that the first call took at most above what was there before it (the inputs, the libraries).
    """

    def __init__(self, workload: Workload, contestant: Contestant, dtype: str, threads: int) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_serve,
            args=(theirs, workload, contestant, contestant.dtype or dtype, contestant.threads or threads),
            daemon=True,
        )
        self._process.start()
        theirs.close()
        try:
            self.seconds, self.peak = self._reply()
        except ContestantError:
            self.close()
            raise

    def time(self, calls: int, untimed: int = 0) -> tuple[float, float]:
        """Seconds a call, the mean of so many after some untimed ones, and seconds of processor time in it."""
        os.kill(self._pid, signal.SIGCONT)
        self._pipe.send((calls, untimed))
        return self._reply()

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def _reply(self) -> Any:
        try:
            reply = self._pipe.recv()
        except EOFError:
            raise ContestantError("the process died (out of memory?)") from None
        if isinstance(reply, str):
            raise ContestantError(reply)
        os.kill(self._pid, signal.SIGSTOP)
        return reply


def _serve(pipe: Connection, workload: Workload, contestant: Contestant, dtype: str, threads: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a stopped process would outlive the server
    try:
        _limit_threads(threads)
        contestant.prepare(_cast(workload.tiny(), dtype))()  # code is loaded, pools are made: none of that is the call's memory
        call = contestant.prepare(_cast(workload.data(), dtype))
        before = _reset_peak()
        seconds = _timed(call)
        pipe.send((seconds, _memory("VmHWM") - before))
        while True:
            calls, untimed = pipe.recv()
            for _ in range(untimed):
                call()
            start = time.process_time()
            seconds = sum(_timed(call) for _ in range(calls))
            pipe.send((seconds / calls, (time.process_time() - start) / calls))
    except EOFError:
        return
    except Exception:
        pipe.send(traceback.format_exc(limit=-2))


def _timed(call: Any) -> float:
    """Seconds, the result's release not included."""
    start = time.perf_counter()
    result = call()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def _limit_threads(threads: int) -> None:
    """Every pool that anybody here uses. XLA reads its own when JAX is first used."""
    import torch
    from threadpoolctl import threadpool_limits

    os.environ["PJRT_NPROC"] = os.environ["NPROC"] = str(threads)
    os.environ["XLA_FLAGS"] = "" if threads > 1 else "--xla_cpu_multi_thread_eigen=false"
    threadpool_limits(threads)
    torch.set_num_threads(threads)


def _cast(data: Data, dtype: str) -> Data:
    return {name: array.astype(dtype) for name, array in data.items()}


def _reset_peak() -> int:
    """The memory in use, bytes, which becomes the peak so far."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024
