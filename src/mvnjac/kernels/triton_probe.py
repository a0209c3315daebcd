"""The smallest kernel: where it is compiled and launched, the others are."""

from __future__ import annotations

import subprocess

import torch
import triton
import triton.language as tl
from triton.errors import TritonError

#: what Triton, the compiler of its launchers, or the driver say where they do not work
FAILURES = (TritonError, RuntimeError, OSError, ImportError, subprocess.SubprocessError)


@triton.jit
def _one(out):
    tl.store(out, 1.0)


def run(device: torch.device) -> None:
    """Compile and launch it on this device, the current one."""
    _one[(1,)](torch.empty(1, dtype=torch.float32, device=device))
