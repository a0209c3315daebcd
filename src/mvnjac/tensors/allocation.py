"""An allocation that fails becomes a MemoryLimitError, whatever library failed: one sentence, with what was asked for and a remedy.

What grows with the data is refused before it is allocated (`memory.require`); this is for what the system refuses all the same.
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

#: what says of an error of a general class that it is about memory: torch's allocators, C++, the dynamic linker, the start of a thread
_WORDS = re.compile(
    r"can't allocate memory|not enough memory|out of memory|std::bad_alloc|bad allocation|Storage size calculation overflowed"
    r"|failed to map segment|cannot allocate memory|can't start new thread",
    re.IGNORECASE,
)
_SIZE = re.compile(r"(?:allocate|alloc of size) (\d[\d.]*) ?([KMGTPE]?)i?B?", re.IGNORECASE)


def failed(error: BaseException) -> bool:
    """Whether an exception, of any library, says that memory could not be allocated."""
    if isinstance(error, MvnjacError):
        return isinstance(error, MemoryLimitError)
    if isinstance(error, MemoryError):  # numpy's and pyarrow's are of this class
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | ImportError | OSError) and bool(_WORDS.search(str(error)))


def refusal(error: BaseException, what: str, remedy: str) -> MemoryLimitError | None:
    """The sentence for an allocation that failed; one that has been refused stays as it is; None for any other error."""
    if isinstance(error, MemoryLimitError):
        return error
    if not failed(error):
        return None
    size = _SIZE.search(str(error))
    asked = "" if size is None else f" of {human(float(size.group(1)) * 1024 ** ' KMGTPE'.index(size.group(2).upper() or ' '))}"
    return MemoryLimitError(f"{what}: an allocation{asked} failed: the memory that is available does not suffice; {remedy}")


def guarded(what: str, remedy: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function whose failed allocations are MemoryLimitErrors; anything else passes.

    Args:
        what: the function's name, as users call it; a format of its arguments: "{0._name}.matrix".
        remedy: the end of the sentence: "select columns by wrt=."
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except (MemoryError, RuntimeError, OSError) as error:
                sentence = _outermost(error, what.format(*args), remedy)
                if sentence is None or sentence is error:
                    raise
                raise sentence from _origin(error)

        return call

    return decorate


def _origin(error: BaseException) -> BaseException:
    """What failed first, where that has been said already by a function further in."""
    cause = error.__cause__ if isinstance(error, MemoryLimitError) else None
    return error if cause is None or isinstance(cause, MemoryLimitError) else cause


def _outermost(error: BaseException, what: str, remedy: str) -> MemoryLimitError | None:
    """The sentence of the function that was called: its name stands before a refusal by one further in."""
    origin = _origin(error)
    if origin is error and isinstance(error, MemoryLimitError):
        return error if str(error).startswith(what) else MemoryLimitError(f"{what}: {error}")
    return refusal(origin, what, remedy)


def human(size: float) -> str:
    """Bytes: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
