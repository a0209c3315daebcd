"""How much memory there is, and the refusal to allocate what cannot fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.errors import MemoryLimitError
from mvnjac.tensors import memory_limits
from mvnjac.tensors.allocation import human

#: what needs fewer bytes is not asked about
SMALL = 2**20


class Workspace:
    """Memory that each chunk of rows uses again: fresh memory costs more than the arithmetic on it."""

    def __init__(self) -> None:
        self._arrays: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, shape: Sequence[int]) -> Tensor:
        """An uninitialised array of this shape; what it held under this name before is gone."""
        size = math.prod(shape)
        if name not in self._arrays or self._arrays[name].numel() < size:
            self._arrays[name] = like.new_empty(size)
        return self._arrays[name][:size].view(tuple(shape))


def available(device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device; None where the system does not say."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch keeps what was freed
        return int(torch.cuda.mem_get_info(device)[0]) + held
    if device.type != "cpu":
        return None
    return min(memory_limits.limits().values(), default=None)


def require_bytes(what: str, needed: int | float, device: torch.device, remedy: str) -> None:
    """Raise MemoryLimitError, before allocating, if so many bytes at once cannot fit.

    Args:
        what: the function, and after a colon what it needs: "hessian.matrix: the result and the work space".
        needed: the most bytes that it will hold at once beside what is allocated already.
        device: where.
        remedy: what the user can do instead, the end of the sentence: "select columns by wrt=."
    """
    if needed < SMALL:
        return
    free = available(device)
    if free is not None and needed > free:
        raise MemoryLimitError(
            f"{what}: {human(needed)} are needed, but {device} has {human(free)} free{_why(device, free)}; {remedy}"
        )


def _why(device: torch.device, free: int) -> str:
    """Which limit it is, where that is not the machine's memory."""
    if device.type != "cpu":
        return ""
    name, least = min(memory_limits.limits().items(), key=lambda limit: limit[1], default=("", 0))
    return f" ({name})" if name and not name.startswith("the machine") and least <= free else ""


def require(function: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, remedy: str) -> None:
    """Raise MemoryLimitError, before allocating, if an array of this shape cannot fit."""
    needed = math.prod(shape) * dtype.itemsize
    if needed >= SMALL:
        size = " × ".join(str(length) for length in shape)
        require_bytes(f"{function}: the result is {size} numbers of {dtype.itemsize} bytes", needed, device, remedy)


def require_work(
    what: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    times: int | float,
    more: int | float,
    remedy: str,
) -> None:
    """Raise MemoryLimitError, before allocating, if arrays of this shape, `times` of them, and `more` bytes beside cannot fit."""
    needed = times * math.prod(shape) * dtype.itemsize + more
    if needed >= SMALL:
        size = " × ".join(str(length) for length in shape)
        require_bytes(f"{what}: {size} numbers and the work space", needed, device, remedy)
