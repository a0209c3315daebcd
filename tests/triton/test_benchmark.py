"""The GPU benchmark at sizes that are feasible for Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from benchmarks import gpu


def one_millisecond(call: Callable[[], object]) -> float:
    call()
    return 1.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_bytes(dtype: torch.dtype, device: torch.device) -> None:
    """Expected bytes, counted by hand: out, a and offset; or x, µ, Σ and those of value, a, gradient and info that exist."""
    size = dtype.itemsize
    line = gpu.packed(1000, 3, dtype, device, one_millisecond, 1e-3)
    assert f"{(6000 + 3000 + 6) * size / 1e6:.2f} MB" in line
    small, value, library = gpu.small(1000, 2, dtype, device, one_millisecond, 1e-3)
    given = 2 + 2 + 4
    for line, moved in ((small, (given + 7) * size + 4), (value, (given + 3) * size + 4), (library, (given + 6) * size)):
        assert f"{moved / 1e3:.2f} MB" in line
        assert f"copy {moved:6.1%}" in line
    assert gpu.bandwidth(device, one_millisecond, 10**6) == 2.0


def test_all_lines(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PACKED", [(10, 3), (50, 30)])
    monkeypatch.setattr(gpu, "SMALL", [(7, 3), (2, 10)])
    lines = list(gpu.lines(device, one_millisecond, 10**5, 1000))
    names = [line.split()[0] for line in lines]
    assert names == ["copy", *(["packed"] * 2 + ["small", "value", "library"] * 2) * 2]
    assert ["does not fit" in line for line in lines] == [False, *[False, True, *[False] * 6] * 2]


def test_wrong_results_are_not_timed() -> None:
    with pytest.raises(AssertionError, match="off by"):
        gpu.compare(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1]))
    with pytest.raises(AssertionError):
        gpu.compare(torch.tensor([torch.nan]), torch.tensor([1.0]))


@pytest.mark.parametrize("command", [["benchmarks/gpu.py"], ["-m", "benchmarks.gpu"]])
def test_error_without_a_gpu(command: list[str]) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "torch sees none here" in done.stderr
    assert "Traceback" not in done.stderr
