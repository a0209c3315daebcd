"""Compiled kernels for the hot loops: C++ for the CPU (`csrc/`, called through `cpu`) and Triton for GPUs (through `cuda`).

`reference` states in plain torch what the kernels compute. The package may use `tensors` and `errors`. Interface: `cpu` and
`cuda` (the calls), `reference` (their operands), `planner` and `limits` (the choice of algorithm), `addresses`, `huge_pages`,
`config`, and the names below. `native` is the C++ extension module, or None if it was not built or MVNJAC_KERNELS=0 is set.
Its functions take addresses of contiguous CPU memory; the caller ensures that no autograd graph, transform or compiler is
active."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch

try:
    _built: Any = importlib.import_module("mvnjac.kernels._native")
except ImportError:
    _built = None
native: Any = _built if os.environ.get("MVNJAC_KERNELS") != "0" else None

#: the dtypes that the kernels support, with the size of an element in bytes
ITEMSIZE = {torch.float64: 8, torch.float32: 4}
#: exact classes of tensors that hold values in memory; other subclasses need not
PLAIN = (torch.Tensor, torch.nn.Parameter)
#: the sums to return: of whitened rows; total derivatives with respect to the mean and Σ; of centred rows
WHITENED, COMPLETED, CENTRED = range(3)


def why_not() -> str | None:
    """The reason why the C++ kernels are not available; None if they are."""
    if native is not None:
        return None
    if _built is not None:
        return "switched off (MVNJAC_KERNELS=0)"
    missing = "there are none for Windows" if sys.platform == "win32" else "no C++ compiler when the package was installed"
    return f"not built ({missing})"


@contextlib.contextmanager
def switched(on: bool, instructions: str | None = None) -> Iterator[None]:
    """Context manager that enables or disables the kernels (for tests); instructions: "plain", "avx2" or "avx512"."""
    global native
    before, instructions_before = native, _built.instructions() if _built is not None else None
    native = _built if on else None
    try:
        if instructions is not None:
            _built.use_instructions(instructions)
        yield
    finally:
        native = before
        if instructions is not None:
            _built.use_instructions(instructions_before)
