"""Pairwise reduction: sums in a fixed order, so that results do not depend on the number of workers or the order of arrival.

Partial sums numbered 0, 1, 2, … are merged along a binary tree, each with its sibling as soon as both are available. Rounding
errors grow with the logarithm of the number of partial sums, and few of them are stored at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mvnjac.statistics.serialization import stored_as


class Mergeable(Protocol):
    """Statistics of a set of rows that can be merged with those of another set."""

    def merge(self, other: Any) -> Any:
        """The statistics of both sets, with the rows of this one first."""


M = TypeVar("M", bound=Mergeable)


class PairwiseReduction(Generic[M]):
    """The reduction of numbered partial sums, which may be added in any order, each once."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], M] = {}  # (level, position) → 2^level partial sums from number position · 2^level on

    def add(self, number: int, piece: M) -> None:
        """Add the partial sum with this number."""
        level, position = 0, number
        while (sibling := self._nodes.pop((level, position ^ 1), None)) is not None:
            piece = piece.merge(sibling) if position % 2 == 0 else sibling.merge(piece)
            level, position = level + 1, position // 2
        self._nodes[level, position] = piece

    def total(self) -> M | None:
        """The sum of all; None if nothing was added. Nodes without a sibling are merged from the last one backwards."""
        merged: M | None = None
        for _, node in sorted(self._nodes.items(), key=lambda item: item[0][1] << item[0][0], reverse=True):
            merged = node if merged is None else node.merge(merged)
        return merged

    def __len__(self) -> int:
        return len(self._nodes)


@stored_as("totals")
@dataclass(frozen=True)
class NamedSums:
    """Sums over rows by name: tensors that are merged by addition."""

    tensors: Mapping[str, Tensor]

    def merge(self, other: NamedSums) -> NamedSums:
        """The sums over both."""
        return NamedSums({name: t + other.tensors[name] for name, t in self.tensors.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


@stored_as("bundle")
@dataclass(frozen=True)
class SumTuple:
    """Several kinds of sums over the same rows."""

    parts: Sequence[Any]

    def merge(self, other: SumTuple) -> SumTuple:
        """Merge part by part."""
        return SumTuple([a.merge(b) for a, b in zip(self.parts, other.parts, strict=True)])


def number(value: float) -> Tensor:
    """A scalar sum as a tensor."""
    return torch.tensor(float(value), dtype=torch.float64, device="cpu")
