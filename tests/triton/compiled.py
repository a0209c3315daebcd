"""Compile the kernels to machine code, which needs no GPU, and print the properties of each as JSON.

    python -m tests.triton.compiled 80 90

Run without TRITON_INTERPRET. Each line has the kernel with its options, registers and spilled bytes per thread, the width of
the offsets, and the float32 instructions in the code.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mvnjac.kernels import triton_batched, triton_packed

POINTERS = {"pattern": "*i64", "observed": "*i1", "any_observed": "*i1", "info": "*i32"}
CUOBJDUMP = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin" / "cuobjdump"


def source(kernel: Any, dtype: str, constants: dict[str, object], absent: tuple[str, ...] = ()) -> ASTSource:
    """A kernel for tensors of this dtype; absent arguments are None, sizes are int32 and strides int64."""
    signature, values = {}, {**constants, **dict.fromkeys(absent)}
    for name in kernel.arg_names:
        if name in values:
            signature[name] = "constexpr"
        elif name in POINTERS:
            signature[name] = POINTERS[name]
        elif name.endswith("stride"):
            signature[name] = "i64"
        elif name in ("n", "d", "p", "blocks", "count"):
            signature[name] = "i32"
        else:
            signature[name] = f"*{dtype}"
    return ASTSource(kernel, signature, constexprs=values)


def cases() -> Iterator[tuple[str, ASTSource, int]]:
    """(name, source, warps) of each variant of each kernel."""
    none = ("diagonal", "pattern", "observed", "any_observed")
    for dtype in ("fp32", "fp64"):
        for elements in (8, 512):
            shape = {"ROWS": 512 // elements, "ELEMENTS": elements, "STEPS": 16}
            plain = dict.fromkeys(("BOTH", "STRICT", "HAS_DIAGONAL", "HAS_PATTERNS", "BY_ROW", "BY_COLUMN"), False)
            first = {"COEFFICIENT": 0.5, "MIRRORED": True, "SHARED": True, **plain, **shape}
            yield f"packed {dtype} {elements}", source(triton_packed._packed, dtype, first, none), 4
            every = dict.fromkeys(plain, True) | {"COEFFICIENT": 1.0, "MIRRORED": True, "SHARED": False, **shape}
            yield f"packed, all of it, {dtype} {elements}", source(triton_packed._packed, dtype, every), 4
        one = dict.fromkeys(("n", "d", "p", "blocks", "out_stride", "left_stride", "right_stride"), 1)
        smallest = {
            "ROWS": 512,
            "ELEMENTS": 1,
            "STEPS": 1,
            **one,
            "offset_stride": 0,
            "diagonal_stride": 0,
            "observed_stride": 0,
        }
        yield f"packed {dtype} 1", source(triton_packed._packed, dtype, first | smallest, none), 4
        for d in (1, 2, 3, 10, 32, 50, 64):
            for check, gradient in ((False, True), (True, True), (True, False)):
                yield f"small {dtype} {d} {check} {gradient}", *small(dtype, d, check, gradient)


def small(dtype: str, d: int, check: bool, gradient: bool) -> tuple[ASTSource, int]:
    """The kernel for a batch of Gaussians; for d = 1 with the arguments that are 1 as constants, as the launcher does."""
    warps, given = triton_batched.settings(d, 10**6), {"LOG_TWO_PI": 1.8378770664093453, "SYMMETRY": 1e-10}
    constants = {"CHECK": check, "GRADIENT": gradient, "D": d, "EACH": warps["EACH"], "SIDE": warps["SIDE"]}
    strides = ("x_stride", "mean_stride", "covariance_stride", "row_stride", "column_stride", "count")
    ones = dict.fromkeys(strides if d == 1 else strides[4:5], 1)
    absent = () if gradient else ("gradient",)
    return source(triton_batched._small_gaussians, dtype, {**given, **constants, **ones}, absent), warps["num_warps"]


def assembled(machine_code: bytes) -> dict[str, int]:
    """Registers and spilled bytes per thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(machine_code)
        command = [str(CUOBJDUMP), "-res-usage", str(path)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", output)
    if found is None:
        raise RuntimeError(output)
    return {"registers": int(found[1]), "spilled": int(found[2]) + int(found[3])}


def main(architectures: list[int]) -> None:
    for architecture in architectures:
        for name, kernel, warps in cases():
            binary = triton.compile(kernel, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
            ptx = binary.asm["ptx"]
            # conversions, arithmetic and tensor cores in float32
            single = sorted(
                set(
                    re.findall(
                        r"(?:cvt\.\w*f64\.f32|(?:add|mul|fma|div|sqrt|rsqrt|rcp|lg2|ex2)[\w.]*\.f32|\w+[\w.]*tf32[\w.]*)", ptx
                    )
                )
            )
            offsets = sorted(set(re.findall(r"tt\.addptr .*, tensor<[\dx]*x(i\d+)>", binary.asm["ttir"])))
            line = {
                "offsets": offsets,
                "architecture": architecture,
                "kernel": name,
                "warps": warps,
                "shared": binary.metadata.shared,
            }
            print(json.dumps({**line, **assembled(binary.asm["cubin"]), "float32": single}), flush=True)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
