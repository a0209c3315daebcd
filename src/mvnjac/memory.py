"""How much memory there is, and the refusal to allocate what cannot fit."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mvnjac import kernels
from mvnjac.errors import MemoryLimitError
from mvnjac.kernels.addresses import address


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
    known = [limit for limit in (_machine(), _container()) if limit is not None]
    return min(known) if known else None


def require(function: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, remedy: str) -> None:
    """Raise MemoryLimitError, before allocating, if an array of this shape cannot fit."""
    needed = math.prod(shape) * dtype.itemsize
    if needed < 2**20:
        return
    free = available(device)
    if free is not None and needed > free:
        size = " × ".join(str(length) for length in shape)
        raise MemoryLimitError(
            f"{function}: the result is {size} numbers of {dtype.itemsize} bytes, {human(needed)}, but {device} has "
            f"{human(free)} free; {remedy}"
        )


def fresh(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised memory for a result; in huge pages where that is switched on and the system has them."""
    result = torch.empty(shape, dtype=dtype, device=device)
    size = result.numel() * dtype.itemsize
    if _huge_pages and size >= HUGE and device.type == "cpu" and kernels.native is not None:
        kernels.native.advise_huge(address(result), size)
    return result


#: results of fewer bytes are left in ordinary pages
HUGE = 32 * 2**20
_huge_pages = os.environ.get("MVNJAC_HUGE_PAGES") == "1"


def use_huge_pages(on: bool) -> None:
    """Whether large results (32 MiB and more) of `Jacobian.matrix` ask the system for huge pages; off by default (Linux, CPU).

    First touching fresh memory is what a large matrix waits for. Huge pages make that three times faster on some machines and
    ten times slower on others (a virtual machine whose host has not backed them), so measure: fill a fresh large array with and
    without. Memory of your own, `out=`, is better than either. MVNJAC_HUGE_PAGES=1 in the environment does the same.

    Example:
        >>> import mvnjac
        >>> mvnjac.use_huge_pages(True)
        >>> mvnjac.use_huge_pages(False)
    """
    global _huge_pages
    _huge_pages = on


def huge_pages() -> bool:
    """Whether they are asked for."""
    return _huge_pages


def _machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # no /proc: the installed memory is at least an upper bound
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _container() -> int | None:
    """What the control group of this process (a container's limit) leaves; None without one."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = (root / "memory.current").read_text().strip()
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None


def human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
