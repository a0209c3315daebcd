"""How much memory there is, and the refusal to allocate what cannot fit."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from mvnjac.errors import MemoryLimitError

#: A chunk of rows of the n×p matrix: large enough that one matrix product a chunk runs at full speed.
CHUNK_BYTES = 8 * 2**20
#: An n×d array that is to stay in the cache of a core while others lie beside it.
CACHE_BYTES = 2**19
#: A chunk of rows of an n×d array: small enough not to be fresh memory each time, large enough that the calls cost nothing
#: beside the arithmetic. Between 2 and 8 MB hardly matters at 10 000×50 and 10 000×200.
ROW_CHUNK_BYTES = 4 * 2**20


def available(device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
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
            f"{function}: the result is {size} numbers of {dtype.itemsize} bytes, {_human(needed)}, but {device} has "
            f"{_human(free)} free; {remedy}"
        )


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


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
