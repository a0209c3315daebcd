"""One unit of work: a slice of a table → its sums and, where rows are written, its own part.

A job says what is done with each batch of rows; it travels to the workers, and so do slices, which are a few numbers each.
Whoever runs a unit, and how often, its result is the same: it works on one thread, on the batches that its slice has.
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
from typing import Any

from mvnjac.tables.slices import Slice
from mvnjac.tensors.allocation import refusal

#: parameters of glibc's mallopt: below how many bytes memory is kept, and how much of it
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


@dataclass(frozen=True)
class Unit:
    """A slice and its number."""

    number: int
    at: Slice


@dataclass(frozen=True)
class File:
    """A file of a part that is complete: its name in the output's folder, its size, its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Result:
    """What became of a unit: sums that can be merged (None of no rows), and the files of its part."""

    number: int
    rows: int
    sums: Any
    files: tuple[File, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)


class Job(ABC):
    """What is done with each unit. It is pickled: what is made from it on the way is made anew by each worker, once."""

    @abstractmethod
    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        """Do the unit; `on_rows` hears of so many rows more."""

    def fingerprint(self) -> dict[str, Any]:
        """What it does with the rows that it is given, as JSON: its fields but for `data`, which is said elsewhere; tensors by their
        digests, and what has a `fingerprint` of its own by that."""
        return {"job": type(self).__name__, **_fields(self)}


def digest(tensors: Mapping[str, Any]) -> str:
    """The SHA-256 of some tensors, bit by bit."""
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
    """A job on its way to the workers."""

    def __init__(self, job: Job) -> None:
        self.content = pickle.dumps(job)


def run(content: bytes, unit: Unit) -> Result:
    """A unit of a packed job, on one thread: how many threads share a product is part of its rounding."""
    with _memory_of(unit):
        return run_here(_unpacked(content), unit, lambda rows: None)


def run_here(job: Job, unit: Unit, on_rows: Callable[[int], None]) -> Result:
    """A unit of a job, likewise; a job that has no use for torch does not import it."""
    keep_memory()
    torch = sys.modules.get("torch")
    with _memory_of(unit):
        if torch is None:
            return job.run(unit, on_rows)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return job.run(unit, on_rows)
        finally:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _memory_of(unit: Unit) -> Iterator[None]:
    """An allocation that fails is a MemoryLimitError that names the unit."""
    try:
        yield
    except Exception as error:
        sentence = refusal(
            error, str(unit.at), "choose fewer variables by --columns or fewer --workers, or give each more memory."
        )
        if sentence is None or sentence is error:
            raise
        raise sentence from error


@functools.cache
def keep_memory() -> None:
    """What a batch has used serves the next one: handed back to the system, it would cost more than the arithmetic on it."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, size in ((_MMAP_THRESHOLD, 2**26), (_TRIM_THRESHOLD, 2**28)):
            libc.mallopt(parameter, size)


@functools.lru_cache(maxsize=2)
def _unpacked(content: bytes) -> Job:
    job: Job = pickle.loads(content)
    return job
