"""A benchmark that compares different things is worthless: at a tiny size, all contestants of a workload give the same numbers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mvnjac
from benchmarks.contestants import jax_jit
from benchmarks.workload import Contestant, Workload
from benchmarks.workloads import WORKLOADS
from tests.tolerance import assert_close

INSTALLED = importlib.util.find_spec("jax") is not None


def tasks() -> Iterator[Workload]:
    """One workload for each set of contestants: at a tiny size, those that differ in size are the same."""
    seen = set()
    for workload in WORKLOADS:
        key = (workload.group, tuple(workload.contestants), str(workload.tiny.args))
        if key not in seen:
            seen.add(key)
            yield workload


def present(contestant: Contestant) -> bool:
    return INSTALLED or contestant.prepare.__module__ != jax_jit.__name__


def numbers(contestant: Contestant, workload: Workload) -> dict[str, Tensor]:
    """What it computes, in float64; the per-observation gradients as the n×p matrix over the unique elements."""
    result: Mapping[str, Any] = contestant.prepare(workload.tiny())()
    tensors = {name: torch.tensor(np.asarray(_detached(value))) for name, value in result.items()}
    if workload.group == "J.matrix()" and "matrix" not in tensors:
        full = tensors["covariance"]
        twice = 2 - torch.eye(full.shape[-1], dtype=full.dtype)
        return {"matrix": torch.cat([tensors["mean"], mvnjac.vech(full * twice)], -1)}
    return tensors


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("workload", list(tasks()), ids=lambda workload: workload.name)
def test_contestants_agree(workload: Workload) -> None:
    reference = workload.ours[0]
    expected = numbers(reference.contestant, workload)
    others = (*(entry.contestant for entry in workload.ours[1:]), *filter(present, workload.peers))
    for other in others:
        got = numbers(other, workload)
        assert expected.keys() <= got.keys(), other.name
        for name, value in expected.items():
            assert_close(got[name], value, kappa=100, what=f"{workload.name}: {name} of {other.name}")
