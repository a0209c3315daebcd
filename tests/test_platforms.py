"""What differs on macOS and Windows, simulated: the build, the system's calls, and the rules for open files."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import runpy
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import setuptools

from mvnjac import kernels
from mvnjac.engines import job, local
from mvnjac.engines.folder import Folder
from mvnjac.tensors import memory_limits
from tests.cli.test_cli import run

ROOT = Path(__file__).resolve().parent.parent
UNIVERSAL = "-Wall -arch arm64 -arch x86_64 -g"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, Any], set[str]]]:
    """The arguments that setup.py gives to setuptools on another system, and the processors it compiles for."""

    def build(system: str, machine: str = "x86_64", flags: str = "", cflags: str = "-Wall") -> tuple[dict[str, Any], set[str]]:
        given: dict[str, Any] = {}
        with monkeypatch.context() as patch:
            patch.chdir(ROOT)
            patch.delenv("MVNJAC_BUILD_KERNELS", raising=False)
            patch.setenv("ARCHFLAGS", flags)
            patch.setattr(setuptools, "setup", given.update)
            patch.setattr(platform, "machine", lambda: machine)
            patch.setattr(sysconfig, "get_config_var", lambda name: cflags if name == "CFLAGS" else None)
            patch.setattr(sys, "platform", system)
            return given, runpy.run_path("setup.py")["processors"]()

    return build


def test_windows_has_the_pure_wheel(built) -> None:
    given, _ = built("win32", "AMD64")
    assert given["ext_modules"] == []
    assert given["options"] == {}  # no tag of the limited API


@pytest.mark.parametrize(
    ("system", "machine", "flags", "cflags", "expected"),
    [
        ("linux", "x86_64", "", "-Wall", {"x86_64"}),
        ("linux", "aarch64", "", "-march=armv8-a", {"aarch64"}),
        ("darwin", "arm64", "", "-Wall", {"arm64"}),
        ("darwin", "x86_64", "", UNIVERSAL, {"arm64", "x86_64"}),
        ("darwin", "arm64", "-arch x86_64", UNIVERSAL, {"x86_64"}),
        ("darwin", "x86_64", "-arch arm64", UNIVERSAL, {"arm64"}),
    ],
)
def test_instruction_sets_of_x86_only_for_x86_alone(
    built, system: str, machine: str, flags: str, cflags: str, expected: set[str]
) -> None:
    """A universal binary of macOS is compiled once for both processors, of which one does not know -mavx2."""
    given, processors = built(system, machine, flags, cflags)
    assert processors == expected
    assert len(given["ext_modules"]) == 1
    assert given["options"] == {"bdist_wheel": {"py_limited_api": "cp311"}}


def test_the_reason_why_windows_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_built", None)
    monkeypatch.setattr(kernels, "native", None)
    assert kernels.why_not() == "not built (no C++ compiler when the package was installed)"
    monkeypatch.setattr(sys, "platform", "win32")
    assert kernels.why_not() == "not built (there are none for Windows)"


def test_a_system_without_proc_and_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS the available memory is at most the installed one, and each core may be used."""
    monkeypatch.setattr(memory_limits, "_counter", lambda file, name: None)
    monkeypatch.setattr(memory_limits, "container", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert memory_limits.limits().keys() <= {
        "the machine's memory",
        "the limit of the address space, RLIMIT_AS (ulimit -v)",
        "the limit of the data segment, RLIMIT_DATA (ulimit -d)",
    }
    assert memory_limits.limits()["the machine's memory"] > 2**20
    assert local.cores() == os.cpu_count()
    monkeypatch.delattr(os, "sysconf", raising=False)  # Windows
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory_limits.limits() == {}


def test_only_glibc_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", None)  # not called
    job.keep_memory.__wrapped__()


@pytest.fixture
def windows_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rules of Windows: no folder is opened, only files open for writing are flushed, and no open file is renamed.

    Gives the names of the files that have been renamed.
    """
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the system does not list the open files")
    import fcntl

    renamed: list[str] = []
    open_descriptor, flush, replace = os.open, os.fsync, os.replace

    def checked_open(path: Any, *arguments: Any, **options: Any) -> int:
        assert isinstance(path, int) or not os.path.isdir(path) or options.get("dir_fd") or _is_temporary(path), path
        return open_descriptor(path, *arguments, **options)

    def checked_flush(descriptor: int) -> None:
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        flush(descriptor)

    def checked_replace(source: Any, target: Any) -> None:
        opened = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
        assert not [path for path in opened if path.startswith(os.path.realpath(source))]
        renamed.append(Path(target).name)
        replace(source, target)

    importlib.import_module("matplotlib.font_manager")  # its list of fonts is made once, by the rules of this system
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # as on Windows, no folder is opened to be removed
    monkeypatch.setattr(os, "open", checked_open)
    monkeypatch.setattr(os, "fsync", checked_flush)
    monkeypatch.setattr(os, "replace", checked_replace)
    monkeypatch.setattr(sys, "platform", "win32")
    return renamed


def _is_temporary(path: Any) -> bool:
    """Whether this is a temporary folder, which shutil opens on Linux in order to remove it."""
    return Path(os.fsdecode(path)).name.startswith((".writing-", "mvnjac-"))


@pytest.mark.parametrize(
    "output",
    ["s.parquet", "s.arrow", "s.csv.gz", "parts", "s.csv", "s.npy", "s.zarr"],
)
def test_outputs_keep_the_rules_of_windows(tmp_path: Path, windows_files: list[str], output: str) -> None:
    if output.endswith(".zarr"):
        pytest.importorskip("zarr")
    table, out = tmp_path / "t.csv", tmp_path / output
    table.write_text("day,a,b\n2020-01-02,1,2\n2020-01-01,2,5\n2020-01-04,3,1\n2020-01-03,5,4\n2020-01-05,6,6\n")
    for _ in range(2):
        assert run("jacobian", table, "--index", "day", "--log-returns", "-o", out, "--force")[0] == 0
    assert (output if output != "parts" else "part-00000.parquet") in windows_files
    if output == "s.parquet":
        assert pq.read_table(out).num_rows == 4


def test_a_model_and_a_report_keep_the_rules_of_windows(tmp_path: Path, windows_files: list[str]) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b\n" + "".join(f"{i % 5},{(i * i) % 7}\n" for i in range(40)))
    assert run("fit", table, "-o", tmp_path / "m.safetensors")[0] == 0
    assert run("report", table, "-o", tmp_path / "r.html")[0] == 0
    assert run("score", table, "--keep", tmp_path / "keep", "-o", tmp_path / "s.csv")[0] == 0
    assert {"m.safetensors", "r.html", "s.csv", "_manifest.json"} <= set(windows_files)


def test_a_folder_is_flushed_where_it_can_be_opened(tmp_path: Path, windows_files: list[str]) -> None:
    Folder(str(tmp_path)).write("a.json", b"{}")
    assert (tmp_path / "a.json").read_bytes() == b"{}"
    assert windows_files == ["a.json"]
