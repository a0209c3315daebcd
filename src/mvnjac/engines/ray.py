"""The Ray engine: tasks on this machine or on a cluster. Ray retries a task whose worker or node dies."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mvnjac.engines.engine import Engine, Resources
from mvnjac.engines.job import Job, Packed, Result, Unit, run
from mvnjac.engines.local import cores
from mvnjac.errors import MemoryLimitError, MvnjacError, UsageError

#: how often Ray retries a task whose worker has died
_TRIALS = 5
#: bytes of shared memory of a local Ray cluster: results are small, and its minimum suffices
_STORE = 80 * 2**20


class Ray(Engine):
    """Starts Ray with the first job, unless it is initialised already, and then shuts it down with the engine."""

    def __init__(self, resources: Resources) -> None:
        self._resources, self._started = resources, False

    def results(self, job: Job, units: Sequence[Unit], on_rows: Callable[[int], None]) -> Iterator[Result]:
        ray = self._initialised()
        workers = self._resources.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=1, num_gpus=self._resources.gpus, max_retries=_TRIALS)(run)
        content, waiting, running = ray.put(Packed(job).content), list(reversed(units)), dict[Any, Unit]()
        # Twice as many tasks as workers keep all workers busy; on a shared cluster, no more tasks than --workers.
        most = 2 * workers if self._started or self._resources.workers is None else workers
        try:
            while waiting or running:
                while waiting and len(running) < most:
                    unit = waiting.pop()
                    running[task.remote(content, unit)] = unit
                ready, _ = ray.wait(list(running), num_returns=1)
                for reference in ready:
                    result = _result(ray, reference, running.pop(reference))
                    on_rows(result.rows)
                    yield result
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _initialised(self) -> Any:
        address = self._resources.address
        ray = _module(private=address is None)
        if not ray.is_initialized():
            local: dict[str, Any] = {}
            if not address:
                local = {
                    "num_cpus": self._resources.workers or cores(),
                    "object_store_memory": _STORE,
                    "include_dashboard": False,
                }
            try:
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise MvnjacError(
                    f"--engine ray: Ray could not be started{f' at {address}' if address else ''}: {error}"
                ) from error
            self._started = not address
        return ray

    def close(self) -> None:
        if self._started:
            _module().shutdown()


def _module(private: bool = False) -> Any:
    """Import Ray, without usage statistics. Its environment variables must be set before the import.

    Args:
        private: whether the cluster belongs to this process alone; it is then protected by a random token, which is in no file.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if private and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the future default; otherwise Ray warns
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray: Ray is not installed; pip install 'mvnjac[ray]'.") from None
    return ray


def _result(ray: Any, reference: Any, unit: Unit) -> Result:
    try:
        result: Result = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # the original exception of the task
        raise error.cause from None
    except ray.exceptions.OutOfMemoryError as error:
        raise MemoryLimitError(
            f"{unit.at}: Ray ended its worker {_TRIALS + 1} times, because the node had too little memory; use fewer workers "
            "(--workers) or fewer variables (--columns). --resume continues from here."
        ) from error
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise MvnjacError(
            f"{unit.at}: its worker died {_TRIALS + 1} times ({reason}). --resume continues from here."
        ) from error
    return result


def open_engine(resources: Resources) -> Engine:
    return Ray(resources)
