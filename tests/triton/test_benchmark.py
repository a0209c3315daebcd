"""The benchmark for a GPU does what it says, at a size that the interpreter can take."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from benchmarks import cuda


def one_millisecond(call: Callable[[], object]) -> float:
    call()
    return 1.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_lines(dtype: torch.dtype, device: torch.device) -> None:
    """Bytes by hand: out, a and offset; x, µ, Σ, value, a, gradient, info."""
    size = dtype.itemsize
    line = cuda.packed(1000, 3, dtype, device, one_millisecond, 1e-3)
    assert f"{(6000 + 3000 + 6) * size / 1e6:.2f} MB" in line
    line = cuda.small(100, 2, dtype, device, one_millisecond, 1e-3)
    moved = 100 * ((2 + 2 + 4 + 1 + 2 + 4) * size + 4)
    assert f"{moved / 1e6:.2f} MB" in line
    assert f"copy {moved / 1e6 / 1e-3:6.1%}" in line
    assert cuda.bandwidth(device, one_millisecond, 10**6) == 2.0


def test_refuses_without_a_gpu() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "benchmarks/cuda.py"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "torch sees none here" in done.stderr
    assert "Traceback" not in done.stderr
