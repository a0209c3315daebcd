"""What the system lets this process allocate: free memory, control groups (containers), and limits of the address space."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PROCESS = Path("/proc/self")
#: of each version of control groups: its files for the limit and the use, and the prefix of its counters of cached files
_VERSION_2 = ("memory.max", "memory.current", "")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def limits() -> dict[str, int]:
    """Bytes that can still be allocated in main memory, by the name of each limit that the system states."""
    known = {
        "the machine's memory": machine(),
        "the limit of the control group (container)": container(),
        "the limit of the address space, RLIMIT_AS (ulimit -v)": resource_left("RLIMIT_AS", "VmSize"),
        "the limit of the data segment, RLIMIT_DATA (ulimit -d)": resource_left("RLIMIT_DATA", "VmData"),
    }
    return {name: left for name, left in known.items() if left is not None}


def machine() -> int | None:
    """What the system can give without swapping; the installed memory where it does not say."""
    available = _counter(Path("/proc/meminfo"), "MemAvailable:")
    if available is not None:
        return available * 1024
    try:  # no /proc: the installed memory is at least an upper bound
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def container(process: Path = _PROCESS, root: Path = _CGROUPS) -> int | None:
    """The least that the control group of this process and the groups around it leave; None where none has a limit."""
    left = [_left(folder, version) for folder, version in _groups(process, root, os.getpid())]
    return min((size for size in left if size is not None), default=None)


def resource_left(limit: str, counter: str, process: Path = _PROCESS) -> int | None:
    """What a resource limit of this process leaves; None without one, or where the system does not have it."""
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
    """The folders of the groups that may limit this process, looked up once in each process."""
    return [(folder, version) for folder, version in _around(process, root) if (folder / version[0]).exists()]


def _around(process: Path, root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folder of each group that holds this process, inner groups first.

    Inside a container the folders may begin at the container's own group, whose path on the host does not exist there: folders
    that do not exist are passed over, and the mounted root is always looked at.
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
    """The paths of the groups that may limit memory; the roots where the system does not say."""
    try:
        lines = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines() if line.count(":") >= 2]
    except (OSError, ValueError):
        lines = []
    found = [(path, _VERSION_1) for _, controllers, path in lines if "memory" in controllers.split(",")]
    found += [(path, _VERSION_2) for number, controllers, path in lines if number == "0" and not controllers]
    return found or [("/", _VERSION_1), ("/", _VERSION_2)]


def _left(folder: Path, version: tuple[str, str, str]) -> int | None:
    """What one group leaves: its limit less its use, cached files apart, which the system gives up when memory is asked for."""
    limit_file, used_file, prefix = version
    try:
        limit = _text(folder / limit_file).strip()
        if limit == "max" or int(limit) >= 2**62:  # no limit, in the words of either version
            return None
        used = int(_text(folder / used_file))
    except (OSError, ValueError):
        return None
    cached = [_counter(folder / "memory.stat", f"{prefix}{kind}") or 0 for kind in ("inactive_file", "active_file")]
    return max(0, int(limit) - max(0, used - sum(cached)))


def _counter(file: Path, name: str) -> int | None:
    """The number after this name, where the file has a line of it."""
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
