"""How much memory this process may still allocate: free memory, limits of control groups (containers), resource limits."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PROCESS = Path("/proc/self")
#: for each version of control groups: the files of the limit and the usage, and the prefix of the counters of cached files
_VERSION_2 = ("memory.max", "memory.current", "")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def limits() -> dict[str, int]:
    """Bytes that can still be allocated in main memory under each limit that the system reports, by the limit's name."""
    known = {
        "the machine's memory": machine(),
        "the limit of the control group (container)": container(),
        "the limit of the address space, RLIMIT_AS (ulimit -v)": resource_left("RLIMIT_AS", "VmSize"),
        "the limit of the data segment, RLIMIT_DATA (ulimit -d)": resource_left("RLIMIT_DATA", "VmData"),
    }
    return {name: left for name, left in known.items() if left is not None}


def machine() -> int | None:
    """Bytes available without swapping; the installed memory if the system does not report it."""
    available = _counter(Path("/proc/meminfo"), "MemAvailable:")
    if available is not None:
        return available * 1024
    try:  # no /proc: the installed memory is at least an upper bound
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def container(process: Path = _PROCESS, root: Path = _CGROUPS) -> int | None:
    """Bytes left under the control group of this process and its ancestors (the minimum); None if none has a limit."""
    remaining = [_remaining(folder, version) for folder, version in _groups(process, root, os.getpid())]
    return min((size for size in remaining if size is not None), default=None)


def resource_left(limit: str, counter: str, process: Path = _PROCESS) -> int | None:
    """Bytes left under a resource limit of this process; None if it is not set or not supported by the system."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    kind = getattr(resource, limit, None)
    if kind is None:
        return None
    allowed = resource.getrlimit(kind)[0]
    if allowed == resource.RLIM_INFINITY:
        return None
    used = _counter(process / "status", f"{counter}:")
    return max(0, allowed - 1024 * (used or 0))


@functools.lru_cache(maxsize=4)
def _groups(process: Path, root: Path, pid: int) -> list[tuple[Path, tuple[str, str, str]]]:
    """The folders of the control groups that may limit this process; cached for each process."""
    return [(folder, version) for folder, version in _ancestors(process, root) if (folder / version[0]).exists()]


def _ancestors(process: Path, root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The candidate folder of each group that contains this process, innermost first, up to the mounted root.

    Inside a container the mounted root may be the container's own group, whose path on the host does not exist there; the
    caller therefore ignores folders that do not exist.
    """
    for group, version in _memberships(process):
        mounts = (root, root / "unified") if version is _VERSION_2 else (root / "memory",)
        for mount in mounts:
            inner = mount.joinpath(*(part for part in group.strip("/").split("/") if part not in ("", "..")))
            for folder in (inner, *inner.parents):
                yield folder, version
                if folder == mount:
                    break


def _memberships(process: Path) -> list[tuple[str, tuple[str, str, str]]]:
    """The paths of the groups that may limit memory; the roots if the system does not list them."""
    try:
        lines = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines() if line.count(":") >= 2]
    except (OSError, ValueError):
        lines = []
    found = [(path, _VERSION_1) for _, controllers, path in lines if "memory" in controllers.split(",")]
    found += [(path, _VERSION_2) for number, controllers, path in lines if number == "0" and not controllers]
    return found or [("/", _VERSION_1), ("/", _VERSION_2)]


def _remaining(folder: Path, version: tuple[str, str, str]) -> int | None:
    """Bytes left under one group: its limit minus its usage without cached files, which the system drops on demand."""
    limit_file, used_file, prefix = version
    try:
        limit = _text(folder / limit_file).strip()
        if limit == "max" or int(limit) >= 2**62:  # unlimited, as either version writes it
            return None
        used = int(_text(folder / used_file))
    except (OSError, ValueError):
        return None
    cached = [_counter(folder / "memory.stat", f"{prefix}{kind}") or 0 for kind in ("inactive_file", "active_file")]
    return max(0, int(limit) - max(0, used - sum(cached)))


def _counter(file: Path, name: str) -> int | None:
    """The number after this name, if the file has such a line."""
    try:
        for line in _text(file).splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == name:
                return int(words[1])
    except (OSError, ValueError):
        pass
    return None


def _text(file: Path) -> str:
    with open(file, "rb", buffering=0) as opened:
        return opened.read().decode("ascii", "replace")
