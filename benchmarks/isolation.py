"""Implementations in separate processes, which are stopped while other implementations are timed.

Idle thread pools (OpenMP, OpenBLAS, XLA) spin for a while and can double the time of the next implementation; a stopped process cannot.
A separate process also allows its peak memory to be measured. The processes are forks of a server that has imported the libraries,
but computed nothing.
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

from benchmarks.workload import Data, Implementation, Workload

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["mvnjac", "scipy.linalg", "threadpoolctl", "jax", "benchmarks.workloads"])
_PR_SET_PDEATHSIG = 1


class ImplementationError(Exception):
    """An implementation raised an error."""


class Process:
    """The process of one implementation, ready to be timed.

    Attributes:
        seconds: the duration of the first call.
        peak: the peak memory of the first call, in bytes, in addition to the memory before it (inputs and libraries).
    """

    def __init__(self, workload: Workload, implementation: Implementation, dtype: str, threads: int) -> None:
        self._pipe, child_pipe = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_serve,
            args=(child_pipe, workload, implementation, implementation.dtype or dtype, implementation.threads or threads),
            daemon=True,
        )
        self._process.start()
        child_pipe.close()
        try:
            self.seconds, self.peak = self._reply()
        except ImplementationError:
            self.close()
            raise

    def time(self, calls: int, untimed: int = 0) -> tuple[float, float]:
        """The mean seconds per call and the mean seconds of processor time, over `calls` calls after some untimed ones."""
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
            raise ImplementationError("the process died (out of memory?)") from None
        if isinstance(reply, str):
            raise ImplementationError(reply)
        os.kill(self._pid, signal.SIGSTOP)
        return reply


def _serve(pipe: Connection, workload: Workload, implementation: Implementation, dtype: str, threads: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # otherwise a stopped process would outlive the server
    try:
        _limit_threads(threads)
        implementation.prepare(
            _cast(workload.tiny(), dtype)
        )()  # loads code and creates thread pools, which are not part of the memory of a call
        call = implementation.prepare(_cast(workload.data(), dtype))
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
    """The seconds of a call, without releasing its result."""
    start = time.perf_counter()
    result = call()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def _limit_threads(threads: int) -> None:
    """Limit all thread pools. XLA reads its settings when JAX is first used."""
    import torch
    from threadpoolctl import threadpool_limits

    os.environ["PJRT_NPROC"] = os.environ["NPROC"] = str(threads)
    os.environ["XLA_FLAGS"] = "" if threads > 1 else "--xla_cpu_multi_thread_eigen=false"
    threadpool_limits(threads)
    torch.set_num_threads(threads)


def _cast(data: Data, dtype: str) -> Data:
    return {name: array.astype(dtype) for name, array in data.items()}


def _reset_peak() -> int:
    """Reset the peak memory to the memory in use, which is returned in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024
