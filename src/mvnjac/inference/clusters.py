"""Clusters: groups of rows that depend on each other, in one or several ways."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError
from mvnjac.inference.named import row_labels


def groupings(function: str, clusters: Any, n: int) -> list[list[Any]]:
    """One or several lists of n labels, from a sequence, or a list or mapping of sequences (a data frame of them)."""
    if clusters is None:
        raise ArgumentError(f"{function}: clustered needs clusters=, one label a row.")
    if hasattr(clusters, "columns"):  # a data frame
        return [row_labels(function, "clusters", clusters[name], n) for name in clusters.columns]
    ways = list(clusters.values()) if isinstance(clusters, dict) else clusters
    several = isinstance(clusters, dict) or (
        isinstance(ways, list | tuple) and bool(ways) and all(isinstance(w, Iterable) and not isinstance(w, str) for w in ways)
    )
    if not several:
        return [row_labels(function, "clusters", ways, n)]
    return [row_labels(function, "clusters", way, n) for way in ways]


def clustered_sum(function: str, series: Tensor, ways: Sequence[Sequence[Any]], adjust: bool) -> Tensor:
    """(k, k) Σ over the clusters g of (Σ_{i∈g} uᵢ)(Σ_{i∈g} uᵢ)ᵀ, times G/(G − 1) with `adjust`.

    Of several ways of clustering: the sum over the ways, minus that over the intersections of two, plus three, …
    (Cameron, Gelbach & Miller 2011, *Robust inference with multiway clustering*).
    """
    total = series.new_zeros(series.shape[1], series.shape[1])
    for count in range(1, len(ways) + 1):
        for some in itertools.combinations(ways, count):
            sums = _sums(series, list(zip(*some, strict=True)))
            groups = len(sums)
            if groups < 2:
                raise ArgumentError(f"{function}: all rows are of one cluster; there must be two at least.")
            scale = groups / (groups - 1) if adjust else 1.0
            total = total - (-1.0) ** count * scale * (sums.mT @ sums)
    return total


def _sums(series: Tensor, labels: Sequence[Any]) -> Tensor:
    numbers: dict[Any, int] = {}
    index = [numbers.setdefault(label, len(numbers)) for label in labels]
    sums = series.new_zeros(len(numbers), series.shape[1])
    return sums.index_add(0, torch.tensor(index, dtype=torch.long, device=series.device), series)
