"""A description of the machine and of the versions."""

from __future__ import annotations

import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("mvnjac", "torch", "numpy", "scipy", "jax", "jaxlib")


def describe() -> str:
    """Processor, memory, load, caches, huge pages and versions, as a Markdown list."""
    load = ", ".join(f"{number:.2f}" for number in os.getloadavg())
    lines = [
        f"{date.today()}: {_field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} processors, {_memory()} GB of memory, {_caches()}",
        f"{platform.system()} {platform.release()}, transparent huge pages {_huge_pages()}; load averages at the start {load}",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    ]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _field(path: str, name: str) -> str:
    """The value of the first line "name : value"; only x86 processors have the line with the model name."""
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return platform.machine()


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def _caches() -> str:
    levels = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    sizes = {(entry / "level").read_text().strip(): (entry / "size").read_text().strip() for entry in levels}
    return ", ".join(f"L{level} {size}" for level, size in sizes.items()) or "caches unknown"


def _huge_pages() -> str:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.read_text().split("[")[1].split("]")[0] if setting.exists() else "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
