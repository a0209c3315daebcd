"""Failed allocations of any library are converted to a MemoryLimitError that states the requested size and a remedy.

Arrays that grow with the data are checked before they are allocated (`memory.require`); this module handles the allocations
that fail nevertheless.
"""

from __future__ import annotations

import errno
import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mvnjac.errors import MemoryLimitError, MvnjacError

P = ParamSpec("P")
R = TypeVar("R")

#: messages of out-of-memory errors raised as a general class: by torch's allocators, C++, the dynamic linker, a thread's start
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|std::bad_alloc|bad allocation|Storage size calculation overflowed"
    r"|failed to map segment|cannot allocate memory|can't start new thread",
    re.IGNORECASE,
)
_SIZE = re.compile(r"(?:allocate|alloc of size) (\d[\d.]*) ?([KMGTPE]?)i?B?", re.IGNORECASE)


def failed(error: BaseException) -> bool:
    """Whether this exception, raised by any library, reports a failed allocation of memory."""
    if isinstance(error, MvnjacError):
        return isinstance(error, MemoryLimitError)
    if isinstance(error, MemoryError):  # the class used by numpy and pyarrow
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | ImportError | OSError) and bool(_OUT_OF_MEMORY.search(str(error)))


def refusal(error: BaseException, what: str, remedy: str) -> MemoryLimitError | None:
    """The MemoryLimitError for a failed allocation; a MemoryLimitError itself is returned, any other error gives None."""
    if isinstance(error, MemoryLimitError):
        return error
    if not failed(error):
        return None
    size = _SIZE.search(str(error))
    requested = (
        "" if size is None else f" of {human(float(size.group(1)) * 1024 ** ' KMGTPE'.index(size.group(2).upper() or ' '))}"
    )
    return MemoryLimitError(f"{what}: an allocation{requested} failed: not enough memory is available; {remedy}")


def guarded(what: str, remedy: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that failed allocations raise MemoryLimitError; other exceptions are unchanged.

    Args:
        what: the public name of the function, as a format string of its arguments: "{0._name}.matrix".
        remedy: the end of the message: "select columns by wrt=."
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except (MemoryError, RuntimeError, OSError) as error:
                converted = _outermost(error, what.format(*args), remedy)
                if converted is None or converted is error:
                    raise
                raise converted from _origin(error)

        return call

    return decorate


def _origin(error: BaseException) -> BaseException:
    """The original exception, if an inner guarded function has already converted it."""
    cause = error.__cause__ if isinstance(error, MemoryLimitError) else None
    return error if cause is None or isinstance(cause, MemoryLimitError) else cause


def _outermost(error: BaseException, what: str, remedy: str) -> MemoryLimitError | None:
    """The error that names the outermost guarded function, which the user called."""
    origin = _origin(error)
    if origin is error and isinstance(error, MemoryLimitError):
        return error if str(error).startswith(what) else MemoryLimitError(f"{what}: {error}")
    return refusal(origin, what, remedy)


def human(size: float) -> str:
    """A size in bytes as text: "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
