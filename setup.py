"""Builds the optional C++ kernels. Without a compiler the package uses plain torch, which `mvnjac.show_config()` reports.

With MVNJAC_BUILD_KERNELS=0, and always on Windows, the kernels are not built, and the wheel is platform-independent
(py3-none-any): MSVC, with which extensions for Windows are compiled, does not support the vector types of gcc and clang.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = os.environ.get("MVNJAC_BUILD_KERNELS") != "0" and sys.platform != "win32"
SOURCES = Path("src/mvnjac/kernels/csrc")
#: compiler options of the instruction sets besides the plain one; the best supported one is selected when the module is loaded
INSTRUCTIONS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"],
}
OPTIONS = ["-std=c++17", "-O3", "-fno-math-errno", "-ffp-contract=fast", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]


def processors() -> set[str]:
    """The processors that the extension is compiled for. On macOS these may be several, or others than this machine's."""
    flags = os.environ.get("ARCHFLAGS") or sysconfig.get_config_var("CFLAGS") or ""
    named = re.findall(r"-arch[= ]*(\S+)", flags) if sys.platform == "darwin" else []
    return set(named) or {platform.machine().lower()}


class Build(build_ext):
    """Compiles each instruction set as a separate object with its compiler options."""

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type != "unix":
            self.warn("the kernels need gcc or clang; plain torch will be used")
            return
        self.force = True  # existing objects may have been compiled with other options
        options = OPTIONS + os.environ.get("MVNJAC_SANITIZE", "").split()
        # an object for several processors at once cannot have compiler options of one of them
        extra = INSTRUCTIONS if processors() <= {"x86_64", "amd64"} else {}
        ext.define_macros += [(f"MVNJAC_{name.upper()}", "1") for name in extra]
        ext.extra_compile_args += options
        for name, flags in extra.items():
            ext.extra_objects += self.compiler.compile(
                [str(SOURCES / f"isa_{name}.cpp")], self.build_temp, macros=ext.define_macros, extra_postargs=options + flags
            )
        super().build_extension(ext)


NATIVE = Extension(
    "mvnjac.kernels._native",
    [str(SOURCES / name) for name in ("module.cpp", "isa_plain.cpp")],
    depends=[str(path) for path in sorted(SOURCES.glob("*.h"))],
    extra_link_args=os.environ.get("MVNJAC_SANITIZE", "").split() + (["-pthread"] if os.name == "posix" else []),
    define_macros=[],
    language="c++",
    py_limited_api=True,
    optional=True,
)

setup(
    ext_modules=[NATIVE] if KERNELS else [],
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if KERNELS else {},
)
