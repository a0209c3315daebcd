"""The kernels compile for real architectures, without a GPU: within registers, and in the precision of their arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.triton.compiled", "80", "90"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_everything_stays_in_registers(lines: list[dict[str, Any]]) -> None:
    """Some versions of the compiler spill a few values of `small_gaussians`, which is tolerated."""
    assert {line["architecture"] for line in lines} == {80, 90}
    assert [line for line in lines if line["spilled"] > (64 if line["kernel"].startswith("small") else 0)] == []


def test_small_matrices_take_one_warp(lines: list[dict[str, Any]]) -> None:
    small = [line for line in lines if line["kernel"].split()[0] == "small" and int(line["kernel"].split()[2]) <= 16]
    assert small
    assert {line["warps"] for line in small} == {1}


def test_packed_needs_no_shared_memory_and_few_registers(lines: list[dict[str, Any]]) -> None:
    packed = [line for line in lines if line["kernel"].startswith("packed")]
    assert packed
    assert all(line["shared"] == 0 for line in packed)
    assert all(line["registers"] <= 64 for line in packed if "all of it" not in line["kernel"])


def test_offsets_are_64_bits(lines: list[dict[str, Any]]) -> None:
    """All offsets of `packed`, and those of `small_gaussians` except the offsets within a row."""
    assert lines
    for line in lines:
        assert "i64" in line["offsets"]
        assert line["offsets"] == ["i64"] or line["kernel"].startswith("small")


def test_float64_is_float64_throughout(lines: list[dict[str, Any]]) -> None:
    assert [line for line in lines if "fp64" in line["kernel"] and line["float32"]] == []


def test_float32_is_correctly_rounded(lines: list[dict[str, Any]]) -> None:
    """No approximate division, square root or logarithm, and no TF32."""
    approximate = [word for line in lines for word in line["float32"] if any(bad in word for bad in ("approx", "full", "tf32"))]
    assert approximate == []
