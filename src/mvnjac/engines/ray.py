"""Ray: tasks on this machine or on a cluster. A task whose worker or node dies is begun again by Ray."""

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

#: how often Ray begins a task again whose worker has died
_TRIALS = 5
#: bytes of shared memory that Ray asks for: results are small, and its least is enough
_STORE = 80 * 2**20


class Ray(Engine):
    """Ray is begun when the first unit is, and ended with the engine, unless it was there already."""

    def __init__(self, resources: Resources) -> None:
        self._resources, self._own = resources, False

    def results(self, job: Job, units: Sequence[Unit], on_rows: Callable[[int], None]) -> Iterator[Result]:
        ray = self._begun()
        workers = self._resources.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=1, num_gpus=self._resources.gpus, max_retries=_TRIALS)(run)
        content, waiting, running = ray.put(Packed(job).content), list(reversed(units)), dict[Any, Unit]()
        # Twice as many tasks as workers, so that none waits for the next; on a cluster of others' no more than were asked for.
        most = 2 * workers if self._own or self._resources.workers is None else workers
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

    def _begun(self) -> Any:
        address = self._resources.address
        ray = _module(own=address is None)
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
                    f"--engine ray: Ray could not be begun{f' at {address}' if address else ''}: {error}"
                ) from error
            self._own = not address
        return ray

    def close(self) -> None:
        if self._own:
            _module().shutdown()


def _module(own: bool = False) -> Any:
    """Ray, which tells nobody that it is used. What it is to know it must know before it is imported.

    own: a cluster of this process's own, which nobody else may use; its key is in no file.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if own and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will do by default: it warns otherwise
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray: Ray is not installed; pip install 'mvnjac[ray]'.") from None
    return ray


def _result(ray: Any, reference: Any, unit: Unit) -> Result:
    try:
        result: Result = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # what was raised in the task, as it was raised
        raise error.cause from None
    except ray.exceptions.OutOfMemoryError as error:
        raise MemoryLimitError(
            f"{unit.at}: Ray ended its worker {_TRIALS + 1} times, because the node had too little memory left; use fewer workers "
            "(--workers) or fewer variables (--columns). --resume goes on from here."
        ) from error
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise MvnjacError(f"{unit.at}: its worker died {_TRIALS + 1} times ({reason}). --resume goes on from here.") from error
    return result


def open_engine(resources: Resources) -> Engine:
    return Ray(resources)
