"""Sums of many pieces, in an order that depends on the pieces alone: whoever adds them, and whenever, every bit is the same.

Pieces are merged pairwise along a binary tree over their numbers 0, 1, 2, …: a piece is merged with its sibling as soon as both are
there, so that rounding errors grow with the logarithm of their number, and few pieces are held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mvnjac.statistics.serialization import stored_as


class Mergeable(Protocol):
    """What stands for some rows, and can be merged with what stands for others."""

    def merge(self, other: Any) -> Any:
        """What stands for both, these rows first."""


M = TypeVar("M", bound=Mergeable)


class PairwiseReduction(Generic[M]):
    """Pieces by number, in any order, each once."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], M] = {}  # (level, place) → 2^level pieces from place · 2^level on

    def add(self, number: int, piece: M) -> None:
        """The piece of this number."""
        level, place = 0, number
        while (sibling := self._nodes.pop((level, place ^ 1), None)) is not None:
            piece = piece.merge(sibling) if place % 2 == 0 else sibling.merge(piece)
            level, place = level + 1, place // 2
        self._nodes[level, place] = piece

    def total(self) -> M | None:
        """All of them; None of none. What has no sibling is merged from the last piece backwards."""
        merged: M | None = None
        for _, node in sorted(self._nodes.items(), key=lambda item: item[0][1] << item[0][0], reverse=True):
            merged = node if merged is None else node.merge(merged)
        return merged

    def __len__(self) -> int:
        return len(self._nodes)


@stored_as("totals")
@dataclass(frozen=True)
class NamedSums:
    """Plain sums over rows, by name: tensors that are added."""

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
        """Part by part."""
        return SumTuple([a.merge(b) for a, b in zip(self.parts, other.parts, strict=True)])


def number(value: float) -> Tensor:
    """A sum of one number."""
    return torch.tensor(float(value), dtype=torch.float64, device="cpu")
