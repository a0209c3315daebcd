"""Jobs and their units of work: a unit reads one slice of a table, returns sums, and may write one part of an output.

Jobs and units are sent to the workers. The result of a unit does not depend on the worker: a unit runs on one thread, over the
batches of its slice.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import pickle
import platform
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mvnjac.tables.slices import Slice
from mvnjac.tensors.allocation import refusal

#: parameters of glibc's mallopt: the size from which memory is returned at once, and the amount of free memory that is retained
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


@dataclass(frozen=True)
class Unit:
    """A unit of work: a slice and its number."""

    number: int
    at: Slice


@dataclass(frozen=True)
class File:
    """A complete file of a part: its name in the output folder, its size, and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Result:
    """The result of a unit: sums that can be merged (None without rows), and the files of its part."""

    number: int
    rows: int
    sums: Any
    files: tuple[File, ...] = ()

    @property
    def size(self) -> int:
        """The bytes of its files."""
        return sum(file.size for file in self.files)


class Job(ABC):
    """The work to be done for each unit. A job is pickled; each worker computes derived objects once."""

    #: the name of this kind of job in manifests and checkpoints; a promise to files that exist
    tag: ClassVar[str]

    @abstractmethod
    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        """Run a unit; `on_rows` is called with numbers of further rows that are done."""

    def fingerprint(self) -> dict[str, Any]:
        """A description of the job as JSON: its fields except `data`, which is described elsewhere.

        Tensors are described by their digests, and objects with a method `fingerprint` by its result.
        """
        return {"job": self.tag, **_fields(self)}


def digest(tensors: Mapping[str, Any]) -> str:
    """The SHA-256 of named tensors."""
    sha = hashlib.sha256()
    for name, value in tensors.items():
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def _fields(value: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(value) if field.name != "data"]
    return {name: _described(getattr(value, name)) for name in names}


def _described(value: Any) -> Any:
    if hasattr(value, "fingerprint"):
        return _described(value.fingerprint())
    if isinstance(value, Mapping):
        return {name: _described(each) for name, each in value.items()}
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if hasattr(value, "detach"):
        return digest({"": value})
    return list(value) if isinstance(value, tuple) else value


class Packed:
    """A pickled job, to be sent to the workers."""

    def __init__(self, job: Job) -> None:
        self.content = pickle.dumps(job)


def run(content: bytes, unit: Unit) -> Result:
    """Run a unit of a pickled job on one thread, because the number of threads affects the rounding of products."""
    with _memory_errors(unit):
        return run_here(_unpacked(content), unit, lambda rows: None)


def run_here(job: Job, unit: Unit, on_rows: Callable[[int], None]) -> Result:
    """Run a unit in this process, on one thread; torch is not imported if the job does not use it."""
    keep_memory()
    torch = sys.modules.get("torch")
    with _memory_errors(unit):
        if torch is None:
            return job.run(unit, on_rows)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return job.run(unit, on_rows)
        finally:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _memory_errors(unit: Unit) -> Iterator[None]:
    """Turns a failed allocation into a MemoryLimitError that names the unit."""
    try:
        yield
    except Exception as error:
        advice = "choose fewer variables with --columns or fewer --workers, or provide more memory."
        memory_error = refusal(error, str(unit.at), advice)
        if memory_error is None or memory_error is error:
            raise
        raise memory_error from error


@functools.cache
def keep_memory() -> None:
    """Make glibc retain freed memory for the next batch: page faults for new memory would cost more than the arithmetic."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, size in ((_MMAP_THRESHOLD, 2**26), (_TRIM_THRESHOLD, 2**28)):
            libc.mallopt(parameter, size)


@functools.lru_cache(maxsize=2)
def _unpacked(content: bytes) -> Job:
    job: Job = pickle.loads(content)
    return job
