"""Available memory: the machine's, under nested control groups of both versions, and under the limits of the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvnjac.errors import MemoryLimitError
from mvnjac.tensors import memory, memory_limits

ROOT = Path(__file__).resolve().parents[2]


class System:
    """Files in the format of the system's, below a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def remaining(system) -> int | None:
    memory_limits._groups.cache_clear()
    return memory_limits.container(system.root / "proc", system.root / "cgroup")


def group_2(system, path: str, limit: object, used: int, inactive: int = 0, active: int = 0) -> None:
    system(f"cgroup/{path}memory.max", limit)
    system(f"cgroup/{path}memory.current", used)
    system(f"cgroup/{path}memory.stat", f"anon 5\ninactive_file {inactive}\nactive_file {active}")


def group_1(system, path: str, limit: int, used: int, inactive: int = 0) -> None:
    system(f"cgroup/memory/{path}memory.limit_in_bytes", limit)
    system(f"cgroup/memory/{path}memory.usage_in_bytes", used)
    system(f"cgroup/memory/{path}memory.stat", f"inactive_file 1\ntotal_inactive_file {inactive}\ntotal_active_file 0")


def test_no_group_has_a_limit(system) -> None:
    assert remaining(system) is None
    system("proc/cgroup", "0::/")
    assert remaining(system) is None
    group_2(system, "", "max", 100)
    assert remaining(system) is None


def test_version_2_in_the_container_s_own_root(system) -> None:
    system("proc/cgroup", "0::/")
    group_2(system, "", 1000, 400)
    assert remaining(system) == 600


def test_version_2_nested_groups_give_the_minimum(system) -> None:
    system("proc/cgroup", "0::/user.slice/session.scope")
    group_2(system, "user.slice/session.scope/", 5000, 100)
    assert remaining(system) == 4900
    group_2(system, "user.slice/", 3000, 2000)
    assert remaining(system) == 1000
    group_2(system, "user.slice/session.scope/", "max", 100)
    assert remaining(system) == 1000


def test_cached_files_do_not_count_as_used(system) -> None:
    """After reading a large file a container's usage is at its limit, although the cache is freed on demand."""
    system("proc/cgroup", "0::/")
    group_2(system, "", 1000, 990, inactive=500, active=200)
    assert remaining(system) == 710


def test_version_1_without_a_limit(system) -> None:
    system("proc/cgroup", "4:cpu,cpuacct:/\n3:memory:/docker/abc\n0::/")
    group_1(system, "docker/abc/", 2**63 - 4096, 100)
    group_1(system, "", 2**63 - 4096, 100)
    assert remaining(system) is None
    group_1(system, "docker/", 1000, 300, inactive=50)
    assert remaining(system) == 750


def test_version_1_in_a_container_without_the_path_on_the_host(system) -> None:
    system("proc/cgroup", "3:memory:/docker/abc")
    group_1(system, "", 1000, 300)
    assert remaining(system) == 700


def test_a_path_outside_the_mounted_root(system) -> None:
    system("proc/cgroup", "0::/../../other")
    group_2(system, "", 1000, 1200)
    assert remaining(system) == 0


def test_both_versions_at_once(system) -> None:
    system("proc/cgroup", "3:memory:/a\n0::/b")
    group_1(system, "a/", 1000, 300)
    group_2(system, "unified/b/", 900, 300)
    assert remaining(system) == 600


def test_without_the_file_of_the_process_the_root_is_used(system) -> None:
    group_2(system, "", 1000, 400)
    assert remaining(system) == 600


@pytest.mark.parametrize("text", ["", "garbage", "x:y", "0::"])
def test_unreadable_files_are_ignored(system, text: str) -> None:
    system("proc/cgroup", text)
    system("cgroup/memory.max", "not a number")
    assert remaining(system) is None


LIMITED = """
import json, resource, sys
import torch
from mvnjac.tensors import memory, memory_limits
kind, counter, beyond = getattr(resource, sys.argv[1]), sys.argv[2], int(float(sys.argv[3]))
used = 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(counter + ":"))
resource.setrlimit(kind, (used + beyond, resource.RLIM_INFINITY))
try:
    memory.require_bytes("f: a thing", 2 * beyond, torch.device("cpu"), "take less.")
    message = None
except MemoryError as error:
    message = str(error)
print(json.dumps([memory.available(torch.device("cpu")), message]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say how much is in use")
@pytest.mark.parametrize(("limit", "counter"), [("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")])
def test_the_limits_of_the_process(limit: str, counter: str) -> None:
    command = [sys.executable, "-c", LIMITED, limit, counter, "3e8"]
    free, message = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    assert 2.0e8 < free <= 3e8
    assert message.startswith("f: a thing: 600 MB are needed, but cpu has ")
    assert limit in message
    assert message.endswith("take less.")


def test_no_limit_of_the_process() -> None:
    resource = pytest.importorskip("resource")  # not on Windows

    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    assert memory_limits.resource_left("RLIMIT_AS", "VmSize") is None
    assert memory_limits.resource_left("RLIMIT_THAT_IS_NOT_THERE", "VmSize") is None


def test_the_smallest_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limits, "machine", lambda: 5 * 2**20)
    monkeypatch.setattr(memory_limits, "container", lambda: 3 * 2**20)
    monkeypatch.setattr(memory_limits, "resource_left", lambda limit, counter: None)
    assert memory.available(torch.device("cpu")) == 3 * 2**20
    memory.require_bytes("f", 3 * 2**20, torch.device("cpu"), "no.")
    with pytest.raises(MemoryLimitError, match=r"^f: 4\.19 MB are needed, .*3\.15 MB free \(the limit of the control group"):
        memory.require_bytes("f", 4 * 2**20, torch.device("cpu"), "no.")


def test_no_known_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limits, "limits", dict)
    assert memory.available(torch.device("cpu")) is None
    memory.require_bytes("f", 2**80, torch.device("cpu"), "no.")


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="Windows does not say how much there is in this way")
def test_installed_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limits, "_counter", lambda file, name: None)
    assert memory_limits.machine() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
