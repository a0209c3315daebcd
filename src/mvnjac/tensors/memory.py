"""Available memory, and checks before allocation that an array fits into it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.errors import MemoryLimitError
from mvnjac.tensors import memory_limits
from mvnjac.tensors.allocation import human

#: allocations of fewer bytes are not checked
SMALL = 2**20


class Workspace:
    """Arrays that are reused for each chunk of rows: allocating new memory costs more than the arithmetic on it."""

    def __init__(self) -> None:
        self._arrays: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, shape: Sequence[int]) -> Tensor:
        """An uninitialised array of this shape; it overwrites the array previously taken under this name."""
        size = math.prod(shape)
        if name not in self._arrays or self._arrays[name].numel() < size:
            self._arrays[name] = like.new_empty(size)
        return self._arrays[name][:size].view(tuple(shape))


def available(device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device; None if the system does not report it."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's caching allocator
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type != "cpu":
        return None
    return min(memory_limits.limits().values(), default=None)


def require_bytes(what: str, needed: float, device: torch.device, remedy: str) -> None:
    """Raise MemoryLimitError, before allocating, if this many bytes do not fit.

    Args:
        what: the function and, after a colon, what it allocates: "hessian.matrix: the result and the work space".
        needed: the peak number of bytes in addition to those already allocated.
        device: the device of the allocation.
        remedy: what the user can do instead, as the end of the message: "select columns by wrt=."
    """
    if needed < SMALL:
        return
    free = available(device)
    if free is not None and needed > free:
        raise MemoryLimitError(
            f"{what}: {human(needed)} are needed, but {device} has {human(free)} free{_why(device, free)}; {remedy}"
        )


def _why(device: torch.device, free: int) -> str:
    """The name of the binding limit, in parentheses, unless it is the machine's memory."""
    if device.type != "cpu":
        return ""
    name, smallest = min(memory_limits.limits().items(), key=lambda limit: limit[1], default=("", 0))
    return f" ({name})" if name and not name.startswith("the machine") and smallest <= free else ""


def require(function: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, remedy: str) -> None:
    """Raise MemoryLimitError, before allocating, if an array of this shape does not fit."""
    needed = math.prod(shape) * dtype.itemsize
    if needed >= SMALL:
        size = " × ".join(str(length) for length in shape)
        require_bytes(f"{function}: the result is {size} numbers of {dtype.itemsize} bytes", needed, device, remedy)


def require_work(
    what: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, times: float, more: float, remedy: str
) -> None:
    """Raise MemoryLimitError, before allocating, if `times` arrays of this shape and `more` further bytes do not fit."""
    needed = times * math.prod(shape) * dtype.itemsize + more
    if needed >= SMALL:
        size = " × ".join(str(length) for length in shape)
        require_bytes(f"{what}: {size} numbers and the work space", needed, device, remedy)
