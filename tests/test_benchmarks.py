"""For a tiny size, all implementations of a workload give the same results; and the report of the benchmarks."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mvnjac
from benchmarks.implementations import jax_jit
from benchmarks.report import markdown
from benchmarks.timing import Measurement
from benchmarks.workload import Entry, Implementation, Target, Workload
from benchmarks.workloads import WORKLOADS
from tests.support.tolerance import assert_close

KAPPA = 14  # of the tiny covariances, at most
INSTALLED = importlib.util.find_spec("jax") is not None


def tasks() -> Iterator[Workload]:
    """One workload for each set of implementations; workloads that differ only in size are the same for a tiny size."""
    seen = set()
    for workload in WORKLOADS:
        key = (workload.group, tuple(workload.implementations), str(workload.tiny.args))
        if key not in seen:
            seen.add(key)
            yield workload


def present(implementation: Implementation) -> bool:
    return INSTALLED or implementation.prepare.__module__ != jax_jit.__name__


def numbers(implementation: Implementation, workload: Workload) -> dict[str, Tensor]:
    """The results of an implementation in float64; gradients per observation as the n×p matrix over the unique elements."""
    result: Mapping[str, Any] = implementation.prepare(workload.tiny())()
    tensors = {name: torch.tensor(np.asarray(_detached(value))) for name, value in result.items()}
    if workload.group == "J.matrix()" and "matrix" not in tensors:
        full = tensors["covariance"]
        twice = 2 - torch.eye(full.shape[-1], dtype=full.dtype)
        return {"matrix": torch.cat([tensors["mean"], mvnjac.vech(full * twice)], -1)}
    return tensors


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("workload", list(tasks()), ids=lambda workload: workload.name)
def test_implementations_agree(workload: Workload) -> None:
    reference = workload.ours[0]
    expected = numbers(reference.implementation, workload)
    others = (*(entry.implementation for entry in workload.ours[1:]), *filter(present, workload.peers))
    for other in others:
        got = numbers(other, workload)
        assert expected.keys() <= got.keys(), other.name
        for name, value in expected.items():
            assert_close(got[name], value, kappa=KAPPA, what=f"{workload.name}: {name} of {other.name}")


def test_ratios_are_taken_within_the_rounds_of_both() -> None:
    measurement = Measurement("group", "size", "float64", 1, times={"ours": [1.0, 2.0, 9.0, 9.0], "slow": [10.0, 40.0]})
    assert measurement.ratio("ours", "slow") == pytest.approx((1 / 10 + 2 / 40) / 2)
    assert measurement.ratio("ours", "absent") is None


def test_report_has_targets_best_peer_memory_and_failures() -> None:
    """mvnjac takes 2 s, the peers 8 and 4 s, and the lower bound 1 s."""
    workload = Workload(
        group="group",
        size="(7, 3)",
        data=dict,
        tiny=dict,
        ours=(
            Entry(
                Implementation("ours", dict), (Target("a", 1 / 5), Target("bound", 2.5), Target("b", ("bound", "a"))), peak_mb=1
            ),
        ),
        lower_bounds=(Implementation("bound", dict),),
        peers=(Implementation("a", dict), Implementation("b", dict), Implementation("c", dict)),
    )
    times = {"ours": [2.0] * 3, "bound": [1.0] * 3, "a": [8.0] * 3, "b": [4.0] * 3}
    text = markdown(
        "- a machine\n",
        [workload],
        [
            Measurement(
                "group", "(7, 3)", "float64", 1, times, [1.0, 0.5], {"ours": 2_000_000}, {"c": "line\nValueError: no"}, ["d"]
            )
        ],
    )
    for line in (
        "- a machine",
        "| group (7, 3) | ours | a | 1/5 | 1/4 | 3 | **no** |",
        "| group (7, 3) | ours | bound | 2.5 | 2 | 3 | yes |",
        "| group (7, 3) | ours | b | 1/8 | 0.5 | 3 | **no** |",
        "| group (7, 3) | ours | peak memory | 1 MB | 2 MB | 1 | **no** |",
        "| (7, 3) | ours | 2 s | 2 | 1/4 | 0.5 | – | 0.5 (b) |",
        "- (7, 3): d left out, over 5 s a call.",
        "- (7, 3): c failed: ValueError: no",
    ):
        assert line in text.splitlines(), text
    assert "over 95 % of it in 50% of them" in text
    assert "- not measured with float32, 1 thread: all workloads" in text
